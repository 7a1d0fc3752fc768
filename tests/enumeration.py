"""Draws without replacement by the slowest method: every order, one after the other."""

import itertools
from collections import defaultdict


def order_probabilities(weights: list[float], count: int) -> dict[tuple[int, ...], float]:
    """Probability of each sequence of `count` successive draws without replacement."""
    found: dict[tuple[int, ...], float] = {}
    for order in itertools.permutations(range(len(weights)), count):
        chance, left = 1.0, sum(weights)
        for rank in order:
            chance *= weights[rank] / left
            left -= weights[rank]
        found[order] = chance
    return found


def set_probabilities(weights: list[float], count: int) -> dict[tuple[int, ...], float]:
    """Probability of each set under successive draws without replacement."""
    found: defaultdict[tuple[int, ...], float] = defaultdict(float)
    for order, chance in order_probabilities(weights, count).items():
        found[tuple(sorted(order))] += chance
    return dict(found)
