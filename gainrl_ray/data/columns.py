"""Which columns of a dataset hold question, answer, id and difficulty: those that are named, else a known format's."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import pyarrow as pa

from gainrl_ray.config import SourceConfig
from gainrl_ray.errors import DataError

DEFAULT_ID_COLUMN = "id"
_SHOWN_COLUMNS = 40
_FORMATS: dict[str, dict[str, tuple[str, ...]]] = {
    "auto": {
        "question": ("problem", "question", "prompt", "messages"),
        "answer": ("answer", "reward_model.ground_truth", "ground_truth", "final_answer", "solution"),
    },
    "gsm8k": {"question": ("question",), "answer": ("answer",)},
    "math": {"question": ("problem",), "answer": ("answer", "solution"), "difficulty": ("level",)},
    "trl": {"question": ("prompt", "messages"), "answer": ("answer", "solution", "ground_truth")},
    "verl": {"question": ("prompt",), "answer": ("reward_model.ground_truth",)},
}
"""`data.train.format` -> the columns that are looked for, the first found is taken; a difficulty may be missing."""


class Columns(NamedTuple):
    """Names of columns; with dots, of what is nested in them."""

    question: str = "problem"
    answer: str = "answer"
    id: str | None = DEFAULT_ID_COLUMN  # None: rows are numbered
    difficulty: str | None = None

    def roots(self, available: Iterable[str]) -> list[str]:
        """The available top-level columns that hold any of these."""
        wanted = {name for column in filter(None, self) for name in (column, column.partition(".")[0])}
        return [column for column in available if column in wanted]


USUAL_COLUMNS = Columns()


def choose_columns(config: SourceConfig, available: Iterable[str], where: str) -> Columns:
    """The columns of a table that has the `available` ones, nested ones as dotted names.

    Raises DataError, with the nearest column, when one that is named or needed is not there.
    """
    there = list(dict.fromkeys(available))
    chosen: dict[str, str | None] = {"id": DEFAULT_ID_COLUMN if config.id_column is None else config.id_column or None}
    for what in ("question", "answer", "difficulty"):
        candidates = _FORMATS[config.format].get(what, ())
        named = getattr(config, f"{what}_column")
        chosen[what] = named or next((column for column in candidates if column in there), None)
        if chosen[what] is None and what != "difficulty":
            looked = f"that holds the {what} (data.train.format={config.format} looks for {', '.join(candidates)})"
            raise _missing(looked, f"{what}_column", candidates[0], there, where)
    for what in ("question", "answer", "id", "difficulty"):
        if (named := getattr(config, f"{what}_column")) and named not in there:
            raise _missing(repr(named), f"{what}_column", named, there, where)
    return Columns(**chosen)  # pyright: ignore[reportArgumentType]


def names_in(values: Mapping[str, Any] | pa.Schema | pa.StructType) -> Iterator[str]:
    """The names of a row's or a schema's columns, and the dotted ones of what is nested in them."""
    pairs = values.items() if isinstance(values, Mapping) else ((item.name, item.type) for item in values)
    for name, inner in pairs:
        yield name
        if isinstance(inner, Mapping | pa.StructType):
            yield from (f"{name}.{below}" for below in names_in(inner))


def value_at(values: Mapping[str, Any], column: str) -> Any:
    """The value of a column, `reward_model.ground_truth` as that of one or nested in another; None without one."""
    if column in values:
        return values[column]
    outer, _, inner = column.partition(".")
    below = values.get(outer)
    return value_at(below, inner) if inner and isinstance(below, Mapping) else None


def _missing(what: str, setting: str, name: str, there: list[str], where: str) -> DataError:
    near = difflib.get_close_matches(name, there, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    shown = ", ".join(map(repr, there[:_SHOWN_COLUMNS])) + (", ..." if len(there) > _SHOWN_COLUMNS else "")
    return DataError(
        f"{where} has no column {what}; {hint}its columns are {shown or 'none'}: "
        f"set data.train.{setting} or data.heldout.{setting}"
    )
