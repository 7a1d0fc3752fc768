"""What a run's problems are chosen by: the part, the order and the columns, against values worked out by hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from gainrl_ray.config import Config
from gainrl_ray.config_node import Node
from gainrl_ray.config_signals import SignalName
from gainrl_ray.curricula.base import Column, Signal
from gainrl_ray.curricula.uniform import UniformStrategy
from gainrl_ray.data.problem_table import ProblemTable
from gainrl_ray.data.problems import prepare_problems
from gainrl_ray.data.prompts import PromptBuilder
from gainrl_ray.data.scored_index import ScoredIndex
from gainrl_ray.data.signal_store import keep_signal
from gainrl_ray.data.stored_array import StoredArray
from gainrl_ray.errors import ConfigError, DataError
from gainrl_ray.model.loading import load_tokenizer
from gainrl_ray.scoring import INDEXES, fingerprint
from gainrl_ray.selection_inputs import Inputs, ensure_inputs, ensure_part, shares_beside_engines
from gainrl_ray.signals import signal_origin
from gainrl_ray.storage import Storage

LABELS = [2, 1, 3, 2, 4, 1, 3, 5]
RATES = [0.5, 0.25, 1.0, 0.75, 0.5, 0.0, 0.25, 0.875]
LIKELIHOODS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
C_INTRA = [0.9, 0.8, 0.1, 0.3, 0.7, 0.2, 0.5, 0.6]
C_INTER = [0.0, 0.5, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]
EMBEDDINGS = np.arange(16, dtype=np.float32).reshape(8, 2)


class OwnOptions(Node):
    path: str = ""
    difficulty: str = "label"


class Own(UniformStrategy):
    """A user's strategy, with settings of its own."""

    signal: ClassVar[Signal] = "external"
    needs: ClassVar[tuple[Column, ...]] = ("difficulty",)
    options: ClassVar[type[Node]] = OwnOptions


class Bench:
    """A dataset of eight problems, and runs on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        rows = [{"id": f"q{k}", "problem": "9" * (k + 1), "answer": 1, "level": LABELS[k]} for k in range(8)]
        (folder / "set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.run = Storage(str(folder / "run"))
        self.said: list[str] = []

    def config(self, curriculum: dict[str, Any] | None = None, **data: Any) -> Config:
        train = {"path": str(self.folder / "set.jsonl"), "difficulty_column": "level", **data.pop("train", {})}
        tree: dict[str, Any] = {"run": {"storage": str(self.folder)}, "data": {"train": train, **data}}
        return Config.model_validate({**tree, "curriculum": curriculum or {"name": "uniform"}})

    def prompts(self, config: Config) -> PromptBuilder:
        return PromptBuilder(load_tokenizer(config.model), config.data.prompt)

    def table(self, config: Config) -> ProblemTable:
        storage = Storage(str(self.folder))
        return prepare_problems(config.data.train, prompts=self.prompts(config), on_bad_row="error", storage=storage)

    def part(self, config: Config, *, started: bool = False) -> ProblemTable:
        return ensure_part(
            config, self.table(config), self.prompts(config), self.run, started=started, say=self.said.append
        )

    def inputs(self, config: Config, rows: list[int] | None = None) -> Inputs:
        table = self.table(config)
        table = table if rows is None else table.part(np.array(rows))
        return ensure_inputs(config, table, self.prompts(config), self.said.append)

    def index(self) -> None:
        """Scores of all problems, as scoring would leave them, in another order than that of the rows."""
        config = self.config()
        table, places = self.table(config), np.array([3, 0, 4, 1, 2, 7, 6, 5])
        wanted = fingerprint(config, table, self.prompts(config))
        ScoredIndex(
            rows=places,
            problem_ids=[table.ids[int(row)] for row in places],
            c_intra=np.array(C_INTRA)[places],
            c_inter=np.array(C_INTER)[places],
            prompt_tokens=np.full(8, 20),
            question_tokens=np.full(8, 10),
            fingerprint=wanted,
        ).save(Storage(str(self.folder)).child(INDEXES, wanted.digest))

    def signal(self, name: SignalName, values: np.ndarray) -> None:
        """Values by row, as computing the signal would leave them."""
        config = self.config()
        table = self.table(config)
        origin = signal_origin(config, table, self.prompts(config), name)
        keep_signal(Storage(str(self.folder)), origin, values, table.ids, seconds=0.0)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """With the scores and signals of all problems."""
    made = Bench(tmp_path)
    made.index()
    values: dict[SignalName, Any] = {"pass_rate": RATES, "gold_likelihood": LIKELIHOODS, "embedding": EMBEDDINGS}
    for signal, of_all in values.items():
        made.signal(signal, np.array(of_all))
    return made


def opened(order: StoredArray | range) -> list[int]:
    return list(order) if isinstance(order, range) else order.open().tolist()


def test_without_a_choice_the_part_is_the_dataset(bench: Bench) -> None:
    config = bench.config()
    assert len(bench.part(config)) == 8 and bench.said == [] and bench.run.list() == []


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        # p(1-p): .25 .1875 0 .1875 .25 0 .1875 .109; ties by id
        ({"keep": "top:3", "keep_by": "pass_rate"}, [0, 1, 4]),
        ({"keep": "bottom:0.25", "keep_by": "pass_rate"}, [2, 5]),
        # mean 0.45: nearest are 0.4 and 0.5
        ({"keep": "top:2", "keep_by": "gold_likelihood"}, [3, 4]),
        ({"keep": "top:3", "keep_by": "label"}, [2, 4, 7]),
        ({"keep": "bottom:2", "keep_by": "label"}, [1, 5]),
        # sums .9 1.3 .2 .4 .8 .3 .6 .7
        ({"keep": "top:0.375", "keep_by": "angle"}, [0, 1, 4]),
    ],
)
def test_the_best_part(data: dict[str, Any], expected: list[int], bench: Bench) -> None:
    part = bench.part(bench.config(**data))
    assert list(part.rows) == expected and list(part.ids) == [f"q{row}" for row in expected]
    assert bench.said[-1] == f"train: {len(expected)} of these 8 problems: {data['keep']} by {data['keep_by']}"


def test_the_best_of_a_random_part(bench: Bench) -> None:
    half = set(bench.part(bench.config(fraction=0.5)).rows)
    assert len(half) == 4
    best = bench.part(bench.config(fraction=0.5, keep="top:1", keep_by="label"))
    assert [LABELS[row] for row in best.rows] == [max(LABELS[row] for row in half)]
    assert bench.said[-1] == "train: 1 of these 8 problems: a random 0.5 (run.seed 0), of these top:1 by label"


def test_a_run_that_goes_on_keeps_its_part(bench: Bench) -> None:
    """Whatever became of the signal; before its first step a run takes what is so now."""
    config = bench.config(keep="top:3", keep_by="gold_likelihood")
    assert list(bench.part(config).rows) == [2, 3, 4]
    bench.signal("gold_likelihood", np.array([*LIKELIHOODS[:7], 0.45]))
    assert list(bench.part(config, started=True).rows) == [2, 3, 4]
    other = bench.config(keep="top:2", keep_by="gold_likelihood")
    assert 7 in bench.part(other, started=True).rows
    assert 7 in bench.part(config).rows


@pytest.mark.parametrize(
    ("curriculum", "whole", "part"),
    [
        ({"name": "uniform"}, [0, 1, 2, 3, 4, 5, 6, 7], [0, 1, 2, 3]),
        ({"name": "length"}, [0, 1, 2, 3, 4, 5, 6, 7], [0, 1, 2, 3]),
        ({"name": "length", "descending": True}, [7, 6, 5, 4, 3, 2, 1, 0], [3, 2, 1, 0]),
        ({"name": "gain"}, [1, 0, 4, 7, 6, 3, 5, 2], [0, 3, 2, 1]),
        ({"name": "gain", "signal": "c_intra"}, [0, 1, 4, 7, 6, 3, 5, 2], [0, 3, 2, 1]),
        ({"name": "gain", "signal": "c_inter"}, [1, 2, 3, 4, 5, 6, 7, 0], [0, 1, 2, 3]),
        ({"name": "pass_rate"}, [2, 7, 3, 0, 4, 1, 6, 5], [1, 3, 0, 2]),
        ({"name": "adarft"}, [2, 7, 3, 0, 4, 1, 6, 5], [1, 3, 0, 2]),
        ({"name": "adarft", "difficulty": "label"}, [1, 5, 0, 3, 2, 6, 4, 7], [0, 2, 1, 3]),
    ],
)
def test_orders_of_the_dataset_and_of_a_part(
    curriculum: dict[str, Any], whole: list[int], part: list[int], bench: Bench
) -> None:
    """The part is of rows 1, 2, 5 and 7, its rows 0 to 3; what was made once is found."""
    config = bench.config(curriculum)
    for _ in range(2):
        assert opened(bench.inputs(config).order) == whole
        assert opened(bench.inputs(config, rows=[1, 2, 5, 7]).order) == part


def test_an_order_from_a_file(bench: Bench) -> None:
    path = bench.folder / "order.json"
    config = bench.config({"name": "external", "path": str(path)})
    path.write_text("[7, 5, 3, 1, 0, 2, 4, 6]")
    assert opened(bench.inputs(config).order) == [7, 5, 3, 1, 0, 2, 4, 6]
    assert opened(bench.inputs(config, rows=[1, 2, 5, 7]).order) == [3, 2, 0, 1]
    path.write_text(json.dumps([f"q{row}" for row in range(8)]))
    assert opened(bench.inputs(config).order) == list(range(8)), "another file of the same name is another order"


def test_a_users_strategy_gets_what_its_options_say(bench: Bench) -> None:
    (bench.folder / "order.json").write_text("[7, 5, 3, 1, 0, 2, 4, 6]")
    custom = {"name": "custom", "strategy": "test_selection_inputs:Own"}
    made = bench.inputs(bench.config(custom | {"options": {"path": f"{bench.folder}/order.json"}}))
    assert opened(made.order) == [7, 5, 3, 1, 0, 2, 4, 6]
    assert made.columns["difficulty"].open().tolist() == [0.25, 0.0, 0.5, 0.25, 0.75, 0.0, 0.5, 1.0]
    with pytest.raises(ConfigError, match="takes an order from a file: give it a path"):
        bench.inputs(bench.config(custom))


@pytest.mark.parametrize(
    ("difficulty", "whole", "part"),
    [
        ("pass_rate", [0.5, 0.75, 0.0, 0.25, 0.5, 1.0, 0.75, 0.125], [0.75, 0.0, 1.0]),
        ("label", [0.25, 0.0, 0.5, 0.25, 0.75, 0.0, 0.5, 1.0], [0.0, 1.0, 0.0]),  # labels 1, 3, 1 of the part
    ],
)
def test_difficulty_is_in_0_to_1(difficulty: str, whole: list[float], part: list[float], bench: Bench) -> None:
    config = bench.config({"name": "adarft", "difficulty": difficulty})
    for _ in range(2):
        assert bench.inputs(config).columns["difficulty"].open().tolist() == whole
        assert bench.inputs(config, rows=[1, 2, 5]).columns["difficulty"].open().tolist() == part


def test_embeddings_by_row(bench: Bench) -> None:
    config = bench.config({"name": "dots"})
    assert bench.inputs(config).columns["embedding"].open().tolist() == EMBEDDINGS.tolist()
    found = bench.inputs(config, rows=[1, 6]).columns["embedding"].open()
    assert found.tolist() == [[2, 3], [12, 13]] and found.dtype == np.float32


def _unlabelled(bench: Bench) -> list[int] | None:
    text = (bench.folder / "set.jsonl").read_text()
    (bench.folder / "set.jsonl").write_text(text.replace('"level": 5', '"level": null').replace(": 4}", ": null}"))
    return None


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (_unlabelled, "2 of 8 problems have no difficulty label: q4, q7; name the column"),
        (lambda bench: [0, 3], "all 2 problems have the difficulty label 2: a curriculum by labels needs different"),
    ],
)
def test_labels_that_say_nothing_are_refused(
    prepare: Callable[[Bench], list[int] | None], message: str, bench: Bench
) -> None:
    config = bench.config({"name": "adarft", "difficulty": "label"})
    with pytest.raises(DataError, match=message):
        bench.inputs(config, prepare(bench))


def test_what_can_be_found_beside_starting_engines(bench: Bench) -> None:
    def shares(curriculum: dict[str, Any], **data: Any) -> list[str] | None:
        config = bench.config(curriculum, **data)
        found = shares_beside_engines(config, bench.table(config), bench.prompts(config))
        return None if found is None else [share.part for share in found]

    for curriculum in ({"name": "length"}, {"name": "uniform"}):
        assert shares(curriculum) == []
    assert shares({"name": "gain"}) is None, "the index is there, and may be wrong"
    assert "scorer" in (shares({"name": "gain"}, train={"limit": 5}) or [])
    for curriculum in ({"name": "pass_rate"}, {"name": "dots"}, {"name": "external", "path": "x.json"}):
        assert shares(curriculum) is None
