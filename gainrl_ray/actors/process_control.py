"""What Linux is told about this process."""

import ctypes
import os
import signal

_PR_SET_PDEATHSIG, _PR_GET_DUMPABLE = 1, 3


def die_with(parent: int) -> None:
    """Have the kernel kill this process when `parent`, the process that started it, has ended; at once when it has.

    What counts is the end of the parent's thread that started this process.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the kernel knew
        os.kill(os.getpid(), signal.SIGKILL)


def files_can_be_opened() -> bool:
    """Whether other processes of this user may open this one's files below /proc; a hardened process forbids it."""
    return _prctl(_PR_GET_DUMPABLE, 0) == 1


def _prctl(option: int, value: int) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0))
    if result < 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}, {value}) failed")
    return result
