"""Shuffles that are computed, not stored: keyed bijections of 0..N-1, any part of which costs only itself."""

from collections.abc import Callable
from math import isqrt

import numpy as np

from gainrl_ray.algo.randomness import Coordinate, coordinate_words

_ROUNDS = 16  # so many make small permutations even: at 8, some of the 120 of five elements come twice as often
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_LAST_SHIFT = np.uint64(31)


class Permutation:
    """A bijection of 0..size-1 keyed by (seed, purpose, coordinates), in constant memory.

    It is a Feistel network: a position is a pair (left < a, right < b) with a * b just above `size`, and each round
    adds a keyed hash of one half to the other, modulo that half's range. Values outside 0..size-1 go through it again
    until they are inside, which keeps it a bijection; fewer than a of the a * b are outside.

    What it is not: a draw from all size! permutations. There is one for each 1024-bit key, and for moderate sizes far
    fewer than size!; what comes out is even in position, pair and triple statistics, not cryptographically secret. It
    depends on integer arithmetic only, so it never changes with numpy's version.

    Source: Black and Rogaway, Ciphers with Arbitrary Finite Domains, CT-RSA 2002 (generalised Feistel, cycle walking);
    the hash is the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014, with Stafford's constants).
    """

    def __init__(self, size: int, seed: int, purpose: str, *coordinates: Coordinate) -> None:
        """Raises: ValueError when size is not in 1..2^62."""
        if not 1 <= size <= 2**62:
            raise ValueError(f"a permutation of {size} elements: use 1 to 2^62")
        self._size = size
        left = isqrt(size - 1) + 1
        self._ranges = (np.uint64(left), np.uint64(-(-size // left)))
        self._keys = [np.uint64(word) for word in coordinate_words(seed, purpose, *coordinates, count=_ROUNDS)]

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """The elements at `positions`, of the same shape, int64; positions are integers in 0..size-1."""
        return self._walk(positions, self._forward)

    def inverse(self, elements: np.ndarray) -> np.ndarray:
        """The positions of `elements`, of the same shape, int64; elements are integers in 0..size-1."""
        return self._walk(elements, self._backward)

    def _walk(self, places: np.ndarray, network: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        found = network(np.asarray(places).astype(np.uint64).ravel())
        outside = np.flatnonzero(found >= self._size)
        while outside.size:
            found[outside] = network(found[outside])
            outside = outside[found[outside] >= self._size]
        return found.astype(np.int64).reshape(np.shape(places))

    def _forward(self, values: np.ndarray) -> np.ndarray:
        halves = list(np.divmod(values, self._ranges[1]))
        for number, key in enumerate(self._keys):
            side = number % 2
            halves[side] = (halves[side] + _mixed(halves[1 - side] + key)) % self._ranges[side]
        return halves[0] * self._ranges[1] + halves[1]

    def _backward(self, values: np.ndarray) -> np.ndarray:
        halves = list(np.divmod(values, self._ranges[1]))
        for number, key in reversed(list(enumerate(self._keys))):
            side = number % 2
            added = _mixed(halves[1 - side] + key) % self._ranges[side]
            halves[side] = (halves[side] + self._ranges[side] - added) % self._ranges[side]
        return halves[0] * self._ranges[1] + halves[1]


def _mixed(words: np.ndarray) -> np.ndarray:
    """Hashes in [0, 2^63) of 64-bit words: half the range, so that a half can be added without overflow. In place."""
    for shift, factor in _MIX:
        words ^= words >> np.uint64(shift)
        words *= np.uint64(factor)
    words ^= words >> _LAST_SHIFT
    words >>= np.uint64(1)
    return words
