"""Prepares small datasets that a test writes."""

import json
from pathlib import Path
from typing import Any

from gainrl_ray.config import SourceConfig
from gainrl_ray.data.problems import ProblemTable, prepare_problems
from gainrl_ray.data.prompts import PromptBuilder
from gainrl_ray.storage import Storage


class Bench:
    """Prepares problems under one storage."""

    def __init__(self, folder: Path, prompts: PromptBuilder) -> None:
        self.folder, self.prompts = folder, prompts
        self.storage = Storage(str(folder / "storage"))

    def prepare(self, path: object, on_bad_row: Any = "error", **fields: Any) -> ProblemTable:
        config = SourceConfig(path=str(path), **fields)
        return prepare_problems(config, prompts=self.prompts, on_bad_row=on_bad_row, storage=self.storage)

    def lines(self, *lines: object, name: str = "set.jsonl") -> Path:
        """A JSON lines file; dicts are written as JSON, bytes and text as they are."""
        encoded = [line if isinstance(line, bytes) else _text(line).encode() for line in lines]
        (self.folder / name).write_bytes(b"".join(line + b"\n" for line in encoded))
        return self.folder / name

    def bad_rows(self, table: ProblemTable) -> list[dict[str, str]]:
        return [json.loads(line) for line in Path(table.report.bad_rows).read_text().splitlines()]


def _text(line: object) -> str:
    return line if isinstance(line, str) else json.dumps(line)


def contents(table: ProblemTable) -> list[tuple[str, str, str]]:
    found = [table.problem(row) for row in range(len(table))]
    return [(problem.id, problem.question, problem.answer) for problem in found]
