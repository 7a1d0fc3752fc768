"""A folder of runs, indexes or data, local or behind a URI (s3://, gs://, hdfs://), behind one interface."""

import os
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from gainrl_ray.errors import DataError


class Storage:
    """A folder; names inside it use forward slashes. It pickles, so that actors on other nodes open the same one."""

    def __init__(self, uri: str) -> None:
        """`uri` is a path, made absolute, or a URI that pyarrow's file systems know.

        Raises:
            DataError: the URI's scheme is unknown or its file system cannot be set up.
        """
        if "://" not in uri:
            uri = str(Path(uri).expanduser().absolute())
        self.uri = uri.rstrip("/") or "/"
        try:
            self.filesystem, self.path = pyarrow.fs.FileSystem.from_uri(self.uri)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DataError(
                f"storage {uri!r} cannot be opened ({error}): give a folder, or a URI such as s3://bucket/folder"
            ) from error

    def __reduce__(self) -> tuple[type["Storage"], tuple[str]]:
        return Storage, (self.uri,)

    @property
    def is_local(self) -> bool:
        """Whether the folder is on this machine's file system."""
        return isinstance(self.filesystem, pyarrow.fs.LocalFileSystem)

    def child(self, *parts: str) -> "Storage":
        """The folder of that name below this one; it need not exist."""
        return Storage("/".join([self.uri, *parts]))

    def exists(self, name: str = "") -> bool:
        """Whether a file or folder of that name is there."""
        return self.filesystem.get_file_info(self._path(name)).type is not pyarrow.fs.FileType.NotFound

    def read_text(self, name: str) -> str:
        """The UTF-8 text of a file.

        Raises:
            DataError: there is no such file, or it is not UTF-8.
        """
        try:
            with self.filesystem.open_input_stream(self._path(name)) as stream:
                return stream.read().decode()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{self.uri}/{name} cannot be read: {error}") from error

    def write_text(self, name: str, text: str) -> None:
        """Write a file whole: on a local disk a reader sees the old text or the new one, never half of it."""
        if self.is_local:
            self._replace_local(name, lambda path: Path(path).write_text(text, encoding="utf-8"))
            return
        with self.filesystem.open_output_stream(self._path(name)) as stream:
            stream.write(text.encode())

    def read_table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """A parquet file, memory-mapped where it is local.

        Raises:
            DataError: there is no such file, or it is not parquet with these columns.
        """
        try:
            return pq.read_table(self._path(name), columns=columns, filesystem=self.filesystem, memory_map=True)
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{self.uri}/{name} cannot be read as parquet: {error}") from error

    def write_table(self, name: str, table: pa.Table) -> None:
        """Write a parquet file whole, as `write_text` does."""
        if self.is_local:
            self._replace_local(name, lambda path: pq.write_table(table, path))
        else:
            pq.write_table(table, self._path(name), filesystem=self.filesystem)

    def list(self, name: str = "") -> list[str]:
        """Sorted names of what is in a folder; none when it is not there."""
        selector = pyarrow.fs.FileSelector(self._path(name), allow_not_found=True)
        return sorted(info.base_name for info in self.filesystem.get_file_info(selector))

    def delete(self, name: str) -> None:
        """Delete a file or a folder with all in it; nothing happens when it is not there."""
        kind = self.filesystem.get_file_info(self._path(name)).type
        if kind is pyarrow.fs.FileType.Directory:
            self.filesystem.delete_dir(self._path(name))
        elif kind is pyarrow.fs.FileType.File:
            self.filesystem.delete_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self.path}/{name}" if name else self.path

    def _replace_local(self, name: str, write) -> None:
        target = Path(self._path(name))
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        os.close(handle)
        try:
            write(temporary)
            os.replace(temporary, target)
        except BaseException:
            os.unlink(temporary)
            raise
