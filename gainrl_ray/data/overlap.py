"""Whether the held-out problems are new: another dataset than arithmetic's, and other questions than those trained."""

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
    held = [*heldout.question_keys()]
    both = set(held).intersection(train.question_keys())
    rows = [row for row, key in enumerate(held) if key in both]
    if not rows:
        return ""
    ids = ", ".join(heldout.whole.ids[row] for row in rows[:_SHOWN_IDS])
    return (
        f"{len(rows):,} of {len(held):,} held-out questions are in data.train too, so that held-out accuracy says "
        f"little of new problems: {ids}{', ...' if len(rows) > _SHOWN_IDS else ''}"
    )
