"""Memory that a process lends to others of its machine, who open it by a handle of plain values."""

import mmap
import os
import tempfile
import uuid
from types import TracebackType

from gainrl_ray.actors.process_control import files_can_be_opened

Handle = dict[str, str]
SHARED_MEMORY = "/dev/shm"


class LentMemory:
    """Anonymous memory: a file without a name, which is gone with the processes that hold it, however they end.

    Only where this process forbids others to open its files, the memory has a name until it is closed.
    """

    def __init__(self, size: int) -> None:
        """`size`: bytes, all zero, of which only those take memory that are written to."""
        name = f"gainrl-{uuid.uuid4().hex}"
        self._name: str | None = None
        if files_can_be_opened():
            self.file = os.memfd_create(name)
            path = f"/proc/{os.getpid()}/fd/{self.file}"
        else:
            self.file, path = tempfile.mkstemp(prefix=name, dir=SHARED_MEMORY)
            self._name = path
        os.ftruncate(self.file, max(size, 1))  # nothing cannot be mapped
        self.handle: Handle = {"path": path, "file": _name_of(self.file)}
        """What `opened` takes."""

    def __enter__(self) -> "LentMemory":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def write(self, place: int, content: memoryview) -> None:
        """Put `content` at this byte."""
        with open(self.file, "wb", closefd=False) as file:
            file.seek(place)
            file.write(content)

    def close(self) -> None:
        """Take it back; who has opened it keeps it."""
        os.close(self.file)
        if self._name is not None:
            os.unlink(self._name)


def opened(handle: Handle, size: int) -> mmap.mmap:
    """The first `size` bytes of lent memory, to be read; they stay for as long as anything views them.

    Raises OSError, and RuntimeError when it is the memory of another machine.
    """
    with open(handle["path"], "rb") as file:
        if _name_of(file.fileno()) != handle["file"]:
            raise RuntimeError(f"{handle['path']} is another file here: it was lent on another machine")
        return mmap.mmap(file.fileno(), max(size, 1), prot=mmap.PROT_READ)


def _name_of(file: int) -> str:
    return os.readlink(f"/proc/self/fd/{file}")
