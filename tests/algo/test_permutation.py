"""Computed permutations: bijections, even in their statistics, and the same for ever."""

import hashlib
import itertools
import json

import numpy as np
import pytest

from gainrl_ray.algo.permutation import Permutation


def _by_hand(position: int, size: int, seed: int, purpose: str, lap: int) -> int:
    """The same network on Python's integers, one position at a time."""
    left_range = next(a for a in range(1, size + 1) if a * a >= size)
    right_range = next(b for b in range(1, size + 1) if left_range * b >= size)
    stream = hashlib.shake_128(json.dumps([seed, purpose, lap]).encode()).digest(128)
    keys = [int.from_bytes(stream[start : start + 8], "little") for start in range(0, 128, 8)]

    def mixed(word: int) -> int:
        word %= 2**64
        word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        word = (word ^ (word >> 27)) * 0x94D049BB133111EB % 2**64
        return (word ^ (word >> 31)) >> 1

    while True:
        left, right = divmod(position, right_range)
        for number, key in enumerate(keys):
            if number % 2 == 0:
                left = (left + mixed(right + key)) % left_range
            else:
                right = (right + mixed(left + key)) % right_range
        position = left * right_range + right
        if position < size:
            return position


def _excess(counts: np.ndarray) -> float:
    """Standard deviations that chi-square against even counts lies above its mean."""
    mean = counts.mean()
    freedom = counts.size - 1
    return float((((counts - mean) ** 2 / mean).sum() - freedom) / (2 * freedom) ** 0.5)


def test_every_size_is_a_bijection_with_its_inverse() -> None:
    for size in (*range(1, 70), 100, 255, 256, 257, 1000, 4095, 65_537, 300_000):
        permutation, positions = Permutation(size, 3, "pass", 1), np.arange(size)
        elements = permutation(positions)
        assert elements.dtype == np.int64
        assert np.array_equal(np.sort(elements), positions)
        assert np.array_equal(permutation.inverse(elements), positions)


@pytest.mark.parametrize("size", [1, 2, 3, 6, 41, 10**4, 10**8, 2**62])
def test_elements_are_those_of_the_network_on_python_integers(size: int) -> None:
    if size > 10**4:  # the search for the ranges by hand is linear in their size
        positions = np.array([0, 1, size // 3, size - 1], dtype=np.int64)
        elements = Permutation(size, 7, "uniform", 2)(positions)
        assert len(set(elements.tolist())) == 4 and elements.min() >= 0 and elements.max() < size
        assert np.array_equal(Permutation(size, 7, "uniform", 2).inverse(elements), positions)
        return
    positions = range(min(size, 12))
    expected = [_by_hand(position, size, 7, "uniform", 2) for position in positions]
    assert Permutation(size, 7, "uniform", 2)(np.array(positions)).tolist() == expected


def test_any_part_is_that_part_of_the_whole() -> None:
    permutation = Permutation(1000, 0, "pass")
    whole = permutation(np.arange(1000))
    places = np.array([[999, 3], [500, 3]], dtype=np.int32)
    assert np.array_equal(permutation(places), whole[places])
    assert places.tolist() == [[999, 3], [500, 3]]


def test_all_permutations_of_few_elements_come_alike() -> None:
    for size, draws in ((2, 300), (3, 600), (4, 1200), (5, 2400)):
        drawn = [tuple(Permutation(size, 5, "pass", lap)(np.arange(size)).tolist()) for lap in range(draws)]
        places = {order: place for place, order in enumerate(itertools.permutations(range(size)))}
        assert _excess(np.bincount([places[order] for order in drawn], minlength=len(places))) < 3.3


@pytest.mark.parametrize("size", [10, 37])
def test_elements_pairs_and_laps_are_even(size: int) -> None:
    draws = 2500
    drawn = np.array([Permutation(size, 1, "pass", lap)(np.arange(size)) for lap in range(draws)])
    assert _excess(np.array([np.bincount(column, minlength=size) for column in drawn.T])) < 3.3
    different = [a * size + b for a in range(size) for b in range(size) if a != b]
    for first, second in ((0, 1), (0, size - 1), (size // 2, size // 2 + 1)):
        pairs = np.bincount(drawn[:, first] * size + drawn[:, second], minlength=size * size)
        assert _excess(pairs[different]) < 3.3
    successive = np.bincount(drawn[:-1, 0] * size + drawn[1:, 0], minlength=size * size)
    assert _excess(successive) < 3.3


def test_a_large_permutation_is_even_within_itself() -> None:
    """Windows of one pass: where their elements fall, the steps between them, and element against position."""
    size = 10**6
    elements = Permutation(size, 2, "pass")(np.arange(200_000))
    assert _excess(np.bincount(elements // 10_000, minlength=100)) < 3.3
    assert _excess(np.bincount(elements % 64, minlength=64)) < 3.3
    steps = (elements[1:] - elements[:-1]) % size
    assert _excess(np.bincount(steps // 10_000, minlength=100)) < 3.3
    joint = (np.arange(200_000) // 10_000) * 20 + elements // 50_000
    assert _excess(np.bincount(joint, minlength=400)) < 3.3
    assert abs(np.corrcoef(np.arange(200_000), elements)[0, 1]) < 3.3 / 200_000**0.5


def test_seeds_purposes_and_laps_differ() -> None:
    positions = np.arange(1000)
    drawn = [Permutation(1000, *key)(positions) for key in ((0, "a"), (1, "a"), (0, "b"), (0, "a", 0), (0, "a", 1))]
    for one, other in itertools.combinations(drawn, 2):
        assert (one == other).sum() < 8  # 1 on average


@pytest.mark.parametrize("size", [0, -3, 2**62 + 1])
def test_sizes_without_a_permutation_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"permutation of {size} elements"):
        Permutation(size, 0, "pass")
