"""What a set of weights consists of, however it is arranged: a learner's tensors and an engine's, which vLLM puts
together to larger ones, transposes and pads, have the same contents when they hold the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch

_MIX = 0x9E3779B97F4A7C15 - (1 << 64)  # the golden ratio's bits; no element of up to 32 bits equals it
_CHUNK = 1 << 22  # elements: 32 MiB of intermediate numbers
_WORD = 1 << 64


class Contents(NamedTuple):
    """The elements of some tensors of one dtype."""

    dtype: str  # torch's name without the module
    elements: int
    digest: int  # 64 bits; a sum over the elements of a mixture of each one's bits, 0 for the number 0


def contents(tensors: Iterable[torch.Tensor]) -> tuple[Contents, ...]:
    """The contents of all `tensors`, one entry a dtype, by name. Computed where the tensors are."""
    return merged(
        Contents(str(tensor.dtype).removeprefix("torch."), tensor.numel(), _digest(tensor)) for tensor in tensors
    )


def merged(parts: Iterable[Contents]) -> tuple[Contents, ...]:
    """All parts together, one entry a dtype, by name."""
    total: dict[str, Contents] = {}
    for part in parts:
        before = total.get(part.dtype, Contents(part.dtype, 0, 0))
        digest = (before.digest + part.digest) % _WORD
        total[part.dtype] = Contents(part.dtype, before.elements + part.elements, digest)
    return tuple(total[dtype] for dtype in sorted(total))


def _digest(tensor: torch.Tensor) -> int:
    import torch

    bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    total = 0
    for chunk in tensor.detach().contiguous().reshape(-1).view(bits).split(_CHUNK):
        wide = chunk.to(torch.int64)
        total += int((wide * (wide ^ _MIX)).sum())  # modulo 2^64, as integers of torch wrap
    return total % _WORD
