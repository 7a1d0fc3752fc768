"""What a run's problems are chosen by, found or made before it: the part of the dataset, its order, its columns."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

import numpy as np

from gainrl_ray.actors.resources import Share
from gainrl_ray.config import Config
from gainrl_ray.config_curricula import CustomConfig
from gainrl_ray.config_node import Node
from gainrl_ray.config_signals import SignalName
from gainrl_ray.curricula.base import Column, Signal
from gainrl_ray.curricula.custom import load_strategy
from gainrl_ray.curricula.registry import strategy_class
from gainrl_ray.data.external_order import read_order
from gainrl_ray.data.orders import keep_order, sorted_places
from gainrl_ray.data.parts import best_rows, describe, known_labels, part_size, random_rows
from gainrl_ray.data.problem_table import ProblemTable
from gainrl_ray.data.prompts import PromptBuilder
from gainrl_ray.data.signal_store import seconds_of
from gainrl_ray.data.stored_array import StoredArray
from gainrl_ray.errors import ConfigError, DataError
from gainrl_ray.scoring import ensure_index, ensure_order, fingerprint, scoring_seconds, scoring_shares
from gainrl_ray.signals import ensure_signal
from gainrl_ray.storage import Storage

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What a strategy is given, by row of the training problems; opened where the strategy runs."""

    order: StoredArray | range
    columns: Mapping[Column, StoredArray]


def ensure_part(
    config: Config, table: ProblemTable, prompts: PromptBuilder, run: Storage, *, started: bool, say: Say = print
) -> ProblemTable:
    """The problems of the whole dataset `table` that the run is trained on; `data.fraction` and `data.keep` say which.

    run: the run's folder, which keeps the rows; when it is `started` they are taken from there. A signal to keep
    by is found or computed, with Ray connected.

    Raises:
        GainrlError: no such part, or what finding or computing the signal raises.
    """
    data, size = config.data, part_size(config.data, len(table))
    if data.fraction == 1 and data.keep is None:
        return table
    settings = [table.digest, config.run.seed, data.fraction, data.keep, data.keep_by]
    name = f"rows-{hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]}.npy"
    if not (started and run.exists(name)):
        rows = random_rows(data, len(table), config.run.seed)
        if data.keep is not None:
            rows = best_rows(data, rows, _values(config, table, rows, prompts, say), table)
        with run.create(name) as path:
            np.save(path, rows, allow_pickle=False)
    say(f"train: {size:,} of these {len(table):,} problems: {describe(data, config.run.seed)}")
    return table.part(run.map_array(name))


def _values(config: Config, table: ProblemTable, rows: np.ndarray, prompts: PromptBuilder, say: Say) -> np.ndarray:
    """[len(rows)] what `data.keep_by` names, of rows of the whole dataset."""
    keep_by = config.data.keep_by
    assert keep_by is not None
    if keep_by == "label":
        return known_labels(table, rows)
    if keep_by != "angle":
        return ensure_signal(config, table, prompts, keep_by, say).open()[rows]
    index = ensure_index(config, table, fingerprint(config, table, prompts), say)
    values = np.empty(len(table))
    values[index.rows] = index.values(config.scoring)
    return values[rows]


def shares_beside_engines(config: Config, table: ProblemTable, prompts: PromptBuilder) -> tuple[Share, ...] | None:
    """What making the inputs will ask the cluster for; None when they have to be there before the engines start.

    That is so of what needs engines itself, and of what is read from files: it takes no time, and may be wrong.
    """
    strategy = strategy_class(config.curriculum)
    if not strategy.needs and strategy.signal in ("none", "length"):
        return ()
    if strategy.needs or strategy.signal != "angle":
        return None
    return scoring_shares(config, fingerprint(config, table, prompts)) or None


def ensure_inputs(config: Config, table: ProblemTable, prompts: PromptBuilder, say: Say = print) -> Inputs:
    """The order and the columns that `config.curriculum` needs, over the rows of `table`.

    Scores and signals are of the whole dataset behind `table`, and kept beside them. Ray must be connected when
    they are to be computed.

    Raises:
        GainrlError: anything that the user can mend, with what was received and what to do.
    """
    strategy = strategy_class(config.curriculum)
    settings = load_strategy(config.curriculum)[1] if isinstance(config.curriculum, CustomConfig) else config.curriculum
    make = _Maker(config, settings, table, prompts, say)
    columns: dict[Column, StoredArray] = {name: make.column(name) for name in strategy.needs}
    return Inputs(order=make.order(strategy.signal, columns), columns=columns)


def signal_seconds(config: Config, table: ProblemTable, prompts: PromptBuilder) -> float:
    """Seconds that computing what the run's problems are chosen by took, whenever it was; all of it is there.

    A signal counts once, whatever it is used for; lengths, labels and orders from files cost nothing here.
    """
    strategy = strategy_class(config.curriculum)
    difficulty = getattr(config.curriculum, "difficulty", "pass_rate")
    of_difficulty = "pass_rate" if difficulty == "pass_rate" else None
    of_column = {"embedding": "embedding", "difficulty": of_difficulty}
    of_order = {"angle": "angle", "pass_rate": "pass_rate", "difficulty": of_difficulty}
    keep_by = config.data.keep_by if config.data.keep is not None else None
    used = {keep_by, of_order.get(strategy.signal), *(of_column[name] for name in strategy.needs)}
    seconds = scoring_seconds(config, fingerprint(config, table, prompts)) if "angle" in used else 0.0
    for name in get_args(SignalName):
        if name in used:
            stored = ensure_signal(config, table.whole, prompts, name, lambda _: None)
            seconds += seconds_of(stored)
    return seconds


@dataclass(frozen=True, slots=True)
class _Maker:
    """Finds or makes one input after the other."""

    config: Config
    settings: Node  # the strategy's own
    table: ProblemTable
    prompts: PromptBuilder
    say: Say

    def order(self, signal: Signal, columns: Mapping[Column, StoredArray]) -> StoredArray | range:
        """The rows of the table, sorted by what a strategy calls its `signal`; `columns` are those it needs."""
        config, table = self.config, self.table
        if signal == "none":
            return range(len(table))
        if signal == "length":
            return table.length_order(descending=self._setting("descending", False))
        if signal == "angle":
            wanted = fingerprint(config, table, self.prompts)
            return ensure_order(config, table, wanted, self.say, self._setting("signal", "angle"))
        if signal == "external":
            path = self._setting("path", "")
            if not path:
                raise ConfigError("a strategy whose signal is external takes an order from a file: give it a path")
            rows = read_order(path, self._setting("key", None), table)
            name = f"order-external-{hashlib.sha256(rows.tobytes()).hexdigest()[:16]}.npy"
            return table.keep_order(table.folder, name, lambda: rows)
        if signal == "difficulty":
            values = columns.get("difficulty") or self.column("difficulty")
            ids = table.columns["problem_id"]
            name = table.file_name("order-easiest-first.npy")
            make = partial(sorted_places, values.open(), ids, descending=False)
            return keep_order(values.folder, name, len(table), make)
        rates, ids = self._signal("pass_rate"), table.whole.columns["problem_id"]
        name = "order-highest-first.npy"
        return table.keep_order(rates.folder, name, partial(sorted_places, rates.open(), ids, descending=True))

    def column(self, name: Column) -> StoredArray:
        """A value or vector of each row of the table."""
        if name == "embedding":
            whole = self._signal("embedding")
            if self.table is self.table.whole:
                return whole
            return self._kept(whole.folder, whole.name, lambda: whole.open()[self.table.rows])
        if self._setting("difficulty", "pass_rate") == "label":
            return self._kept(self.table.folder, "difficulty.npy", self._label_difficulty)
        rates = self._signal("pass_rate")
        return self._kept(rates.folder, "difficulty.npy", lambda: 1.0 - rates.open()[np.asarray(self.table.rows)])

    def _label_difficulty(self) -> np.ndarray:
        """[N] labels, the lowest as 0, the highest as 1."""
        labels = known_labels(self.table, range(len(self.table)))
        low, high = labels.min(), labels.max()
        if low == high:
            raise DataError(
                f"all {len(labels)} problems have the difficulty label {low:g}: a curriculum by labels needs different "
                "ones; use curriculum.difficulty=pass_rate"
            )
        return (labels - low) / (high - low)

    def _signal(self, name: SignalName) -> StoredArray:
        return ensure_signal(self.config, self.table.whole, self.prompts, name, self.say)

    def _kept(self, folder: Storage, name: str, make: Callable[[], np.ndarray]) -> StoredArray:
        """An array over the table's rows, made where it is not there yet."""
        name = self.table.file_name(name)
        if not folder.exists(name):
            with folder.create(name) as path:
                np.save(path, make(), allow_pickle=False)
        return StoredArray(folder=folder, name=name)

    def _setting(self, name: str, default: Any) -> Any:
        """One of the strategy's settings; the default where it has none of that name."""
        return getattr(self.settings, name, default)
