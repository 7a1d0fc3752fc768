"""Lent memory is read where it lies, by as many as come, and leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gainrl_ray.actors.lent_memory import SHARED_MEMORY, LentMemory, opened

READER = """
import json, sys
from gainrl_ray.actors.lent_memory import opened
handle, size = json.loads(sys.argv[1]), int(sys.argv[2])
print(bytes(opened(handle, size)).hex())
"""
OWNER = """
import ctypes, json, sys, time
from gainrl_ray.actors.lent_memory import LentMemory
if sys.argv[1] == "hardened":
    PR_SET_DUMPABLE = 4
    assert ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0
with LentMemory(4) as memory:
    memory.write(1, memoryview(b"ab"))
    print(json.dumps(memory.handle), flush=True)
    sys.stdin.readline()
"""


def left_behind() -> set[Path]:
    return set(Path(SHARED_MEMORY).glob("gainrl-*"))


def test_many_processes_read_what_was_written() -> None:
    with LentMemory(8) as memory:
        memory.write(0, memoryview(b"\x01\x02"))
        memory.write(5, memoryview(b"\x03"))
        memory.write(7, memoryview(b""))
        command = [sys.executable, "-c", READER, json.dumps(memory.handle), "8"]
        readers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        assert [reader.communicate(timeout=30.0)[0].strip() for reader in readers] == ["0102000000030000"] * 2


def test_who_has_opened_it_keeps_it() -> None:
    with LentMemory(3) as memory:
        memory.write(0, memoryview(b"abc"))
        view = memoryview(opened(memory.handle, 3))
        handle = memory.handle
    assert bytes(view) == b"abc"
    with pytest.raises(OSError):
        opened(handle, 3)


def test_memory_for_nothing_can_be_lent() -> None:
    with LentMemory(0) as memory:
        assert len(opened(memory.handle, 0)) == 1, "nothing cannot be mapped"


@pytest.mark.parametrize("kind", ["plain", "hardened"])
def test_nothing_is_left(kind: str) -> None:
    before = left_behind()
    command = [sys.executable, "-c", OWNER, kind]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        handle = json.loads(owner.stdout.readline())
        assert bytes(opened(handle, 4)) == b"\0ab\0"
        assert handle["path"].startswith(SHARED_MEMORY) == (kind == "hardened")
        if kind == "hardened":
            owner.communicate("end\n", timeout=30.0)
        else:
            os.kill(owner.pid, signal.SIGKILL)
    assert left_behind() <= before
