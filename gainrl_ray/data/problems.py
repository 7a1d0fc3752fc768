"""Datasets to canonical problems: every row is checked once, kept in one parquet file, and read from there."""

import hashlib
import itertools
import json
import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gainrl_ray.config import SourceConfig
from gainrl_ray.data.checks import BadRow, RowChecker
from gainrl_ray.data.prompts import PromptBuilder, RefusedPrompt
from gainrl_ray.data.rows import RawRow, Source
from gainrl_ray.data.sources import open_source
from gainrl_ray.errors import DataError
from gainrl_ray.storage import Storage
from gainrl_ray.types import Problem, Prompt

logger = logging.getLogger(__name__)

PROBLEMS_FILE = "problems.parquet"
BAD_ROWS_FILE = "bad_rows.jsonl"
REPORT_FILE = "report.json"
DATASETS = "datasets"

_FORMAT = 1  # of the three files; part of the key under which they are kept
_CHUNK_ROWS = 1024  # rows checked, tokenised and written together: bounds memory
_CACHED_GROUPS = 64  # row groups of _CHUNK_ROWS that a table keeps decoded: all of a dataset of 65,000 rows
_SHOWN_ROWS = 5  # bad rows in an error

_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("problem_id", pa.string()),
        ("question", pa.string()),
        ("answer", pa.string()),
        ("source", pa.string()),
        ("prompt_tokens", pa.int64()),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowReport:
    """What became of a dataset's rows; rows_read = kept + the sum of bad."""

    path: str
    rows_read: int
    kept: int
    bad: dict[str, int]  # reason -> rows
    examples: tuple[str, ...]  # the first bad rows, with file and line
    bad_rows: str  # where all of them are listed; "" without any

    def __str__(self) -> str:
        if not self.bad:
            return f"{self.kept:,} problems of {self.path}"
        return f"{self.kept:,} of {self.rows_read:,} rows of {self.path}, left out: {self.reasons} ({self.bad_rows})"

    @property
    def reasons(self) -> str:
        """The reasons with their counts, most frequent first."""
        counts = sorted(self.bad.items(), key=lambda item: (-item[1], item[0]))
        return ", ".join(f"{count} {reason}" for reason, count in counts)


def prepare_problems(
    config: SourceConfig,
    *,
    prompts: PromptBuilder,
    on_bad_row: Literal["error", "skip"],
    storage: Storage,
    on_progress: Callable[[int], None] = lambda _: None,
) -> "ProblemTable":
    """The checked problems of a dataset, from `storage`'s folder `datasets` when the same inputs were checked before.

    Memory is bounded whatever the dataset's size (a .json array apart). Bad rows are counted, and listed with file and
    line in bad_rows.jsonl beside the problems. `on_progress` is given the number of rows checked so far, every
    thousand rows.

    Raises:
        DataError: nothing of that name, an unreadable file, an unknown column, no usable row; with `on_bad_row`
            "error", any bad row.
    """
    source = open_source(config)
    folder = storage.child(DATASETS, _key(source, config, prompts))
    if not folder.exists(REPORT_FILE):
        _canonicalise(source, config, prompts, folder, on_progress)
    table = ProblemTable.open(folder, prompts)
    # Equal content under another path was checked before: messages speak of the path at hand.
    report = table.report = replace(table.report, path=config.path)
    if report.bad and (on_bad_row == "error" or not report.kept):
        remedy = "mend them, or leave them out with data.on_bad_row=skip" if report.kept else "mend them"
        raise DataError(
            f"{sum(report.bad.values())} of {report.rows_read} rows of {report.path} cannot be used ({report.reasons}):"
            f"\n  " + "\n  ".join(report.examples) + f"\nall of them: {report.bad_rows}; {remedy}"
        )
    if not report.kept:
        raise DataError(f"{report.path} holds no rows: give a dataset with problems")
    if report.bad:
        logger.warning("%s", report)
    return table


class ProblemIds(Sequence[str]):
    """Problem ids by row, in Arrow memory; numpy sees an array of text."""

    def __init__(self, column: pa.Array) -> None:
        self._column = column

    def __len__(self) -> int:
        return len(self._column)

    def __getitem__(self, row: Any) -> Any:
        if isinstance(row, slice):
            return [self[place] for place in range(*row.indices(len(self)))]
        return self._column[int(row)].as_py()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self._column.to_pylist(), dtype=dtype or np.str_)

    @property
    def arrow(self) -> pa.Array:
        """The ids as an Arrow array of strings."""
        return self._column


class ProblemTable:
    """Checked problems, by row 0..N-1; holds ids and prompt lengths, reads the rest from disk. Crosses processes."""

    def __init__(self, folder: Storage, prompts: PromptBuilder, report: RowReport, digest: str) -> None:
        self._folder, self._prompts = folder, prompts
        self.report = report
        self.digest = digest
        """Hex sha256 of ids, questions, answers and sources in row order."""
        self._file = folder.open_parquet(PROBLEMS_FILE)
        groups = [self._file.metadata.row_group(group).num_rows for group in range(self._file.metadata.num_row_groups)]
        self._starts = np.concatenate([[0], np.cumsum(groups, dtype=np.int64)])
        self._cache: OrderedDict[int, pa.Table] = OrderedDict()
        self._lock = threading.Lock()
        columns = self._file.read(columns=["problem_id", "prompt_tokens"])
        self.ids = ProblemIds(_one_chunk(columns["problem_id"]))
        self.prompt_tokens: np.ndarray = columns["prompt_tokens"].to_numpy()
        """[N] int64, tokens of each prompt."""
        if len(self.ids) != report.kept:
            raise DataError(f"{self.path} has {len(self.ids)} rows, its report says {report.kept}: delete {folder.uri}")

    @classmethod
    def open(cls, folder: Storage, prompts: PromptBuilder) -> "ProblemTable":
        """The table in a folder that prepare_problems wrote; the dataset's sources are not needed.

        Raises:
            DataError: there is none, or it is not whole.
        """
        try:
            stored = json.loads(folder.read_text(REPORT_FILE))
            digest = stored.pop("digest")
            bad_rows = folder.child(BAD_ROWS_FILE).uri if stored["bad"] else ""
            report = RowReport(**(stored | {"examples": tuple(stored["examples"])}), bad_rows=bad_rows)
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(
                f"{folder.child(REPORT_FILE).uri} is not a report of this version: delete the folder"
            ) from error
        return cls(folder, prompts, report, digest)

    def __reduce__(self) -> tuple[Any, ...]:
        return ProblemTable.open, (self._folder, self._prompts)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def path(self) -> str:
        """Path or URI of the canonical parquet: row, problem_id, question, answer, source, prompt_tokens."""
        return self._folder.child(PROBLEMS_FILE).uri

    def problem(self, row: int) -> Problem:
        """The problem of a row. Raises IndexError for a row outside 0..N-1."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of a table of {len(self)} problems: use 0..{len(self) - 1}")
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        values = self._group(group).slice(row - int(self._starts[group]), 1).to_pylist()[0]
        return Problem(
            id=values["problem_id"], question=values["question"], answer=values["answer"], source=values["source"]
        )

    def prompt(self, row: int) -> Prompt:
        """The prompt of a row's problem, tokenised now. Raises IndexError for a row outside 0..N-1."""
        return self._prompts.build(self.problem(row))

    def _group(self, group: int) -> pa.Table:
        """A decoded row group, from the cache when it was used lately."""
        with self._lock:
            if group not in self._cache:
                self._cache[group] = self._file.read_row_group(
                    group, columns=["problem_id", "question", "answer", "source"]
                )
                if len(self._cache) > _CACHED_GROUPS:
                    self._cache.popitem(last=False)
            self._cache.move_to_end(group)
            return self._cache[group]


def _key(source: Source, config: SourceConfig, prompts: PromptBuilder) -> str:
    """Hex sha256 of all that the canonical problems depend on."""
    inputs = [_FORMAT, source.digest(), config.model_dump(mode="json", exclude={"path"}), prompts.digest]
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def _canonicalise(
    source: Source, config: SourceConfig, prompts: PromptBuilder, folder: Storage, on_progress: Callable[[int], None]
) -> None:
    """Check all rows and write problems, bad rows and, last, the report."""
    checker, content = RowChecker(config), hashlib.sha256()
    bad: Counter[str] = Counter()
    examples: list[str] = []
    kept = 0
    with (
        folder.create(PROBLEMS_FILE) as problems_path,
        folder.create(BAD_ROWS_FILE) as bad_path,
        pq.ParquetWriter(problems_path, _SCHEMA) as writer,
        bad_path.open("w", encoding="utf-8") as bad_file,
    ):
        for rows in _chunks(itertools.islice(source.rows(), config.limit)):
            good, refused = _checked(rows, checker, prompts)
            for item in refused:
                bad_file.write(json.dumps(asdict(item), ensure_ascii=False) + "\n")
            bad.update(item.reason for item in refused)
            examples += [str(item) for item in refused[: _SHOWN_ROWS - len(examples)]]
            for problem, _ in good:
                content.update(json.dumps([problem.id, problem.question, problem.answer, problem.source]).encode())
            if good:
                writer.write_table(_table(good, kept))
            kept += len(good)
            on_progress(kept + sum(bad.values()))
    if not bad:
        folder.delete(BAD_ROWS_FILE)
    report = {
        "path": config.path,
        "rows_read": kept + sum(bad.values()),
        "kept": kept,
        "bad": bad,
        "examples": examples,
        "digest": content.hexdigest(),
    }
    folder.write_text(REPORT_FILE, json.dumps(report, indent=1))


def _checked(
    rows: list[RawRow], checker: RowChecker, prompts: PromptBuilder
) -> tuple[list[tuple[Problem, Prompt]], list[BadRow]]:
    """The problems with their prompts, and the rows that are none, both in their order."""
    checked = checker.check(rows)
    built = iter(prompts.build_all([item for item in checked if isinstance(item, Problem)]))
    good: list[tuple[Problem, Prompt]] = []
    bad: list[BadRow] = []
    for row, item in zip(rows, checked, strict=True):
        prompt = next(built) if isinstance(item, Problem) else None
        if isinstance(item, BadRow):
            bad.append(item)
        elif isinstance(prompt, RefusedPrompt):
            bad.append(BadRow(row.place, prompt.reason, prompt.detail))
        elif prompt is not None:
            good.append((item, prompt))
    return good, bad


def _table(good: list[tuple[Problem, Prompt]], first_row: int) -> pa.Table:
    return pa.table(
        {
            "row": np.arange(first_row, first_row + len(good)),
            "problem_id": [problem.id for problem, _ in good],
            "question": [problem.question for problem, _ in good],
            "answer": [problem.answer for problem, _ in good],
            "source": [problem.source for problem, _ in good],
            "prompt_tokens": [len(prompt.token_ids) for _, prompt in good],
        },
        schema=_SCHEMA,
    )


def _chunks(rows: Iterator[RawRow]) -> Iterator[list[RawRow]]:
    while chunk := list(itertools.islice(rows, _CHUNK_ROWS)):
        yield chunk


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    """The column as one array with 64-bit offsets, so that its text may exceed 2 GiB."""
    return column.cast(pa.large_string()).combine_chunks()
