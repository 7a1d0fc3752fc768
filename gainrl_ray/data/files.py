"""Rows of local or remote .jsonl, .json and .parquet files, gzipped or not, and of folders of them."""

import gzip
import hashlib
import io
import itertools
import json
import logging
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any, BinaryIO, Literal, cast

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from gainrl_ray.config import SourceConfig
from gainrl_ray.data.rows import RawRow, require_columns, used_columns
from gainrl_ray.errors import DataError
from gainrl_ray.storage import Storage

logger = logging.getLogger(__name__)

SUFFIXES = (".jsonl", ".json", ".parquet")
_BOM = b"\xef\xbb\xbf"
_CHUNK_BYTES = 1 << 20
_BATCH_ROWS = 1024
_HEAD_ROWS = 100  # rows of a JSON file that are looked at before a column counts as unknown
_BROKEN = (OSError, EOFError, zlib.error, pa.ArrowException)  # OSError covers gzip.BadGzipFile


def format_of(name: str) -> str | None:
    """The suffix among SUFFIXES that a file name has, `.gz` aside; None for other files."""
    suffix = PurePosixPath(name.lower().removesuffix(".gz")).suffix
    return suffix if suffix in SUFFIXES else None


class FileSource:
    """The rows of one file, or of all files below a folder in the order of their names."""

    def __init__(self, config: SourceConfig) -> None:
        """Find the files.

        Raises:
            DataError: no such file or folder, or none with one of the suffixes.
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
        """The rows; a .json array is held in memory as text, every other file is read piece by piece."""
        for name, path in self._files.items():
            with _reading(name), self._open(path) as stored:
                stream = cast(BinaryIO, gzip.GzipFile(fileobj=stored)) if name.lower().endswith(".gz") else stored
                kind = format_of(name)
                if kind == ".parquet":  # its footer comes first, so a gzipped one is unpacked as a whole
                    yield from self._parquet_rows(name, stored if stream is stored else io.BytesIO(stream.read()))
                elif kind == ".json":
                    content = stream.read()
                    is_array = content.removeprefix(_BOM).lstrip()[:1] == b"["
                    rows = _array(name, content) if is_array else _lines(name, io.BytesIO(content))
                    yield from self._checked(name, rows)
                else:
                    yield from self._checked(name, _lines(name, io.BufferedReader(cast(Any, stream), _CHUNK_BYTES)))

    def _find(self) -> dict[str, str]:
        """Name in messages -> path in the file system."""
        filesystem, root = self._storage.filesystem, self._storage.path
        with _reading(self._config.path):
            kind = filesystem.get_file_info(root).type
            if kind == pyarrow.fs.FileType.File:
                if format_of(root) is None:
                    raise DataError(f"data file {self._config.path!r} is of no known kind: accepted are {_accepted()}")
                return {PurePosixPath(root).name: root}
            if kind == pyarrow.fs.FileType.NotFound:
                raise DataError(f"data file or folder {self._config.path!r} does not exist: check the path")
            selector = pyarrow.fs.FileSelector(root, recursive=True)
            infos = [info for info in filesystem.get_file_info(selector) if info.type == pyarrow.fs.FileType.File]
        names = {str(PurePosixPath(info.path).relative_to(root)): info.path for info in infos}
        found = {name: names[name] for name in sorted(names) if format_of(name) and not _hidden(name)}
        if not found:
            raise DataError(f"folder {self._config.path!r} holds no data file: accepted are {_accepted()}")
        if others := sorted(set(names) - set(found)):
            logger.warning("%s: %d files are no data files: %s", self._config.path, len(others), ", ".join(others[:5]))
        return found

    def _open(self, path: str) -> BinaryIO:
        """A seekable stream of the file's bytes as stored."""
        return cast(BinaryIO, self._storage.filesystem.open_input_file(path))

    def _checked(self, name: str, rows: Iterator[RawRow]) -> Iterator[RawRow]:
        """The same rows; raises DataError when a column of the config is in none of the first readable ones."""
        head = list(itertools.islice(rows, _HEAD_ROWS))
        readable = [row for row in head if not row.fault]
        if readable:
            require_columns(self._config, (column for row in readable for column in row.values), name)
        yield from itertools.chain(head, rows)

    def _parquet_rows(self, name: str, stream: BinaryIO) -> Iterator[RawRow]:
        with pq.ParquetFile(stream) as file:
            require_columns(self._config, file.schema_arrow.names, name)
            columns = used_columns(self._config, file.schema_arrow.names)
            numbers = itertools.count(1)
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=columns):
                lists = [_values(batch.column(column)) for column in columns]
                for values in zip(*lists, strict=True):
                    yield RawRow(source=name, number=next(numbers), values=dict(zip(columns, values, strict=True)))


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


def _lines(name: str, stream: Any) -> Iterator[RawRow]:
    """Rows of JSON lines; blank lines are none."""
    for number, raw in enumerate(stream, start=1):
        line = raw.removeprefix(_BOM) if number == 1 else raw
        if line.strip():
            yield _line(name, number, line)


def _line(name: str, number: int, line: bytes) -> RawRow:
    try:
        value = json.loads(line.decode())
    except UnicodeDecodeError as error:
        fault, detail = "not UTF-8", f"byte {error.start} of the line is not UTF-8"
    except (ValueError, RecursionError) as error:
        fault, detail = "invalid JSON", f"the line is not JSON: {error}"
    else:
        return _row(name, number, "line", value)
    return RawRow(source=name, number=number, unit="line", fault=fault, detail=detail)


def _row(name: str, number: int, unit: Literal["line", "row"], value: Any) -> RawRow:
    if isinstance(value, dict):
        return RawRow(source=name, number=number, unit=unit, values=value)
    fault, detail = "not a JSON object", f"the {unit} is a JSON {type(value).__name__}, not an object"
    return RawRow(source=name, number=number, unit=unit, fault=fault, detail=detail)


def _array(name: str, content: bytes) -> Iterator[RawRow]:
    """Rows of a JSON array of objects, decoded one at a time. Raises DataError at the first syntax error."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{name} line {line}: byte {error.start} of the file is not UTF-8: convert the file") from error
    decoder, numbers = json.JSONDecoder(), itertools.count(1)
    position = _skip_space(text, text.index("[") + 1)
    while text[position : position + 1] != "]":
        try:
            value, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{name} row {next(numbers)}: the array is not JSON ({error}): mend the file") from error
        yield _row(name, next(numbers), "row", value)
        position = _skip_space(text, position)
        if text[position : position + 1] == ",":
            position = _skip_space(text, position + 1)
        elif text[position : position + 1] != "]":
            raise DataError(f"{name}: no ',' or ']' after row {next(numbers) - 1} of the array: mend the file")


def _skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position


def _values(column: pa.Array) -> list[Any]:
    """The column as Python values; as bytes when some text is not UTF-8."""
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        return column.cast(pa.large_binary()).to_pylist()


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "_")) for part in PurePosixPath(name).parts)


def _accepted() -> str:
    return ", ".join(SUFFIXES) + ", each also with .gz"
