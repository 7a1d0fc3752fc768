"""A process ends with the one that started it, also when that one ended before the kernel was told."""

import os
import signal
import subprocess
import sys
import time

import pytest
from processes import is_running

from gainrl_ray.actors.process_control import files_can_be_opened

PARENT = """
import os, sys, time
from gainrl_ray.actors.process_control import die_with
parent = os.getpid()
child = os.fork()
if child == 0:
    while sys.argv[1] == "late" and os.getppid() == parent:
        time.sleep(0.01)
    die_with(parent)
    time.sleep(60)
    os._exit(0)
print(child, flush=True)
time.sleep(60)
"""
LIMIT_S = 10.0


@pytest.mark.parametrize("told", ["in time", "late"])
def test_a_process_ends_with_its_parent(told: str) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, told], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        time.sleep(0.2)
        assert is_running(child)
        os.kill(parent.pid, signal.SIGKILL)
    deadline = time.monotonic() + LIMIT_S
    while is_running(child):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_process_without_hardening_can_be_looked_into() -> None:
    assert files_can_be_opened()
