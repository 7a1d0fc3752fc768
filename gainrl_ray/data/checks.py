"""Which rows of a dataset are problems: every other one is named with its place and the reason."""

import decimal
import hashlib
import math
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from gainrl_ray.config import SourceConfig
from gainrl_ray.data.rows import DEFAULT_ID_COLUMN, RawRow, difficulty_column
from gainrl_ray.types import Problem


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that is no problem: `reason` is one of few words for counting, `detail` a sentence."""

    place: str
    reason: str
    detail: str

    def __str__(self) -> str:
        return f"{self.place}: {self.detail}"


class CheckedRow(NamedTuple):
    """A row that is a problem; `difficulty` is its label, NaN without one."""

    problem: Problem
    difficulty: float


class RowChecker:
    """Row to problem; remembers the ids that it has seen."""

    def __init__(self, config: SourceConfig) -> None:
        self._config = config
        self._difficulty_column = difficulty_column(config)
        self._pattern = re.compile(config.answer_pattern) if config.answer_pattern is not None else None
        self._seen = SeenIds()

    def check(self, rows: list[RawRow]) -> list[CheckedRow | BadRow]:
        """The problem of each row, or why it is none. Question and answer are without space at their ends."""
        checked = [self._checked(row) for row in rows]
        ids = [item.problem.id for item in checked if isinstance(item, CheckedRow)]
        repeated = iter(self._seen.add(ids))
        return [
            BadRow(row.place, "duplicate id", f"the id {item.problem.id!r} stands in an earlier row")
            if isinstance(item, CheckedRow) and next(repeated)
            else item
            for row, item in zip(rows, checked, strict=True)
        ]

    def _checked(self, row: RawRow) -> CheckedRow | BadRow:
        config = self._config
        try:
            if row.fault:
                raise _Unusable(row.fault, row.detail)
            question = _text(row.values, config.question_column, "question", numbers=False)
            answer = self._answer(_text(row.values, config.answer_column, "answer", numbers=True))
            problem = Problem(id=self._id(row), question=question, answer=answer, source=row.source)
            return CheckedRow(problem, _number(row.values, self._difficulty_column, "difficulty"))
        except _Unusable as fault:
            return BadRow(row.place, fault.reason, fault.detail)

    def _answer(self, text: str) -> str:
        if self._pattern is None:
            return text
        match = self._pattern.search(text)
        answer = (match.group(1) or "").strip() if match else ""
        if not answer:
            column = self._config.answer_column
            raise _Unusable("answer not found", f"answer_pattern {self._pattern.pattern!r} finds none in {column!r}")
        return answer

    def _id(self, row: RawRow) -> str:
        column = self._config.id_column
        if column is None and row.values.get(DEFAULT_ID_COLUMN) is None:
            return f"{row.source}:{row.number}"
        return _text(row.values, column or DEFAULT_ID_COLUMN, "id", numbers=True)


class SeenIds:
    """Which ids have come before, in 16 bytes an id: a 128-bit hash, in sorted runs that double in length."""

    def __init__(self) -> None:
        self._runs: list[np.ndarray] = []

    def add(self, ids: list[str]) -> list[bool]:
        """Whether each id was seen before, in an earlier call or earlier in this one."""
        joined = b"".join(hashlib.blake2b(text.encode(), digest_size=16).digest() for text in ids)
        keys = np.frombuffer(joined, dtype="S16")
        unique, first = np.unique(keys, return_index=True)
        repeated = np.ones(len(keys), dtype=bool)
        repeated[first] = False
        for run in self._runs:
            place = np.searchsorted(run, keys).clip(max=len(run) - 1)
            repeated |= run[place] == keys
        if len(unique):
            self._runs.append(unique)
        while len(self._runs) > 1 and len(self._runs[-2]) < 2 * len(self._runs[-1]):
            self._runs[-2:] = [np.unique(np.concatenate(self._runs[-2:]))]
        return repeated.tolist()


class _Unusable(Exception):
    """Why a row is no problem."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


def _text(values: dict[str, Any], column: str, what: str, *, numbers: bool) -> str:
    """The text of a column without space at its ends; of a finite number too when numbers are accepted."""
    value = values.get(column)
    if value is None:
        raise _Unusable(f"missing {what}", f"no {what} in column {column!r}")
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError as error:
            raise _Unusable("not UTF-8", f"byte {error.start} of column {column!r} is not UTF-8") from error
    if numbers and isinstance(value, int | float | decimal.Decimal) and not isinstance(value, bool):
        if not isinstance(value, int) and not math.isfinite(value):
            raise _Unusable(f"{what} of wrong type", f"the {what} in column {column!r} is {value}, not finite")
        value = str(value)
    if not isinstance(value, str):
        accepted = "text or a number" if numbers else "text"
        kind = type(value).__name__
        raise _Unusable(f"{what} of wrong type", f"the {what} in column {column!r} is of type {kind}, not {accepted}")
    text = value.strip()
    if not text:
        raise _Unusable(f"empty {what}", f"the {what} in column {column!r} is empty")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _Unusable("not UTF-8", f"column {column!r} holds half a surrogate pair, which is no character") from error
    return text


def _number(values: dict[str, Any], column: str | None, what: str) -> float:
    """The number of a column, or its text as one; NaN where there is none."""
    value = values.get(column) if column is not None else None
    if value is None:
        return math.nan
    try:
        number = math.inf if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.inf
    if math.isinf(number):
        raise _Unusable(f"{what} of wrong type", f"the {what} in column {column!r} is {value!r}, not a finite number")
    return number
