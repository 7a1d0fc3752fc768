"""Another process reads a bucket where the learner packed it; whoever cannot, or does not, is told of in time."""

import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
import torch
from torch._C._distributed_c10d import TCPStore

from gainrl_ray.actors.shared_memory import LEARNER, SharedMemory

CPU = torch.device("cpu")
MEMBER = """
import sys
from datetime import timedelta
import torch
from torch._C._distributed_c10d import TCPStore
from gainrl_ray.actors.shared_memory import SharedMemory
store = TCPStore("127.0.0.1", int(sys.argv[1]), 2, False, timedelta(seconds=30), use_libuv=False)
member = SharedMemory(store, 1, 2, torch.device("cpu"), 30.0)
buffer = torch.zeros(1 << 20, dtype=torch.uint8)
member.broadcast(buffer)
print(int(buffer.long().sum()), flush=True)
"""


def opened(stall_s: float) -> tuple[SharedMemory, SharedMemory, int, Any]:
    """The learner's end and a member's, both of this process; their store's port and the learner's store."""
    listener = socket.create_server(("127.0.0.1", 0))
    port, limit = listener.getsockname()[1], timedelta(seconds=stall_s)
    stores = [
        TCPStore(
            "127.0.0.1",
            port,
            2,
            rank == LEARNER,
            limit,
            wait_for_workers=False,
            master_listen_fd=listener.detach() if rank == LEARNER else None,
            use_libuv=False,
        )
        for rank in range(2)
    ]
    ends = [SharedMemory(store, rank, 2, CPU, stall_s) for rank, store in enumerate(stores)]
    return ends[0], ends[1], port, stores[0]


def test_another_process_opens_the_buffer() -> None:
    learner, _, port, _ = opened(30.0)
    packed = learner.packing_buffer(1 << 20)
    packed.fill_(3)
    with subprocess.Popen([sys.executable, "-c", MEMBER, str(port)], stdout=subprocess.PIPE, text=True) as member:
        learner.broadcast(packed)
        packed.fill_(9)  # the answer says that the member has its copy
        output, _ = member.communicate(timeout=120.0)
    assert (member.returncode, int(output)) == (0, 3 * (1 << 20))


def test_a_member_that_dies_ends_the_wait_and_so_does_memory_of_another_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    learner, member, _, _ = opened(1.0)
    packed = learner.packing_buffer(64)
    started = time.monotonic()
    with pytest.raises(RuntimeError):
        learner.broadcast(packed)
    assert 0.9 <= time.monotonic() - started < 30.0

    learner, member, _, _ = opened(30.0)
    packed = learner.packing_buffer(64)
    read = os.readlink
    names = iter(["/memfd:of-another (deleted)"])
    monkeypatch.setattr(os, "readlink", lambda path: next(names, None) or read(path))
    with ThreadPoolExecutor(2) as threads:
        calls = [threads.submit(end.broadcast, packed.clone()) for end in (learner, member)]
        errors = [str(call.exception()) for call in calls]
    assert all("member 1 cannot open the learner's memory" in error for error in errors), errors
    assert all("on another machine" in error for error in errors), errors
