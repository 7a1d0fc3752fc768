"""Which source a path means: the built-in set, files, or a dataset that the `datasets` library keeps or fetches."""

import hashlib
import itertools
import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from gainrl_ray.config import SourceConfig
from gainrl_ray.data.arithmetic import ArithmeticProblem, Split, generate
from gainrl_ray.data.columns import Columns, choose_columns, names_in
from gainrl_ray.data.files import FileSource, format_of
from gainrl_ray.data.folders import chosen_split, is_saved, refuse_subset
from gainrl_ray.data.rows import ARITHMETIC, RawRow, Source
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
    if is_saved(path):
        return SavedSource(config)
    if "://" in config.path or path.exists() or looks_local:
        return FileSource(config)
    return HubSource(config)


class ArithmeticSource:
    """The built-in problems."""

    def __init__(self, config: SourceConfig) -> None:
        refuse_subset(config)
        self._config = config

    def digest(self) -> str:
        """Hex sha256 of the generated problems."""
        return _digest([p.id, p.question, p.answer, p.source] for p in self._problems)

    def rows(self) -> Iterator[RawRow]:
        """The problems, their levels as difficulty."""
        columns = Columns(difficulty="level")
        for number, problem in enumerate(self._problems, start=1):
            values = {"id": problem.id, "problem": problem.question, "answer": problem.answer, "level": problem.level}
            yield RawRow(source=problem.source, number=number, values=values, columns=columns)

    @cached_property
    def _problems(self) -> list[ArithmeticProblem]:
        config = self._config
        return generate(
            cast(Split, config.split or config.usual_splits[0]),
            config.limit or ARITHMETIC_ROWS,
            min_level=config.min_level,
            max_level=config.max_level,
        )


class HubSource:
    """A split of a dataset of the Hugging Face hub, through the `datasets` library and its cache."""

    def __init__(self, config: SourceConfig) -> None:
        self._config = config

    def digest(self) -> str:
        """Hex sha256 of the source's name and the columns that are read."""
        return _digest(itertools.chain([self._opened[0]], (row.values for row in self.rows())))

    def rows(self) -> Iterator[RawRow]:
        """The rows; the library maps its cache into memory."""
        name, dataset = self._opened
        names = dataset.column_names
        columns = choose_columns(self._config, names_in(dataset.features.arrow_schema), name)
        read = columns.roots(names)
        numbers = itertools.count(1)
        for batch in dataset.select_columns(read).iter(batch_size=_BATCH_ROWS):
            for values in zip(*(batch[column] for column in read), strict=True):
                values = dict(zip(read, values, strict=True))
                yield RawRow(source=name, number=next(numbers), values=values, columns=columns)

    @cached_property
    def _opened(self) -> tuple[str, Any]:
        """Name of the source in messages, and the dataset."""
        import datasets

        config, splits = self._config, list(self._config.usual_splits)
        split = config.split or splits[0]
        try:
            if config.split is None and len(splits) > 1:
                split = chosen_split(config, datasets.get_dataset_split_names(config.path, config.subset), config.path)
            return f"{config.path}:{split}", datasets.load_dataset(config.path, config.subset, split=split)
        except DataError:
            raise
        except Exception as error:  # the library raises what its file systems and the hub's client raise
            raise DataError(
                f"data path {config.path!r} is no file or folder here, and as a hub dataset (subset {config.subset!r}, "
                f"split {split!r}) it does not load ({_brief(error)}): "
                f"check the name, the subset and the split, log in with HF_TOKEN if it is gated, or give the path of "
                "a local file"
            ) from error


class SavedSource(HubSource):
    """A local folder that `save_to_disk` of the `datasets` library wrote, with splits or without."""

    @cached_property
    def _opened(self) -> tuple[str, Any]:
        import datasets

        config, folder = self._config, Path(self._config.path).expanduser()
        refuse_subset(config)
        try:
            found = datasets.load_from_disk(str(folder))
        except Exception as error:
            raise DataError(f"the save_to_disk folder {config.path!r} does not load ({_brief(error)})") from error
        splits = dict(found) if isinstance(found, datasets.DatasetDict) else {str(found.split or "train"): found}
        split = chosen_split(config, [str(name) for name in splits], f"folder {config.path!r}")
        return (folder.name if len(splits) == 1 else f"{folder.name}/{split}"), splits[split]


def _brief(error: Exception) -> str:
    """Type and first line of an error."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def _digest(values: Any) -> str:
    digest = hashlib.sha256()
    for value in values:
        digest.update(json.dumps(value, default=str).encode() + b"\n")
    return digest.hexdigest()
