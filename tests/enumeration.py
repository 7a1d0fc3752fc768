"""Draws without replacement by the slowest method: every order, one after the other."""

import itertools


def set_probabilities(weights: list[float], count: int) -> dict[tuple[int, ...], float]:
    """Probability of each set under successive draws without replacement, by enumerating every order."""
    found: dict[tuple[int, ...], float] = {}
    for order in itertools.permutations(range(len(weights)), count):
        chance, left = 1.0, sum(weights)
        for rank in order:
            chance *= weights[rank] / left
            left -= weights[rank]
        key = tuple(sorted(order))
        found[key] = found.get(key, 0.0) + chance
    return found
