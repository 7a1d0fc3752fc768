"""Randomness as a function of coordinates: the same (seed, purpose, coordinates) always gives the same draw."""

import hashlib
import json
from operator import index

import numpy as np

Coordinate = int | str


def coordinate_rng(seed: int, purpose: str, *coordinates: Coordinate) -> np.random.Generator:
    """A fresh counter-based generator keyed by all arguments.

    Generators of different arguments are independent, so a draw depends on nothing that happened before it: a
    resumed run draws what the uninterrupted one would have drawn. The key never changes for given arguments.
    """
    key = int.from_bytes(_digest(seed, purpose, coordinates, size=16), "little")
    return np.random.Generator(np.random.Philox(key=key))


def coordinate_seed(seed: int, purpose: str, *coordinates: Coordinate) -> int:
    """An integer in [0, 2**31) keyed by all arguments, for engines that take a seed per request."""
    return int.from_bytes(_digest(seed, purpose, coordinates, size=4), "little") & 0x7FFFFFFF


def coordinate_words(seed: int, purpose: str, *coordinates: Coordinate, count: int) -> list[int]:
    """`count` integers in [0, 2**64) keyed by all arguments, for keys of hashes."""
    stream = hashlib.shake_128(_key(seed, purpose, coordinates)).digest(8 * count)
    return [int.from_bytes(stream[8 * word : 8 * word + 8], "little") for word in range(count)]


def _digest(seed: int, purpose: str, coordinates: tuple[Coordinate, ...], size: int) -> bytes:
    return hashlib.blake2b(_key(seed, purpose, coordinates), digest_size=size).digest()


def _key(seed: int, purpose: str, coordinates: tuple[Coordinate, ...]) -> bytes:
    # JSON keeps 1 and "1" apart, and ("ab", "c") and ("a", "bc").
    parts = [index(seed), purpose, *(part if isinstance(part, str) else index(part) for part in coordinates)]
    return json.dumps(parts).encode("ascii")
