"""Draws depend on their coordinates and on nothing else."""

import numpy as np
import pytest

from gainrl_ray.algo.randomness import coordinate_rng, coordinate_seed, coordinate_words


def test_same_coordinates_same_draw_whatever_was_drawn_before() -> None:
    first = coordinate_rng(7, "window", 3).random(5)
    coordinate_rng(7, "window", 4).random(100)
    np.random.seed(0)
    assert np.array_equal(coordinate_rng(7, "window", 3).random(5), first)


def test_every_coordinate_matters() -> None:
    keys = [
        (7, "window", 3),
        (8, "window", 3),
        (7, "uniform", 3),
        (7, "window", 4),
        (7, "window", "3"),
        (7, "window", 3, 0),
        (7, "window"),
        (7, "window", "a", "bc"),
        (7, "window", "ab", "c"),
        (7, "window", -3),
    ]
    draws = {float(coordinate_rng(*key).random()) for key in keys}
    assert len(draws) == len(keys)
    assert len({coordinate_seed(*key) for key in keys}) == len(keys)


def test_keys_never_change() -> None:
    # Runs that were started with these keys have to continue with them.
    assert coordinate_seed(0, "sample", 1, "gsm8k-17", 2) == 1782552837
    assert coordinate_rng(0, "window", 1).bit_generator.random_raw() == 11119788964160533229


def test_numpy_integers_are_integers_and_floats_are_refused() -> None:
    assert coordinate_seed(1, "sample", np.int64(5)) == coordinate_seed(1, "sample", 5)
    with pytest.raises(TypeError):
        coordinate_seed(1, "sample", 5.0)  # type: ignore[arg-type]


def test_seeds_fill_their_range_evenly() -> None:
    seeds = np.array([coordinate_seed(0, "sample", step, sample) for step in range(100) for sample in range(40)])
    assert seeds.min() >= 0
    assert seeds.max() < 2**31
    assert len(np.unique(seeds)) == 4000
    counts = np.histogram(seeds, bins=8, range=(0, 2**31))[0]
    assert ((counts - 500) ** 2 / 500).sum() < 24.3  # chi-square, 7 degrees of freedom, p = 0.001


def test_words_are_the_start_of_one_stream_and_use_all_bits() -> None:
    words = coordinate_words(1, "shuffle", 2, count=200)
    assert words[:3] == coordinate_words(1, "shuffle", 2, count=3) != coordinate_words(1, "shuffle", 3, count=3)
    assert all(0 <= word < 2**64 for word in words) and len(set(words)) == 200
    for bit in range(64):
        assert 60 < sum(word >> bit & 1 for word in words) < 140  # 100 on average, 5.6 standard deviations
