"""Folders of a run, its indexes and datasets, on a local disk or behind a URI, by one interface."""

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from gainrl_ray.errors import DataError

_TRIAL = ".write-trial"
_UNFINISHED = ".unfinished-"  # start of the names of files that are being written


class Storage:
    """One folder. Names are relative, with `/` between their parts; a folder comes into being with its first file.

    Files appear whole or not at all: locally by renaming, elsewhere by uploading a finished file.
    """

    def __init__(self, uri: str) -> None:
        """Open a folder, which need not exist.

        Args:
            uri: a local path, made absolute, or a URI of a file system that pyarrow knows (file, s3, gs, hdfs, ...).

        Raises:
            DataError: a URI that pyarrow cannot open, or an empty one.
        """
        if not uri:
            raise DataError("storage '' names no folder: give a path or a URI such as s3://bucket/folder")
        if "://" not in uri:
            uri = os.path.abspath(os.path.expanduser(uri))
        try:
            filesystem, path = pyarrow.fs.FileSystem.from_uri(uri)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DataError(
                f"storage {uri!r} cannot be opened ({_brief(error)}): give a local path or a URI such as "
                "file:///folder, s3://bucket/folder or gs://bucket/folder"
            ) from error
        self._set(uri.rstrip("/") or "/", filesystem, path.rstrip("/") or "/")

    def _set(self, uri: str, filesystem: pyarrow.fs.FileSystem, path: str) -> None:
        self.uri = uri
        """The folder as given, local paths absolute."""
        self.filesystem = filesystem
        """The pyarrow file system."""
        self.path = path
        """The folder within `filesystem`; of a local one, its absolute path."""

    def __repr__(self) -> str:
        return f"Storage({self.uri!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Storage, (self.uri,)

    @property
    def is_local(self) -> bool:
        """Whether the folder is on this machine's file system."""
        return isinstance(self.filesystem, pyarrow.fs.LocalFileSystem)

    def check_writable(self) -> None:
        """Nothing, and nothing is left; raises DataError when no file can be written here."""
        made = not self.exists()
        self.write_text(_TRIAL, "")
        self.delete(_TRIAL)
        if made and self.is_local:
            os.rmdir(self.path)

    @property
    def free_bytes(self) -> int | None:
        """Free space of the disk that a local folder is on, or would be; None of another file system."""
        if not self.is_local:
            return None
        path = Path(self.path)
        return shutil.disk_usage(next(folder for folder in (path, *path.parents) if folder.exists())).free

    def child(self, *parts: str) -> "Storage":
        """A folder below this one."""
        name = _joined(*parts)
        child = object.__new__(Storage)
        child._set(_joined_to(self.uri, name), self.filesystem, _joined_to(self.path, name))
        return child

    def exists(self, name: str = "") -> bool:
        """Whether there is a file or folder of that name; without a name, whether this folder exists."""
        with self._naming(name):
            return self.filesystem.get_file_info(self._at(name)).type != pyarrow.fs.FileType.NotFound

    def stamp(self, name: str) -> str:
        """Size and time of the last change of a file; a file that has not changed keeps its stamp."""
        with self._naming(name):
            info = self.filesystem.get_file_info(self._at(name))
            return f"{info.size}-{info.mtime_ns}"

    def list(self, name: str = "") -> list[str]:
        """Names of the files and folders directly below a folder, sorted; none when there is no such folder."""
        with self._naming(name):
            selector = pyarrow.fs.FileSelector(self._at(name), allow_not_found=True)
            names = [info.base_name for info in self.filesystem.get_file_info(selector)]
        return sorted(name for name in names if not name.startswith(_UNFINISHED))

    def delete(self, name: str) -> None:
        """Remove a file, or a folder with all below it; nothing happens when there is none."""
        with self._naming(name):
            kind = self.filesystem.get_file_info(self._at(name)).type
            if kind == pyarrow.fs.FileType.Directory:
                self.filesystem.delete_dir(self._at(name))
            elif kind != pyarrow.fs.FileType.NotFound:
                self.filesystem.delete_file(self._at(name))

    def read_text(self, name: str) -> str:
        """The text of a UTF-8 file."""
        with self._naming(name):
            return self.read_bytes(name).decode()

    def read_bytes(self, name: str) -> bytes:
        """The bytes of a file."""
        with self._naming(name), self.filesystem.open_input_stream(self._at(name), compression=None) as stream:
            return stream.read()

    def write_text(self, name: str, text: str) -> None:
        """Write or replace a UTF-8 file."""
        with self._naming(name), self.create(name) as path:
            path.write_text(text, encoding="utf-8", newline="")

    def read_table(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """A parquet file, or some of its columns."""
        with self._naming(name), self.open_parquet(name) as file:
            return file.read(columns=list(columns) if columns is not None else None)

    def write_table(self, name: str, table: pa.Table) -> None:
        """Write or replace a parquet file."""
        with self._naming(name), self.create(name) as path:
            pq.write_table(table, path)

    def open_parquet(self, name: str) -> pq.ParquetFile:
        """A parquet file, for reading by parts; memory-mapped when local."""
        with self._naming(name):
            if self.is_local:
                return pq.ParquetFile(self._at(name), memory_map=True)
            return pq.ParquetFile(self._at(name), filesystem=self.filesystem)

    def map_table(self, name: str) -> pa.Table:
        """An Arrow IPC file, memory-mapped: only what is used of it is read. Of a remote one, a local copy is."""
        with self._naming(name), self._local(name) as path:
            return pa.ipc.open_file(pa.memory_map(str(path))).read_all()

    def map_array(self, name: str) -> np.ndarray:
        """The array of an .npy file, memory-mapped and read-only. Of a remote one, a local copy is."""
        with self._naming(name), self._local(name) as path:
            try:
                return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
            except (ValueError, EOFError) as error:
                raise OSError(str(error)) from error

    @contextmanager
    def _local(self, name: str) -> Iterator[Path]:
        """The path of a local file, or of a copy whose name goes with the block; mappings of it stay valid."""
        if self.is_local:
            yield Path(self._at(name))
            return
        with tempfile.TemporaryDirectory(prefix="gainrl-", ignore_cleanup_errors=True) as folder:
            copy, local = Path(folder) / PurePosixPath(name).name, pyarrow.fs.LocalFileSystem()
            pyarrow.fs.copy_files(
                self._at(name), str(copy), source_filesystem=self.filesystem, destination_filesystem=local
            )
            yield copy

    @contextmanager
    def create(self, name: str) -> Iterator[Path]:
        """A local path to write to; it becomes the file of that name when the block ends well, else it goes."""
        if not self.is_local:
            with tempfile.TemporaryDirectory(prefix="gainrl-", ignore_cleanup_errors=True) as folder:
                unfinished = Path(folder) / PurePosixPath(name).name
                yield unfinished
                self.upload(unfinished, name)
            return
        target = Path(self._at(name))
        unfinished = target.parent / f"{_UNFINISHED}{uuid.uuid4().hex}-{target.name}"
        with self._naming(name):
            target.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield unfinished
            with self._naming(name):
                os.replace(unfinished, target)
        finally:
            unfinished.unlink(missing_ok=True)

    def upload(self, source: Path, name: str) -> None:
        """Copy a local file, or a folder with all below it, to this name, over what is there."""
        target = self._at(name)
        local = pyarrow.fs.LocalFileSystem()
        with self._naming(name):
            self.filesystem.create_dir(str(PurePosixPath(target).parent), recursive=True)
            pyarrow.fs.copy_files(str(source), target, source_filesystem=local, destination_filesystem=self.filesystem)

    def _at(self, name: str) -> str:
        return _joined_to(self.path, _joined(name)) if name else self.path

    @contextmanager
    def _naming(self, name: str) -> Iterator[None]:
        """Turn what file systems raise into DataError that names the file."""
        try:
            yield
        except FileNotFoundError as error:
            raise DataError(f"{_joined_to(self.uri, name)} does not exist: check the path") from error
        except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
            raise DataError(
                f"{_joined_to(self.uri, name)} cannot be read or written ({_brief(error)}): check that it is whole, "
                "that there is space, and the rights to it"
            ) from error


def _joined(*parts: str) -> str:
    """Relative names put together. Raises DataError for one that leaves its folder."""
    name = PurePosixPath(*parts)
    if name.is_absolute() or ".." in name.parts or not name.parts:
        raise DataError(f"{'/'.join(parts)!r} is no name below a storage folder: use relative names without '..'")
    return str(name)


def _joined_to(folder: str, name: str) -> str:
    """The name below a path or a URI, whose query (`?endpoint_override=...`) stays at its end."""
    folder, mark, query = folder.partition("?") if "://" in folder else (folder, "", "")
    return (f"{folder.rstrip('/')}/{name}" if name else folder) + mark + query


def _brief(error: Exception) -> str:
    """Type and first line of an error."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
