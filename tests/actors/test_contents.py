"""The contents of weights: the same for every arrangement of the same numbers, another for any other number."""

import pytest
import torch

from gainrl_ray.actors.contents import Contents, contents, merged


def slow_digest(tensor: torch.Tensor) -> int:
    """Element by element in Python's integers."""
    width = tensor.element_size()
    data = tensor.contiguous().view(torch.uint8).numpy().tobytes()
    total = 0
    for place in range(0, len(data), width):
        bits = int.from_bytes(data[place : place + width], "little", signed=width > 1)
        total += bits * (bits ^ -0x61C8864680B583EB)
    return total % 2**64


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int8])
def test_the_digest_is_the_sum_worked_out_slowly(dtype: torch.dtype) -> None:
    tensor = (torch.randn(7, 11, generator=torch.Generator().manual_seed(0)) * 20).to(dtype)
    name = str(dtype).removeprefix("torch.")
    assert contents([tensor]) == (Contents(name, 77, slow_digest(tensor)),)


def test_arrangement_and_zeros_do_not_count() -> None:
    a, b = torch.randn(6, 4), torch.randn(2, 4)
    both = contents([a, b])
    assert contents([torch.cat([b, a]).t()]) == both
    padded = contents([torch.cat([a, b, torch.zeros(8, 4)])])
    assert (padded[0].digest, padded[0].elements) == (both[0].digest, both[0].elements + 32)


def test_the_smallest_change_counts_wherever_it_is() -> None:
    start = torch.randn(5, 5).bfloat16()
    whole = contents([start])
    for place in range(25):
        changed = start.clone()
        changed.view(-1).view(torch.int16)[place] ^= 1
        assert contents([changed]) != whole


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = torch.randn(1000)
    whole = contents([tensor])
    monkeypatch.setattr("gainrl_ray.actors.contents._CHUNK", 7)
    assert contents([tensor]) == whole


def test_dtypes_are_told_apart_and_sorted() -> None:
    a, b = torch.randn(3), torch.randn(4).bfloat16()
    found = contents([a, b, a])
    assert [(entry.dtype, entry.elements) for entry in found] == [("bfloat16", 4), ("float32", 6)]
    assert merged([*contents([a]), *contents([b]), *contents([a])]) == found
