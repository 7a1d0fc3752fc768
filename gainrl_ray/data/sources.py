"""Which source a path means: the built-in set, files, or a dataset of the Hugging Face hub."""

import hashlib
import itertools
import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from gainrl_ray.config import SourceConfig
from gainrl_ray.data.arithmetic import ArithmeticProblem, Split, generate
from gainrl_ray.data.files import FileSource, format_of
from gainrl_ray.data.rows import (
    ARITHMETIC,
    DEFAULT_ID_COLUMN,
    LEVEL_COLUMN,
    RawRow,
    Source,
    require_columns,
    used_columns,
)
from gainrl_ray.errors import DataError

ARITHMETIC_ROWS = 2000  # when no limit is given
_BATCH_ROWS = 1024


def open_source(config: SourceConfig) -> Source:
    """The dataset that `config.path` names.

    Raises:
        DataError: nothing of that name is there.
    """
    if config.path == ARITHMETIC:
        return ArithmeticSource(config)
    path = Path(config.path).expanduser()
    looks_local = config.path.startswith((".", "/", "~")) or config.path.count("/") > 1 or format_of(config.path)
    if "://" in config.path or path.exists() or looks_local:
        return FileSource(config)
    return HubSource(config)


class ArithmeticSource:
    """The built-in problems."""

    def __init__(self, config: SourceConfig) -> None:
        self._config = config

    def digest(self) -> str:
        """Hex sha256 of the generated problems."""
        return _digest([p.id, p.question, p.answer, p.source] for p in self._problems)

    def rows(self) -> Iterator[RawRow]:
        """The problems under the column names that the config asks for."""
        config = self._config
        for number, problem in enumerate(self._problems, start=1):
            values: dict[str, Any] = {config.difficulty_column or LEVEL_COLUMN: problem.level}
            values |= {config.question_column: problem.question, config.answer_column: problem.answer}
            values[config.id_column or DEFAULT_ID_COLUMN] = problem.id
            yield RawRow(source=problem.source, number=number, values=values)

    @cached_property
    def _problems(self) -> list[ArithmeticProblem]:
        config = self._config
        return generate(
            cast(Split, config.split),
            config.limit or ARITHMETIC_ROWS,
            min_level=config.min_level,
            max_level=config.max_level,
        )


class HubSource:
    """A split of a dataset of the Hugging Face hub, through the `datasets` library and its cache."""

    def __init__(self, config: SourceConfig) -> None:
        self._config = config

    def digest(self) -> str:
        """Hex sha256 of the columns that are read."""
        return _digest(row.values for row in self.rows())

    def rows(self) -> Iterator[RawRow]:
        """The rows; the library maps its cache into memory."""
        name = f"{self._config.path}:{self._config.split}"
        require_columns(self._config, self._dataset.column_names, name)
        columns = used_columns(self._config, self._dataset.column_names)
        numbers = itertools.count(1)
        for batch in self._dataset.select_columns(columns).iter(batch_size=_BATCH_ROWS):
            for values in zip(*(batch[column] for column in columns), strict=True):
                yield RawRow(source=name, number=next(numbers), values=dict(zip(columns, values, strict=True)))

    @cached_property
    def _dataset(self) -> Any:
        import datasets

        config = self._config
        try:
            return datasets.load_dataset(config.path, config.subset, split=config.split)
        except Exception as error:  # the library raises what its file systems and the hub's client raise
            lines = str(error).strip().splitlines()
            raise DataError(
                f"data path {config.path!r} is no file or folder here, and as a hub dataset (subset {config.subset!r}, "
                f"split {config.split!r}) it does not load ({type(error).__name__}: {lines[0] if lines else ''}): "
                f"check the name, the subset and the split, log in with HF_TOKEN if it is gated, or give the path of "
                "a local file"
            ) from error


def _digest(values: Any) -> str:
    digest = hashlib.sha256()
    for value in values:
        digest.update(json.dumps(value, default=str).encode() + b"\n")
    return digest.hexdigest()
