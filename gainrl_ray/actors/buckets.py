"""Weights on their way: tensors as buckets of bytes, without a copy on either side.

torch is imported by those who pack and unpack alone: the store and the pipeline start in half the time without.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import xxhash

from gainrl_ray.errors import WeightSyncError

if TYPE_CHECKING:
    import torch

ALIGNMENT = 16
"""Bytes; a tensor in a buffer can be viewed as any dtype, and GPU kernels read it at full speed."""


Way = Literal["gloo", "nccl", "ipc"]
"""How the buckets of a broadcast travel: through host memory, from GPU to GPU, or not at all, within one device's or
machine's memory that all members open."""


class TensorEntry(NamedTuple):
    """What the bytes of a tensor stand for."""

    name: str
    dtype: str  # torch's name without the module: "bfloat16"
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        import torch

        return math.prod(self.shape) * getattr(torch, self.dtype).itemsize


class StreamTotal(NamedTuple):
    """What a whole stream of buckets holds; its last bucket declares it."""

    buckets: int
    names: int
    size: int  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightBucket:
    """Some tensors of a model, each as its bytes."""

    index: int  # place in the stream, from 0
    entries: tuple[TensorEntry, ...]
    pieces: tuple[np.ndarray, ...]  # one [bytes] uint8 array per entry
    checksum: int  # xxh3 of all pieces, 64 bits
    total: StreamTotal | None = None  # set on the last bucket of a stream only

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(piece.nbytes for piece in self.pieces)

    def check(self) -> None:
        """Nothing; raises WeightSyncError when the bytes are not those that were packed."""
        found = _checksum(self.pieces)
        if found != self.checksum:
            names = f"{self.entries[0].name} .. {self.entries[-1].name}"
            raise WeightSyncError(
                f"bucket {self.index} ({names}, {self.size} bytes) arrived with checksum {found:#018x}, "
                f"it was packed with {self.checksum:#018x}: the bytes changed on the way; publish the version again"
            )


def pack(named: Iterable[tuple[str, torch.Tensor | None]], bucket_bytes: int) -> Iterator[WeightBucket]:
    """Buckets of at most `bucket_bytes` with all tensors, in order; a larger tensor goes alone.

    Tensors that are None (ranks that do not hold them) are passed over, so every rank can drive the same gather.
    A bucket shares the memory of contiguous CPU tensors: it is to be sent before they change.
    """
    stream = _Stream()
    for name, tensor in named:
        if tensor is None:
            continue
        if stream.entries and stream.filled + tensor.nbytes > bucket_bytes:
            yield stream.close_bucket()
        stream.add(name, tensor)
    if stream.entries:
        yield stream.close_bucket(last=True)


def unpack(bucket: WeightBucket) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, tensor) of every entry; the tensors are views of the bucket's bytes and must not be written to."""
    import torch

    for entry, piece in zip(bucket.entries, bucket.pieces, strict=True):
        dtype = getattr(torch, entry.dtype)
        if not piece.nbytes:  # its stride would be 0, by which it cannot be viewed as another type
            yield entry.name, torch.empty(entry.shape, dtype=dtype)
            continue
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            flat = torch.from_numpy(piece)
        yield entry.name, flat.view(dtype).view(entry.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnouncedBucket:
    """A bucket whose bytes come by broadcast, in one buffer on the device of whoever takes part."""

    index: int
    entries: tuple[TensorEntry, ...]

    @property
    def size(self) -> int:
        """Bytes of the buffer, which has gaps where a tensor would not be aligned."""
        return places(self.entries)[-1]

    def buffer(self, device: torch.device) -> torch.Tensor:
        """[size] uint8, not yet filled."""
        import torch

        return torch.empty(self.size, dtype=torch.uint8, device=device)

    def tensors(self, buffer: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        """(name, tensor) of every entry, as views of the buffer."""
        import torch

        for entry, place in zip(self.entries, places(self.entries), strict=False):
            flat = buffer[place : place + entry.size]
            yield entry.name, flat.view(getattr(torch, entry.dtype)).view(entry.shape)


def places(entries: Iterable[TensorEntry]) -> list[int]:
    """Where each tensor begins in a buffer for all, and the buffer's end, bytes; a tensor begins aligned."""
    found = [0]
    for entry in entries:
        found.append(-(-(found[-1] + entry.size) // ALIGNMENT) * ALIGNMENT)
    return found


class _Stream:
    """The bucket being filled, and what went before it."""

    def __init__(self) -> None:
        self.entries: list[TensorEntry] = []
        self.filled = 0  # bytes in the bucket
        self._pieces: list[np.ndarray] = []
        self._index = self._names = self._size = 0

    def add(self, name: str, tensor: torch.Tensor) -> None:
        import torch

        piece = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        self.entries.append(TensorEntry(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)))
        self._pieces.append(piece)
        self.filled += piece.nbytes

    def close_bucket(self, *, last: bool = False) -> WeightBucket:
        index, entries, pieces = self._index, tuple(self.entries), tuple(self._pieces)
        self._index += 1
        self._names += len(entries)
        self._size += self.filled
        total = StreamTotal(buckets=self._index, names=self._names, size=self._size) if last else None
        self.entries, self._pieces, self.filled = [], [], 0
        return WeightBucket(index=index, entries=entries, pieces=pieces, checksum=_checksum(pieces), total=total)


def _checksum(pieces: Iterable[np.ndarray]) -> int:
    digest = xxhash.xxh3_64()
    for piece in pieces:
        digest.update(piece.data)
    return digest.intdigest()
