"""Datasets to canonical problems: every row is checked once, kept in one parquet file, and read from there."""

import hashlib
import itertools
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gainrl_ray.config import SourceConfig
from gainrl_ray.data.checks import BadRow, CheckedRow, RowChecker
from gainrl_ray.data.columns import USUAL_COLUMNS, Columns
from gainrl_ray.data.problem_columns import write_columns
from gainrl_ray.data.problem_table import BAD_ROWS_FILE, PROBLEMS_FILE, REPORT_FILE, ProblemTable, RowReport
from gainrl_ray.data.prompts import PromptBuilder, RefusedPrompt
from gainrl_ray.data.rows import RawRow, Source
from gainrl_ray.data.sources import open_source
from gainrl_ray.errors import DataError
from gainrl_ray.storage import Storage
from gainrl_ray.types import Prompt

logger = logging.getLogger(__name__)

DATASETS = "datasets"

_FORMAT = 4  # of the four files; part of the key under which they are kept
_CHUNK_ROWS = 1024  # rows checked, tokenised and written together: bounds memory
_SHOWN_ROWS = 5  # bad rows in an error

_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("problem_id", pa.string()),
        ("question", pa.string()),
        ("answer", pa.string()),
        ("source", pa.string()),
        ("prompt_tokens", pa.int64()),
        ("difficulty", pa.float64()),
        ("turns", pa.string()),
    ]
)


def prepare_problems(
    config: SourceConfig,
    *,
    prompts: PromptBuilder,
    on_bad_row: Literal["error", "skip"],
    storage: Storage,
    on_progress: Callable[[int], None] = lambda _: None,
) -> ProblemTable:
    """The checked problems of a dataset, from `storage`'s folder `datasets` when the same inputs were checked before.

    Memory is bounded whatever the dataset's size (JSON documents apart). Bad rows are counted, and listed with file and
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
    count = sum(report.bad.values())
    if report.bad and (on_bad_row == "error" or not report.kept):
        skip = f", or leave out {'that one' if count == 1 else f'those {count}'} with data.on_bad_row=skip"
        remedy = f"{_numbering(report)}mend them{skip if report.kept else ''}"
        raise DataError(
            f"{count} of {report.rows_read} rows of {report.path} cannot be used ({report.reasons}):"
            f"\n  " + "\n  ".join(report.examples) + f"\nall of them: {report.bad_rows}; {remedy}"
        )
    if not report.kept:
        raise DataError(f"{report.path} holds no rows: give a dataset with problems")
    if report.bad:
        logger.warning("%s%s", _numbering(report), report)
    return table


def _numbering(report: RowReport) -> str:
    """What to do about ids that are none, with a comma; "" where all are."""
    if not any(reason.endswith(" id") or reason.startswith("id ") for reason in report.bad):
        return ""
    return "take file name and row number for ids with data.train.id_column='' (or data.heldout.id_column=''), "


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
    kept, columns = 0, USUAL_COLUMNS
    with (
        folder.create(PROBLEMS_FILE) as problems_path,
        folder.create(BAD_ROWS_FILE) as bad_path,
        pq.ParquetWriter(problems_path, _SCHEMA) as writer,
        write_columns(folder) as add_columns,
        bad_path.open("w", encoding="utf-8") as bad_file,
    ):
        rows_of_source = source.rows()
        for rows in _chunks(itertools.islice(rows_of_source, config.limit)):
            columns = rows[-1].columns
            good, refused = _checked(rows, checker, prompts)
            for item in refused:
                bad_file.write(json.dumps(asdict(item), ensure_ascii=False) + "\n")
            bad.update(item.reason for item in refused)
            examples += [str(item) for item in refused[: _SHOWN_ROWS - len(examples)]]
            for (problem, _), _ in good:
                values = [problem.id, problem.question, problem.answer, problem.source]
                values += [problem.turns] if problem.turns else []
                content.update(json.dumps(values).encode())
            if good:
                table = _table(good, kept)
                writer.write_table(table)
                add_columns(table)
            kept += len(good)
            on_progress(kept + sum(bad.values()))
        is_cut = config.limit is not None and next(rows_of_source, None) is not None
    if not bad:
        folder.delete(BAD_ROWS_FILE)
    report = {
        "path": config.path,
        "rows_read": kept + sum(bad.values()),
        "kept": kept,
        "bad": bad,
        "examples": examples,
        "notes": _notes(config, columns, checker, is_cut),
        "digest": content.hexdigest(),
    }
    folder.write_text(REPORT_FILE, json.dumps(report, indent=1))


def _notes(config: SourceConfig, columns: Columns, checker: RowChecker, is_cut: bool) -> list[str]:
    """What a person did not say and may not expect."""
    found = [
        f"{what} from column {name!r}"
        for what, name, setting, expected in (
            ("question", columns.question, config.question_column, USUAL_COLUMNS.question),
            ("answer", columns.answer, config.answer_column, USUAL_COLUMNS.answer),
        )
        if setting is None and name != expected
    ]
    if checker.marked:
        found.append(f"{checker.marked:,} answers from behind ####")
    if checker.repeats:
        found.append(f"{checker.repeats:,} repeat an earlier question")
    return [*found, f"its first {config.limit:,} rows, by the limit"] if is_cut else found


def _checked(
    rows: list[RawRow], checker: RowChecker, prompts: PromptBuilder
) -> tuple[list[tuple[CheckedRow, Prompt]], list[BadRow]]:
    """The problems with their prompts, and the rows that are none, both in their order."""
    checked = checker.check(rows)
    built = iter(prompts.build_all([item.problem for item in checked if isinstance(item, CheckedRow)]))
    good: list[tuple[CheckedRow, Prompt]] = []
    bad: list[BadRow] = []
    for row, item in zip(rows, checked, strict=True):
        prompt = next(built) if isinstance(item, CheckedRow) else None
        if isinstance(item, BadRow):
            bad.append(item)
        elif isinstance(prompt, RefusedPrompt):
            bad.append(BadRow(row.place, prompt.reason, prompt.detail))
        elif prompt is not None:
            good.append((item, prompt))
    return good, bad


def _table(good: list[tuple[CheckedRow, Prompt]], first_row: int) -> pa.Table:
    return pa.table(
        {
            "row": np.arange(first_row, first_row + len(good)),
            "problem_id": [row.problem.id for row, _ in good],
            "question": [row.problem.question for row, _ in good],
            "answer": [row.problem.answer for row, _ in good],
            "source": [row.problem.source for row, _ in good],
            "prompt_tokens": [len(prompt.token_ids) for _, prompt in good],
            "difficulty": [row.difficulty for row, _ in good],
            "turns": [row.problem.turns for row, _ in good],
        },
        schema=_SCHEMA,
    )


def _chunks(rows: Iterator[RawRow]) -> Iterator[list[RawRow]]:
    while chunk := list(itertools.islice(rows, _CHUNK_ROWS)):
        yield chunk
