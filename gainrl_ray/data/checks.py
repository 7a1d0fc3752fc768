"""Which rows of a dataset are problems: every other one is named with its place and the reason."""

import decimal
import hashlib
import math
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from gainrl_ray.config import SourceConfig
from gainrl_ray.data.chat import question_key, split_chat
from gainrl_ray.data.columns import value_at
from gainrl_ray.data.rows import RawRow
from gainrl_ray.types import Problem

_LAST_LINE = re.compile(r"(?:\A|\n)[ \t]*####[ \t]*(\S[^\n]*)\Z")  # where GSM8K has its answers
_LEVEL = re.compile(r"level\s*(\d+|\?)", re.IGNORECASE)


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
        self._pattern = re.compile(config.answer_pattern) if config.answer_pattern is not None else None
        self._seen, self._questions = SeenIds(), SeenIds()
        self.repeats = 0
        """Problems so far whose question, case and white space aside, stands in an earlier one."""
        self.marked = 0
        """Rows so far whose answer was taken from behind `####`, without a pattern."""

    def check(self, rows: list[RawRow]) -> list[CheckedRow | BadRow]:
        """The problem of each row, or why it is none. Question and answer are without space at their ends."""
        checked = [self._checked(row) for row in rows]
        ids = [item.problem.id for item in checked if isinstance(item, CheckedRow)]
        repeated = iter(self._seen.add(ids))
        checked = [
            BadRow(row.place, "duplicate id", f"the id {item.problem.id!r} stands in an earlier row")
            if isinstance(item, CheckedRow) and next(repeated)
            else item
            for row, item in zip(rows, checked, strict=True)
        ]
        problems = [item.problem for item in checked if isinstance(item, CheckedRow)]
        self.repeats += sum(self._questions.add([question_key(each.turns, each.question) for each in problems]))
        return checked

    def _checked(self, row: RawRow) -> CheckedRow | BadRow:
        try:
            if row.fault:
                raise _Unusable(row.fault, row.detail)
            turns, question = _question(row)
            answer = self._answer(row)
            problem = Problem(id=self._id(row), question=question, answer=answer, source=row.source, turns=turns)
            return CheckedRow(problem, _number(row.values, row.columns.difficulty, "difficulty"))
        except _Unusable as fault:
            return BadRow(row.place, fault.reason, fault.detail)

    def _answer(self, row: RawRow) -> str:
        column = row.columns.answer
        value = value_at(row.values, column)
        if isinstance(value, list) and value and self._config.answer_list == "all":
            return ", ".join(_text(item, column, "answer", numbers=True) for item in value)
        text = _text(value, column, "answer", numbers=True)
        if self._pattern is None:
            found = _LAST_LINE.search(text) if self._config.format in ("auto", "gsm8k") else None
            self.marked += bool(found)
            return found[1].strip() if found else text
        match = self._pattern.search(text)
        answer = (match.group(1) or "").strip() if match else ""
        if not answer:
            raise _Unusable("answer not found", f"answer_pattern {self._pattern.pattern!r} finds none in {column!r}")
        return answer

    def _id(self, row: RawRow) -> str:
        column = row.columns.id
        value = value_at(row.values, column) if column is not None else None
        if column is None or (value is None and not self._config.id_column):
            return f"{row.source}:{row.number}"
        return _text(value, column, "id", numbers=True)


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


def _question(row: RawRow) -> tuple[str, str]:
    """The turns before the question, and the question."""
    column = row.columns.question
    turns, value = "", value_at(row.values, column)
    if isinstance(value, list):
        if (chat := split_chat(value)) is None:
            detail = f"the question in column {column!r} is of type list, not text or a chat with a user turn"
            raise _Unusable("question of wrong type", detail)
        turns, value = chat
    return turns, _text(value, column, "question", numbers=False)


def _text(value: Any, column: str, what: str, *, numbers: bool) -> str:
    """The text of a value without space at its ends; of a finite number too when numbers are accepted."""
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
        is_whole = what == "answer" and isinstance(value, float) and value.is_integer() and abs(value) < 1e15
        value = str(int(value) if is_whole else value)
    if not isinstance(value, str):
        accepted = "text or a number" if numbers else "text"
        kind = type(value).__name__
        hint = "; data.train.answer_list=all takes a list as an answer of several parts" if kind == "list" else ""
        raise _Unusable(
            f"{what} of wrong type",
            f"the {what} in column {column!r} is of type {kind}, not {accepted}" + (hint if what == "answer" else ""),
        )
    text = value.strip()
    if not text:
        raise _Unusable(f"empty {what}", f"the {what} in column {column!r} is empty")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _Unusable("not UTF-8", f"column {column!r} holds half a surrogate pair, which is no character") from error
    return text


def _number(values: dict[str, Any], column: str | None, what: str) -> float:
    """The number of a column, or its text as one, `Level 5` as 5; NaN, as for `Level ?`, where there is none."""
    value = value_at(values, column) if column is not None else None
    if value is None:
        return math.nan
    try:
        level = _LEVEL.fullmatch(value.strip()) if isinstance(value, str) else None
        if level and level[1] == "?":
            return math.nan
        number = math.inf if isinstance(value, bool) else float(level[1] if level else value)
    except (TypeError, ValueError, OverflowError):
        number = math.inf
    if math.isinf(number):
        raise _Unusable(
            f"{what} of wrong type",
            f"the {what} in column {column!r} is {value!r}, not a finite number or a text such as 'Level 5'",
        )
    return number
