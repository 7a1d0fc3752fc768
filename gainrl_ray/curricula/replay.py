"""The replay buffer: groups of earlier steps that are trained once more."""

from collections.abc import Sequence
from math import ceil

import numpy as np

from gainrl_ray.algo.advantages import is_informative
from gainrl_ray.algo.randomness import coordinate_rng
from gainrl_ray.types import GradedGroup


class ReplayBuffer:
    """The last `capacity` groups whose rewards differ, one a problem, oldest first.

    Source: DOTS, arXiv 2506.05316, section 3.3, whose rewards are 0 or 1: there a group's rewards differ where its mean
    is neither. A problem's group stays when its next one has no spread.
    """

    def __init__(self, capacity: int, seed: int, groups: Sequence[GradedGroup] = ()) -> None:
        self._capacity, self._seed = capacity, seed
        self._by_row: dict[int, GradedGroup] = {}
        self.add(groups)

    @property
    def groups(self) -> tuple[GradedGroup, ...]:
        """Oldest first."""
        return tuple(self._by_row.values())

    def add(self, groups: Sequence[GradedGroup]) -> None:
        """Take in a step's groups; of a problem the newest stays, as the newest of all."""
        for graded in groups:
            if is_informative(graded.rewards):
                self._by_row.pop(graded.group.row, None)
                self._by_row[graded.group.row] = graded
        for row in list(self._by_row)[: max(0, len(self._by_row) - self._capacity)]:
            del self._by_row[row]

    def pick(self, step: int, count: int) -> tuple[GradedGroup, ...]:
        """`count` distinct groups, or all where there are fewer, by (seed, "replay", step); oldest first."""
        rng = coordinate_rng(self._seed, "replay", step)
        places = rng.choice(len(self._by_row), size=min(count, len(self._by_row)), replace=False)
        groups = self.groups
        return tuple(groups[place] for place in np.sort(places))


def mixed(fresh: Sequence[GradedGroup], replayed: Sequence[GradedGroup]) -> list[GradedGroup]:
    """Both in their order, the replayed spread evenly among the fresh, so that each of several updates has some."""
    merged = list(fresh)
    for number, group in enumerate(replayed):
        merged.insert(ceil((number + 0.5) * len(fresh) / len(replayed)) + number, group)
    return merged
