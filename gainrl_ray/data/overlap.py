"""Whether the held-out problems are new: another dataset than arithmetic's, and other questions than those trained."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gainrl_ray.config import DataConfig
from gainrl_ray.data.problem_table import ProblemTable
from gainrl_ray.data.rows import ARITHMETIC
from gainrl_ray.errors import ConfigError

_SHOWN_IDS = 3


def check_heldout_is_named(config: DataConfig) -> None:
    """Nothing; raises ConfigError where the data are a user's own and would be measured by arithmetic's problems."""
    if config.train.path != ARITHMETIC and config.heldout.path == ARITHMETIC and config.heldout.split is None:
        raise ConfigError(
            f"data.train.path is {config.train.path!r} and data.heldout.path still arithmetic, whose accuracy would "
            "decide which model is the best: set data.heldout.path to a held-out set of yours (a folder or hub dataset "
            "may be both: its test split is taken), or data.heldout.split=heldout for arithmetic by choice"
        )


def overlap(train: ProblemTable, heldout: ProblemTable) -> str:
    """A sentence on the held-out questions that are, case and white space aside, in training too; "" for none."""
    held = pa.chunked_array([_plain(questions) for questions in heldout.questions()], pa.string())
    found = pa.chunked_array([[False] * len(held)])
    for questions in train.questions():
        trained = pc.call_function("is_in", [held], pc.SetLookupOptions(value_set=_plain(questions)))
        found = pc.call_function("or", [found, trained])
    rows = np.flatnonzero(found.to_numpy())
    if not len(rows):
        return ""
    ids = ", ".join(heldout.whole.ids[int(row)] for row in rows[:_SHOWN_IDS])
    return (
        f"{len(rows):,} of {len(held):,} held-out questions are in data.train too, so that held-out accuracy says "
        f"little of new problems: {ids}{', ...' if len(rows) > _SHOWN_IDS else ''}"
    )


def _plain(questions: pa.Array) -> pa.Array:
    spaced = pc.ReplaceSubstringOptions(pattern=r"\s+", replacement=" ")
    return pc.call_function("replace_substring_regex", [pc.call_function("utf8_lower", [questions])], spaced)
