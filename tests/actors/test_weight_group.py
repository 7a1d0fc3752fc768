"""What the learner broadcasts is in every member's buffer; a member that does not come or goes is an error in time."""

import importlib.util
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from gainrl_ray.actors import learner, weight_group
from gainrl_ray.actors.buckets import Way
from gainrl_ray.actors.shared_memory import LEARNER
from gainrl_ray.actors.weight_group import WeightGroup
from gainrl_ray.config import Config
from gainrl_ray.errors import WeightSyncError

ADDRESS = "127.0.0.1"


WAYS = pytest.mark.parametrize("way", ["gloo", "ipc"])


def formed(size: int, members: int, stall_s: float, way: Way) -> list[Any]:
    """The ends of a group of `size` to which `members` come, or the errors in their places."""
    listener = socket.create_server((ADDRESS, 0))
    port = listener.getsockname()[1]

    def join(rank: int) -> WeightGroup:
        ours = listener if rank == LEARNER else None
        device = torch.device("cpu")
        return WeightGroup(ADDRESS, port, rank=rank, size=size, device=device, way=way, stall_s=stall_s, listener=ours)

    with ThreadPoolExecutor(members) as threads:
        calls = [threads.submit(join, rank) for rank in range(members)]
        return [call.exception() or call.result() for call in calls]


@WAYS
def test_every_member_gets_the_learners_bytes(way: Way) -> None:
    groups = formed(3, 3, 30.0, way)
    packed = groups[LEARNER].packing_buffer(1000)
    for size, factor in ((1000, 1), (70, 3)):
        packed[:size] = (factor * torch.arange(size)).to(torch.uint8)
        buffers = [packed[:size], *(torch.zeros(size, dtype=torch.uint8) for _ in range(2))]
        with ThreadPoolExecutor(3) as threads:
            list(threads.map(lambda pair: pair[0].broadcast(pair[1]), zip(groups, buffers, strict=True)))
        assert all(buffer.tolist() == [factor * i % 256 for i in range(size)] for buffer in buffers)


@WAYS
def test_a_member_that_does_not_come_ends_the_wait(way: Way) -> None:
    started = time.monotonic()
    errors = formed(3, 2, 1.0, way)
    assert 1.0 <= time.monotonic() - started < 30.0
    assert all(isinstance(error, WeightSyncError) for error in errors)
    assert "did not form within 1 s" in str(errors[LEARNER])


@WAYS
def test_a_learner_that_leaves_or_says_nothing_ends_the_wait(way: Way) -> None:
    _, member = formed(2, 2, 1.0, way)
    with pytest.raises(WeightSyncError, match="a broadcast of 8 bytes broke off"):
        member.broadcast(torch.zeros(8, dtype=torch.uint8))
    sender, member = formed(2, 2, 30.0, way)
    started = time.monotonic()
    sender.close()
    with pytest.raises(WeightSyncError, match="a broadcast of 8 bytes broke off"):
        member.broadcast(torch.zeros(8, dtype=torch.uint8))
    assert time.monotonic() - started < 30.0


@pytest.mark.parametrize(
    ("gpus", "imports"), [(1.0, ["vllm.distributed", "vllm.distributed", "vllm.utils"]), (0.0, [])]
)
def test_what_nccl_needs_is_imported_when_the_way_is_opened(
    monkeypatch: pytest.MonkeyPatch, gpus: float, imports: list[str]
) -> None:
    """Before any member is waited for; the modules are there in the vLLM installed."""
    imported: list[str] = []
    monkeypatch.setattr(weight_group, "import_module", imported.append)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(learner.ray.util, "get_node_ip_address", lambda: ADDRESS)
    rank = object.__new__(learner._Learner)
    rollout, sync = {"gpus_per_engine": gpus}, {"backend": "broadcast"}
    rank._config = Config.model_validate({"learner": {"gpus_per_worker": gpus}, "rollout": rollout, "sync": sync})
    rank._open_broadcaster()
    assert [".".join(name.split(".")[:2]) for name in imported] == imports
    spec = importlib.util.find_spec("vllm")
    assert spec is not None and spec.submodule_search_locations
    for name in imported:
        assert Path(*spec.submodule_search_locations, *name.split(".")[1:]).with_suffix(".py").is_file()
