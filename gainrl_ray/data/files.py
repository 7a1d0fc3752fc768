"""Rows of local or remote data files, gzipped or not, and of folders of them."""

import gzip
import hashlib
import io
import itertools
import json
import logging
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from gainrl_ray.config import SourceConfig
from gainrl_ray.data.columns import choose_columns, names_in
from gainrl_ray.data.folders import README, chosen_split, files_of_split, refuse_loops, refuse_subset
from gainrl_ray.data.rows import RawRow
from gainrl_ray.data.text_rows import csv_rows, json_rows, refuse_utf16
from gainrl_ray.errors import DataError
from gainrl_ray.storage import Storage

logger = logging.getLogger(__name__)

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
_CHUNK_BYTES = 1 << 20
_BATCH_ROWS = 1024
_HEAD_ROWS = 100  # rows of a text file that are looked at before a column counts as unknown
_BROKEN = (OSError, EOFError, zlib.error, pa.ArrowException)  # OSError covers gzip.BadGzipFile


def format_of(name: str) -> str | None:
    """The suffix among SUFFIXES that a file name has, `.gz` aside; None for other files."""
    suffix = PurePosixPath(name.lower().removesuffix(".gz")).suffix
    return suffix if suffix in SUFFIXES else None


class FileSource:
    """The rows of one file, or of a folder's files of one split in the order of their names."""

    def __init__(self, config: SourceConfig) -> None:
        """Find the files.

        Raises:
            DataError: no such file or folder, none with one of the suffixes, or a split or subset that is not there.
        """
        self._config = config
        self._storage = Storage(config.path)
        self._files = self._find()

    def digest(self) -> str:
        """Hex sha256 of the files' names and bytes as stored."""
        digest = hashlib.sha256()
        for name, path in self._files.items():
            digest.update(json.dumps(name).encode())
            content = hashlib.sha256()
            with _reading(name), self._open(path) as stream:
                while chunk := stream.read(_CHUNK_BYTES):
                    content.update(chunk)
            digest.update(content.digest())
        return digest.hexdigest()

    def rows(self) -> Iterator[RawRow]:
        """The rows; a JSON document is held in memory as text, every other file is read piece by piece."""
        for name, path in self._files.items():
            with _reading(name), self._open(path) as stored:
                stream = cast(BinaryIO, gzip.GzipFile(fileobj=stored)) if name.lower().endswith(".gz") else stored
                kind = format_of(name)
                if kind == ".parquet":  # its footer comes first, so a gzipped one is unpacked as a whole
                    yield from self._parquet_rows(name, stored if stream is stored else io.BytesIO(stream.read()))
                    continue
                text = io.BufferedReader(cast(Any, stream), _CHUNK_BYTES)
                refuse_utf16(name, text)
                if kind in (".csv", ".tsv"):
                    yield from self._with_columns(name, csv_rows(name, text, "\t" if kind == ".tsv" else None))
                else:
                    yield from self._with_columns(name, json_rows(name, text))

    def _find(self) -> dict[str, str]:
        """Name in messages -> path in the file system."""
        config, filesystem, root = self._config, self._storage.filesystem, self._storage.path
        with _reading(config.path):
            kind = filesystem.get_file_info(root).type
            if kind == pyarrow.fs.FileType.File:
                if format_of(root) is None:
                    raise DataError(f"data file {config.path!r} is of no known kind: accepted are {_accepted()}")
                refuse_subset(config)
                chosen_split(config, ["train"], f"file {config.path!r}")
                return {PurePosixPath(root).name: root}
            if kind == pyarrow.fs.FileType.NotFound:
                raise DataError(f"data file or folder {config.path!r} does not exist: check the path")
            if self._storage.is_local:
                refuse_loops(root)
            selector = pyarrow.fs.FileSelector(root, recursive=True)
            infos = [info for info in filesystem.get_file_info(selector) if info.type == pyarrow.fs.FileType.File]
        names = {str(PurePosixPath(info.path).relative_to(root)): info.path for info in infos}
        if not any(format_of(name) for name in names):
            raise DataError(f"folder {config.path!r} holds no data file: accepted are {_accepted()}")
        found, others = files_of_split(names, lambda: self._storage.read_text(README), config)
        if unknown := [name for name in found if not format_of(name)]:
            raise DataError(
                f"folder {config.path!r} is read for {unknown[0]!r} and its like: accepted are {_accepted()}"
            )
        if others:
            logger.warning("%s: %d files are of no split: %s", config.path, len(others), ", ".join(others[:5]))
        return {name: names[name] for name in found}

    def _open(self, path: str) -> BinaryIO:
        """A seekable stream of the file's bytes as stored."""
        return cast(BinaryIO, self._storage.filesystem.open_input_file(path))

    def _with_columns(self, name: str, rows: Iterator[RawRow]) -> Iterator[RawRow]:
        """The same rows; raises DataError when a column that is needed is in none of the first readable ones."""
        for first in rows:
            if first.fault:
                yield first
                continue
            head = [first, *itertools.islice(rows, _HEAD_ROWS - 1)]
            available = (column for row in head for column in names_in(row.values))
            columns = choose_columns(self._config, available, name)
            yield from (replace(row, columns=columns) for row in itertools.chain(head, rows))

    def _parquet_rows(self, name: str, stream: BinaryIO) -> Iterator[RawRow]:
        with pq.ParquetFile(stream) as file:
            schema = file.schema_arrow
            columns = choose_columns(self._config, names_in(schema), name)
            read = columns.roots(schema.names)
            numbers = itertools.count(1)
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=read):
                lists = [_values(batch.column(column)) for column in read]
                for values in zip(*lists, strict=True):
                    values = dict(zip(read, values, strict=True))
                    yield RawRow(source=name, number=next(numbers), values=values, columns=columns)


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Turn what broken files raise into DataError with the file's name."""
    try:
        yield
    except _BROKEN as error:
        raise DataError(
            f"{name} cannot be read to its end ({type(error).__name__}: {error}): it is broken, cut short or out of "
            "reach"
        ) from error


def _values(column: pa.Array) -> list[Any]:
    """The column as Python values; as bytes when some text is not UTF-8."""
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        return column.cast(pa.large_binary()).to_pylist()


def _accepted() -> str:
    return ", ".join(SUFFIXES) + ", each also with .gz"
