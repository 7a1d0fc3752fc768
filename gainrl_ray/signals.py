"""Static signals of problems before training, from the cache or computed now."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gainrl_ray.config import Config
from gainrl_ray.data.problems import ProblemTable
from gainrl_ray.data.prompts import PromptBuilder
from gainrl_ray.data.signal_store import Origin, SignalName, StoredArray, find_signal, keep_signal
from gainrl_ray.scoring import fingerprint
from gainrl_ray.storage import Storage

Say = Callable[[str], None]


def ensure_signal(
    config: Config, table: ProblemTable, prompts: PromptBuilder, signal: SignalName, say: Say = print
) -> StoredArray:
    """The signal of `table`'s problems by row, [N] float64 ([N, embedding_size] float32 of `embedding`).

    Computed now, with Ray connected, when `<storage>/signals` does not hold it; what an interrupted call finished is
    not done again.

    Raises:
        GainrlError: anything that the user can mend, with what was received and what to do.
    """
    storage, definition = Storage(config.run.storage), _DEFINITIONS[signal]
    base = fingerprint(config, table, prompts)
    origin = Origin(
        signal=signal,
        fingerprint=replace(base, signal_version=f"{signal}/{definition.version} {config.model.dtype}"),
        settings=definition.settings(config),
    )
    found = find_signal(storage, origin, len(table))
    if found is not None:
        say(f"{signal} of {len(table):,} problems found; {found.folder.uri}")
        return found
    started = time.monotonic()
    values = definition.compute(_Task(config, table, prompts, origin.folder(storage), say))
    seconds = time.monotonic() - started
    say(f"{signal} of {len(table):,} problems computed in {seconds:.1f} s; {origin.folder(storage).uri}")
    return keep_signal(storage, origin, values, table.ids, seconds)


@dataclass(frozen=True, slots=True)
class _Task:
    """What a signal is computed from, and where its work may stand meanwhile."""

    config: Config
    table: ProblemTable
    prompts: PromptBuilder
    folder: Storage
    say: Say


@dataclass(frozen=True, slots=True)
class _Definition:
    """How a signal is computed, and the settings that it depends on."""

    version: str
    settings: Callable[[Config], dict[str, Any]]
    compute: Callable[[_Task], np.ndarray]


_DEFINITIONS: dict[SignalName, _Definition] = {}
