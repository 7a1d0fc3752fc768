"""Buckets hold every byte of every tensor, shared where it can be, and notice when one changes."""

from collections.abc import Iterator

import pytest
import torch

from gainrl_ray.actors.buckets import ALIGNMENT, AnnouncedBucket, StreamTotal, pack, unpack
from gainrl_ray.errors import WeightSyncError


def tensors() -> list[tuple[str, torch.Tensor]]:
    return [
        ("a", torch.arange(6, dtype=torch.float32).reshape(2, 3)),
        ("b", torch.tensor([1.5, -2.0, 3.25], dtype=torch.bfloat16)),
        ("c", torch.tensor(7, dtype=torch.int64)),
        ("d", torch.arange(100, dtype=torch.float16).reshape(10, 10).t()),
        ("e", torch.zeros(0, 4)),
        ("f", torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8)),
    ]


@pytest.mark.parametrize("bucket_bytes", [1, 64, 128, 256, 1 << 20])
def test_unpacked_tensors_are_the_packed_ones(bucket_bytes: int) -> None:
    named = tensors()
    found = [item for bucket in pack(named, bucket_bytes) for item in unpack(bucket)]
    assert [name for name, _ in found] == ["a", "b", "c", "d", "e", "f"]
    for (_, tensor), (_, copy) in zip(named, found, strict=True):
        assert copy.dtype == tensor.dtype
        assert copy.shape == tensor.shape
        assert torch.equal(copy, tensor)


def test_tensors_come_out_of_a_buffer_as_they_went_in() -> None:
    named = [("odd", torch.tensor([1, 2, 3], dtype=torch.uint8)), *tensors()]
    (packed,) = pack(named, 1 << 20)
    bucket = AnnouncedBucket(index=0, entries=packed.entries)
    buffer = bucket.buffer(torch.device("cpu"))
    # 3, 24, 6, 8, 200, 0 and 4 bytes, each at the next multiple of 16
    assert buffer.shape == (16 + 32 + 16 + 16 + 208 + 0 + 16,)
    for (name, tensor), (found, room) in zip(named, bucket.tensors(buffer), strict=True):
        assert (found, room.storage_offset() * room.element_size() % ALIGNMENT) == (name, 0)
        room.copy_(tensor)
    for (_, tensor), (_, copy) in zip(named, bucket.tensors(buffer.clone()), strict=True):
        assert copy.dtype == tensor.dtype and torch.equal(copy, tensor)


def test_buckets_are_filled_in_order_and_a_larger_tensor_goes_alone() -> None:
    named = [("small", torch.zeros(8)), ("also", torch.zeros(8)), ("large", torch.zeros(100)), ("last", torch.zeros(1))]
    buckets = list(pack(named, 128))
    assert [[entry.name for entry in bucket.entries] for bucket in buckets] == [["small", "also"], ["large"], ["last"]]
    assert [bucket.index for bucket in buckets] == [0, 1, 2]
    assert [bucket.size for bucket in buckets] == [32 + 32, 400, 4]
    assert [bucket.total for bucket in buckets] == [None, None, StreamTotal(buckets=3, names=4, size=32 + 32 + 400 + 4)]


def test_contiguous_tensors_are_not_copied_and_others_are() -> None:
    whole, turned = torch.zeros(4, 2), torch.zeros(4, 2).t()
    first, second = next(pack([("whole", whole), ("turned", turned)], 1 << 20)).pieces
    whole[0, 0] = turned[0, 0] = 1.0
    assert first.view("float32")[0] == 1.0
    assert second.view("float32")[0] == 0.0


def test_a_bucket_is_given_out_before_more_than_one_tensor_of_the_next_is_asked_for() -> None:
    asked: list[int] = []

    def gather() -> Iterator[tuple[str, torch.Tensor]]:
        for number in range(6):
            asked.append(number)
            yield f"t{number}", torch.zeros(16)

    buckets = pack(gather(), 128)
    next(buckets)
    assert asked == [0, 1, 2]


def test_ranks_without_tensors_pack_nothing() -> None:
    assert list(pack([("a", None), ("b", None)], 64)) == []


def test_a_changed_byte_is_noticed() -> None:
    bucket = next(pack(tensors(), 1 << 20))
    bucket.check()
    bucket.pieces[0][3] ^= 1
    with pytest.raises(WeightSyncError, match=r"bucket 0 \(a .. f.*checksum"):
        bucket.check()
