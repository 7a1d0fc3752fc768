"""Raw rows of a dataset, as its files hold them, each with the place where it stands."""

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from gainrl_ray.config import SourceConfig
from gainrl_ray.errors import DataError

ARITHMETIC = "arithmetic"  # path of the built-in set
DEFAULT_ID_COLUMN = "id"
LEVEL_COLUMN = "level"  # of the built-in set


@dataclass(frozen=True, slots=True, kw_only=True)
class RawRow:
    """One row before any check of its values."""

    source: str  # file name, hub dataset and split, or level of the built-in set
    number: int  # of the line or row, from 1
    unit: Literal["line", "row"] = "row"
    values: dict[str, Any] = field(default_factory=dict)  # column -> value; empty when there is a fault
    fault: str = ""  # a word or three for counting: why the row could not be read
    detail: str = ""

    @property
    def place(self) -> str:
        """Where the row stands, as in "train.jsonl line 17"."""
        return f"{self.source} {self.unit} {self.number}"


class Source(Protocol):
    """A dataset that can be read again and again."""

    def digest(self) -> str:
        """Hex sha256 of the content; files that hold the same rows in other bytes may differ."""
        ...

    def rows(self) -> Iterator[RawRow]:
        """The rows in their order, one at a time. Raises DataError where reading cannot go on."""
        ...


def wanted_columns(config: SourceConfig) -> tuple[str, ...]:
    """The columns that must be there."""
    named = (config.question_column, config.answer_column, config.id_column, config.difficulty_column)
    return tuple(dict.fromkeys(column for column in named if column is not None))


def difficulty_column(config: SourceConfig) -> str | None:
    """The column with the difficulty label; None without one. Of the built-in set it is a problem's level."""
    return config.difficulty_column or (LEVEL_COLUMN if config.path == ARITHMETIC else None)


def used_columns(config: SourceConfig, available: Iterable[str]) -> list[str]:
    """The available columns that are read: those that must be there, and `id`."""
    return [column for column in available if column in (*wanted_columns(config), DEFAULT_ID_COLUMN)]


def require_columns(config: SourceConfig, available: Iterable[str], where: str) -> None:
    """Raise DataError, with the nearest column, unless all columns that the config names are available."""
    columns = list(dict.fromkeys(available))
    for setting in ("question_column", "answer_column", "id_column", "difficulty_column"):
        name = getattr(config, setting)
        if name is None or name in columns:
            continue
        near = difflib.get_close_matches(name, columns, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise DataError(
            f"{where} has no column {name!r}; {hint}its columns are {', '.join(map(repr, columns)) or 'none'}: "
            f"set data.train.{setting} or data.heldout.{setting}"
        )
