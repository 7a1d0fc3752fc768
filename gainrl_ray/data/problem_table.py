"""Checked problems on disk, by row: read as they are used, all of a dataset or chosen ones."""

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from gainrl_ray.data.chat import question_key
from gainrl_ray.data.orders import keep_order, keep_rows, order_within, sorted_places
from gainrl_ray.data.problem_columns import ProblemIds, open_columns
from gainrl_ray.data.prompts import PromptBuilder
from gainrl_ray.data.stored_array import StoredArray
from gainrl_ray.errors import DataError
from gainrl_ray.storage import Storage
from gainrl_ray.types import Problem, Prompt

PROBLEMS_FILE = "problems.parquet"
BAD_ROWS_FILE = "bad_rows.jsonl"
REPORT_FILE = "report.json"

_CACHED_GROUPS = 64  # row groups of about a thousand rows that a table keeps decoded: all of 65,000 rows


@dataclass(frozen=True, slots=True, kw_only=True)
class RowReport:
    """What became of a dataset's rows; rows_read = kept + the sum of bad."""

    path: str
    rows_read: int
    kept: int
    bad: dict[str, int]  # reason -> rows
    examples: tuple[str, ...]  # the first bad rows, with file and line
    bad_rows: str  # where all of them are listed; "" without any
    notes: tuple[str, ...] = ()  # what else is worth knowing: columns found, questions that repeat, rows beyond a limit

    def __str__(self) -> str:
        notes = f" ({'; '.join(self.notes)})" if self.notes else ""
        if not self.bad:
            return f"{self.kept:,} problems of {self.path}{notes}"
        left_out = f"left out: {self.reasons} ({self.bad_rows})"
        return f"{self.kept:,} of {self.rows_read:,} rows of {self.path}{notes}, {left_out}"

    @property
    def reasons(self) -> str:
        """The reasons with their counts, most frequent first."""
        counts = sorted(self.bad.items(), key=lambda item: (-item[1], item[0]))
        return ", ".join(f"{count} {reason}" for reason, count in counts)


class ProblemTable:
    """Checked problems by row 0..N-1, all of a dataset or chosen ones, read as they are used. Crosses processes."""

    def __init__(
        self, folder: Storage, prompts: PromptBuilder, report: RowReport, digest: str, chosen: StoredArray | None = None
    ) -> None:
        self.folder = folder
        """Of the whole dataset."""
        self._prompts = prompts
        self.report = report
        """Of the whole dataset."""
        self.digest = digest
        """Hex sha256 of ids, questions, answers and sources of the whole dataset in row order."""
        self._file = folder.open_parquet(PROBLEMS_FILE)
        groups = [self._file.metadata.row_group(group).num_rows for group in range(self._file.metadata.num_row_groups)]
        self._starts = np.concatenate([[0], np.cumsum(groups, dtype=np.int64)])
        self._cache: OrderedDict[int, pa.Table] = OrderedDict()
        self._lock = threading.Lock()
        self._chosen = chosen
        self._rows = range(report.kept) if chosen is None else chosen.open()
        self.ids = ProblemIds(folder, chosen)
        """[N] text, memory-mapped."""
        if len(self.ids) != len(self._rows):
            raise DataError(f"{self.path} has {len(self.ids)} rows, its report says {report.kept}: delete {folder.uri}")

    @classmethod
    def open(cls, folder: Storage, prompts: PromptBuilder, chosen: StoredArray | None = None) -> "ProblemTable":
        """The table in a folder that prepare_problems wrote; the dataset's sources are not needed.

        Raises:
            DataError: there is none, or it is not whole.
        """
        try:
            stored = json.loads(folder.read_text(REPORT_FILE))
            digest = stored.pop("digest")
            bad_rows = folder.child(BAD_ROWS_FILE).uri if stored["bad"] else ""
            stored |= {name: tuple(stored[name]) for name in ("examples", "notes")}
            report = RowReport(**stored, bad_rows=bad_rows)
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(
                f"{folder.child(REPORT_FILE).uri} is not a report of this version: delete the folder"
            ) from error
        return cls(folder, prompts, report, digest, chosen)

    def __reduce__(self) -> tuple[Any, ...]:
        return ProblemTable.open, (self.folder, self._prompts, self._chosen)

    def __len__(self) -> int:
        return len(self._rows)

    def part(self, rows: np.ndarray) -> "ProblemTable":
        """A table of some rows of this whole one, as its rows 0..M-1; rows: [M] integers, rising, at least one.

        What it says of the whole dataset stays: `whole`, `folder`, `report`, `digest`, `path`.
        """
        assert self._chosen is None, "parts are of a whole dataset"
        return ProblemTable(
            self.folder, self._prompts, self.report, self.digest, keep_rows(self.folder, rows, len(self))
        )

    @property
    def whole(self) -> "ProblemTable":
        """The table of the whole dataset, which scores and signals are of."""
        if self._chosen is None:
            return self
        return ProblemTable(self.folder, self._prompts, self.report, self.digest)

    @property
    def rows(self) -> np.ndarray | range:
        """[N] rows of the whole dataset that are this table's, rising; memory-mapped."""
        return self._rows

    @property
    def path(self) -> str:
        """Path or URI of the whole dataset's canonical parquet: row, problem_id, question, answer, source, ..."""
        return self.folder.child(PROBLEMS_FILE).uri

    @property
    def columns(self) -> pa.Table:
        """problem_id, prompt_tokens (int64, tokens of the prompt) and difficulty (float64, its label, NaN without one)
        of all rows; memory-mapped where the table is whole."""
        columns = open_columns(self.folder)
        return columns if self._chosen is None else columns.take(pa.array(self._rows))

    def labels(self) -> np.ndarray | None:
        """[N] float64 difficulty labels, higher the harder, NaN for a row without one; None when no row has one."""
        values = open_columns(self.folder)["difficulty"].to_numpy()
        values = values if self._chosen is None else values[self._rows]
        return None if np.isnan(values).all() else values

    def keep_order(self, folder: Storage, name: str, make: Callable[[], np.ndarray]) -> StoredArray:
        """The order `name` of this table's rows in a folder; of a part, made from that of the whole dataset.

        `make` gives the order of the whole dataset when it is not there yet.
        Raises: DataError when it is no order of the rows.
        """
        order = keep_order(folder, name, self.report.kept, make)
        if self._chosen is None:
            return order
        rows = np.asarray(self._rows)
        return keep_order(folder, self.file_name(name), len(self), lambda: order_within(order.open(), rows))

    def file_name(self, name: str) -> str:
        """`name`, of an .npy file about the whole dataset's rows, as it is for a file about this table's."""
        return name if self._chosen is None else f"{name.removesuffix('.npy')}-of-{self._chosen.name}"

    def length_order(self, *, descending: bool) -> StoredArray:
        """Rows by rising (or falling) prompt tokens, kept beside the problems; equal lengths in the order of ids."""

        def make() -> np.ndarray:
            columns = open_columns(self.folder)
            return sorted_places(columns["prompt_tokens"], columns["problem_id"], descending=descending)

        return self.keep_order(self.folder, f"order-{'longest' if descending else 'shortest'}-first.npy", make)

    def problem(self, row: int) -> Problem:
        """The problem of a row. Raises IndexError for a row outside 0..N-1."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of a table of {len(self)} problems: use 0..{len(self) - 1}")
        place = int(self._rows[row])
        group = int(np.searchsorted(self._starts, place, side="right")) - 1
        values = self._group(group).slice(place - int(self._starts[group]), 1).to_pylist()[0]
        return Problem(
            id=values["problem_id"],
            question=values["question"],
            answer=values["answer"],
            source=values["source"],
            turns=values["turns"],
        )

    def question_keys(self) -> Iterator[str]:
        """The `question_key` of all problems of the whole dataset, row by row."""
        for batch in self._file.iter_batches(columns=["turns", "question"]):
            yield from map(question_key, *(batch.column(name).to_pylist() for name in ("turns", "question")))

    def prompt(self, row: int) -> Prompt:
        """The prompt of a row's problem, tokenised now. Raises IndexError for a row outside 0..N-1."""
        return self._prompts.build(self.problem(row))

    def _group(self, group: int) -> pa.Table:
        """A decoded row group, from the cache when it was used lately."""
        with self._lock:
            if group not in self._cache:
                columns = ["problem_id", "question", "answer", "source", "turns"]
                self._cache[group] = self._file.read_row_group(group, columns=columns)
                if len(self._cache) > _CACHED_GROUPS:
                    self._cache.popitem(last=False)
            self._cache.move_to_end(group)
            return self._cache[group]
