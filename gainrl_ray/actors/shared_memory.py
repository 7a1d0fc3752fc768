"""Buckets that do not travel: members of a group copy them out of memory that the learner lets them open."""

import json
import mmap
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._C._distributed_c10d import TCPStore

from gainrl_ray.actors.lent_memory import LentMemory, opened

LEARNER = 0  # its rank


class SharedMemory:
    """One member's end of a group whose processes share a GPU, or the memory of a machine.

    The learner says through the group's store where a bucket lies, and packs the next one when every member has
    answered that it has its copy: one bucket is held, and no wait is longer than `stall_s`. A GPU's memory is opened
    by CUDA IPC, on the same physical GPU; on CPU the learner lends its own.
    """

    def __init__(self, store: TCPStore, rank: int, size: int, device: torch.device, stall_s: float) -> None:
        """`store`: its waits end after `stall_s` seconds."""
        self._store: TCPStore | None = store
        self._rank, self._members, self._device = rank, range(1, size), device
        self._limit = timedelta(seconds=stall_s)
        self._bucket = 0
        self._lent: LentMemory | None = None  # the packing buffer

    def packing_buffer(self, size: int) -> Tensor:
        """[size] uint8 that members can open, in the place of an older one."""
        if self._device.type == "cuda":
            return torch.empty(size, dtype=torch.uint8, device=self._device)
        self._forget()
        self._lent = LentMemory(size)
        return torch.frombuffer(mmap.mmap(self._lent.file, size), dtype=torch.uint8)

    def broadcast(self, buffer: Tensor) -> None:
        """Bring the learner's bytes, from the start of its packing buffer, into every other member's `buffer`.

        Raises RuntimeError when a member cannot open them, is gone or does not answer in time.
        """
        assert self._store is not None, "the group is closed"
        self._bucket += 1
        if self._rank == LEARNER:
            self._lend(self._store, f"bucket {self._bucket}", buffer)
        else:
            self._take(self._store, f"bucket {self._bucket}", buffer)

    def close(self) -> None:
        """Leave the group."""
        self._store = None
        self._forget()

    def _forget(self) -> None:
        if self._lent is not None:
            self._lent.close()
            self._lent = None

    def _lend(self, store: TCPStore, key: str, buffer: Tensor) -> None:
        store.set(key, json.dumps(self._handle(buffer)))
        answers = [f"{key} {rank}" for rank in self._members]
        store.wait(answers, self._limit)
        refusals = [refusal for answer in answers if (refusal := store.get(answer).decode())]
        for past in (key, *answers):
            store.delete_key(past)
        if refusals:
            raise RuntimeError(refusals[0])

    def _take(self, store: TCPStore, key: str, buffer: Tensor) -> None:
        handle = json.loads(store.get(key))
        refusal = ""
        try:
            self._copy(handle, buffer)
        except (OSError, RuntimeError, ValueError) as error:
            refusal = f"member {self._rank} cannot open the learner's memory: {error}"
        store.set(f"{key} {self._rank}", refusal)
        if refusal:
            raise RuntimeError(refusal)

    def _handle(self, buffer: Tensor) -> dict[str, Any]:
        """Where the packing buffer is, in plain values: whatever comes over a socket is not unpickled."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            # Shared anew for every bucket: each time counts one reader, who is done before the answer.
            fields = buffer.untyped_storage()._share_cuda_()
            return {"gpu": _gpu(self._device), "fields": [_plain(field) for field in fields]}
        assert self._lent is not None, "packing_buffer comes first"
        return self._lent.handle

    def _copy(self, handle: dict[str, Any], buffer: Tensor) -> None:
        if self._device.type == "cpu":
            buffer.numpy()[:] = np.frombuffer(opened(handle, buffer.nbytes), dtype=np.uint8)
            return
        if handle["gpu"] != _gpu(self._device):
            raise RuntimeError(f"it is of GPU {handle['gpu']}, this engine is on GPU {_gpu(self._device)}")
        fields = [bytes.fromhex(field) if isinstance(field, str) else field for field in handle["fields"]]
        # The learner counts its devices in its own way.
        storage = torch.UntypedStorage._new_shared_cuda(self._device.index, *fields[1:])
        lent = torch.empty(0, dtype=torch.uint8, device=self._device).set_(storage)  # pyright: ignore[reportArgumentType, reportCallIssue]
        buffer.copy_(lent[: buffer.nbytes])
        torch.cuda.synchronize(self._device)


def _gpu(device: torch.device) -> str:
    return str(torch.cuda.get_device_properties(device).uuid)


def _plain(field: Any) -> Any:
    return field.hex() if isinstance(field, bytes) else field
