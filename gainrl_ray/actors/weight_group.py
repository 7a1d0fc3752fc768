"""A learner and the workers of engines as one group, in which the learner broadcasts: gloo, NCCL or shared memory."""

import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from datetime import timedelta
from importlib import import_module
from typing import Any, Protocol

import torch
from torch import Tensor
from torch._C._distributed_c10d import BroadcastOptions, PrefixStore, ProcessGroupGloo, TCPStore

from gainrl_ray.actors.buckets import Way
from gainrl_ray.actors.shared_memory import LEARNER, SharedMemory
from gainrl_ray.errors import WeightSyncError

LOOK_S = 0.0005  # how often a broadcast between GPUs is looked at

# Not vLLM's own way by a StatelessProcessGroup: that pickles, and goes on in silence where NCCL is missing.
_COMMUNICATORS = "vllm.distributed.device_communicators"
_NCCL_MODULES = (f"{_COMMUNICATORS}.pynccl", f"{_COMMUNICATORS}.pynccl_wrapper", "vllm.utils.nccl")


class _Collective(Protocol):
    def packing_buffer(self, size: int) -> Tensor: ...

    def broadcast(self, buffer: Tensor) -> None: ...

    def close(self) -> None: ...


def prepare(way: Way) -> None:
    """Import what a group by `way` needs: vLLM takes seconds, which nobody waits for while a group forms."""
    for name in _NCCL_MODULES if way == "nccl" else ():
        import_module(name)


class WeightGroup:
    """One member's end of the group; after an error it is of no use any more."""

    def __init__(
        self,
        address: str,
        port: int,
        *,
        rank: int,
        size: int,
        device: torch.device,
        way: Way,
        stall_s: float,
        listener: socket.socket | None = None,
    ) -> None:
        """Form the group with the `size` - 1 others; buffers are on `device`, and travel by `way`.

        The learner brings the `listener` at (address, port). Every wait ends after `stall_s` seconds.
        Raises WeightSyncError when not all members came.
        """
        self.device = device
        limit = timedelta(seconds=stall_s)
        try:
            # held for as long as the group: other members may still read from it when this one is done
            store = self._store = TCPStore(
                address,
                port,
                size,
                rank == LEARNER,
                limit,
                wait_for_workers=False,
                master_listen_fd=None if listener is None else listener.detach(),
                use_libuv=False,  # torch's other server does not take a socket over
            )
            store.set(f"here/{rank}", "")
            store.wait([f"here/{other}" for other in range(size)], limit)
            kind = {"gloo": _Gloo, "nccl": _Nccl, "ipc": SharedMemory}[way]
            self._collective: _Collective = kind(store, rank, size, device, stall_s)
        except RuntimeError as error:
            raise WeightSyncError(
                f"member {rank} of {size} of the broadcast group at {address}:{port}: the group did not form within "
                f"{stall_s:.0f} s: {_first_line(error)}"
            ) from error

    def packing_buffer(self, size: int) -> Tensor:
        """[size] uint8, not yet filled: the learner broadcasts what it packs from its start on."""
        return self._collective.packing_buffer(size)

    def broadcast(self, buffer: Tensor) -> None:
        """Bring the learner's bytes into every member's `buffer` ([bytes] uint8); returns when they are there.

        Raises WeightSyncError when a member is gone or nothing moves.
        """
        try:
            self._collective.broadcast(buffer)
        except RuntimeError as error:
            raise WeightSyncError(f"a broadcast of {buffer.nbytes} bytes broke off: {_first_line(error)}") from error

    def close(self) -> None:
        """Leave the group; members that wait for a broadcast get an error."""
        self._collective.close()
        self._store = None


class _Gloo:
    def __init__(self, store: TCPStore, rank: int, size: int, device: torch.device, stall_s: float) -> None:
        self._device, self._limit = device, timedelta(seconds=stall_s)
        self._group: Any = ProcessGroupGloo(PrefixStore("gloo", store), rank, size, self._limit)

    def packing_buffer(self, size: int) -> Tensor:
        return torch.empty(size, dtype=torch.uint8, device=self._device)

    def broadcast(self, buffer: Tensor) -> None:
        options = BroadcastOptions()
        options.rootRank = LEARNER
        self._group.broadcast([buffer], options).wait(self._limit)

    def close(self) -> None:
        self._group = None  # its connections end with it


class _Nccl:
    def __init__(self, store: TCPStore, rank: int, size: int, device: torch.device, stall_s: float) -> None:
        nccl, wrapper, environment = (import_module(name) for name in _NCCL_MODULES)
        if rank == LEARNER:
            store.set("nccl", bytes(wrapper.NCCLLibrary().ncclGetUniqueId()).hex())
        unique_id = bytes.fromhex(store.get("nccl").decode())

        def form() -> Any:
            with environment.unpinned_nccl_env():
                return nccl.PyNcclCommunicator.from_unique_id_bytes(unique_id, rank, size, device)

        self._communicator = _within(stall_s, form)
        if self._communicator.disabled:
            raise RuntimeError("NCCL is switched off by VLLM_DISABLE_PYNCCL")
        self._device, self._stall_s = device, stall_s

    def packing_buffer(self, size: int) -> Tensor:
        return torch.empty(size, dtype=torch.uint8, device=self._device)

    def broadcast(self, buffer: Tensor) -> None:
        stream = torch.cuda.current_stream(self._device)
        self._communicator.broadcast(buffer, LEARNER, stream)
        done = torch.cuda.Event()
        done.record(stream)
        deadline = time.monotonic() + self._stall_s
        while not done.query():
            if time.monotonic() > deadline:
                self.close()  # a kernel of NCCL waits for ever for a member that is gone
                raise RuntimeError(f"nothing came within {self._stall_s:.0f} s")
            time.sleep(LOOK_S)

    def close(self) -> None:
        self._communicator.destroy()


def _within(limit_s: float, act: Callable[[], Any]) -> Any:
    """The result of `act`, which cannot be interrupted: its thread is given up at the limit."""
    done: Future[Any] = Future()

    def run() -> None:
        try:
            done.set_result(act())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, name="nccl", daemon=True).start()
    try:
        return done.result(limit_s)
    except FutureTimeoutError as error:
        raise RuntimeError(f"NCCL did not begin within {limit_s:.0f} s") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
