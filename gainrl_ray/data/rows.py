"""Raw rows of a dataset, as its files hold them, each with the place where it stands."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from gainrl_ray.data.columns import USUAL_COLUMNS, Columns

ARITHMETIC = "arithmetic"  # path of the built-in set


@dataclass(frozen=True, slots=True, kw_only=True)
class RawRow:
    """One row before any check of its values."""

    source: str  # file name, hub dataset and split, or level of the built-in set
    number: int  # of the line or row, from 1
    unit: Literal["line", "row"] = "row"
    values: dict[str, Any] = field(default_factory=dict)  # column -> value; empty when there is a fault
    columns: Columns = USUAL_COLUMNS
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
