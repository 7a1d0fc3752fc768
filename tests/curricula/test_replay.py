"""The replay buffer and the mixing of its groups, by hand."""

import numpy as np
import pytest
from graded_groups import group

from gainrl_ray.curricula.replay import ReplayBuffer, mixed
from gainrl_ray.types import GradedGroup


def _rows(groups: tuple[GradedGroup, ...] | list[GradedGroup]) -> list[int]:
    return [graded.group.row for graded in groups]


def test_the_last_groups_with_spread_stay_one_a_problem() -> None:
    buffer = ReplayBuffer(3, seed=0)
    buffer.add([group(1), group(2, "00"), group(3), group(4, "11"), group(5)])
    assert _rows(buffer.groups) == [1, 3, 5]
    buffer.add([group(1, version=7), group(3, "11")])  # 1 becomes the newest; 3 keeps its older group
    assert _rows(buffer.groups) == [3, 5, 1]
    assert [graded.group.policy_version for graded in buffer.groups] == [0, 0, 7]
    buffer.add([group(6), group(7)])
    assert _rows(buffer.groups) == [1, 6, 7]
    assert ReplayBuffer(3, 0, buffer.groups).groups == buffer.groups


def test_a_young_buffer_gives_what_it_has() -> None:
    buffer = ReplayBuffer(10, seed=0)
    assert buffer.pick(0, 4) == ()
    buffer.add([group(1), group(2)])
    assert _rows(buffer.pick(0, 4)) == [1, 2]
    assert buffer.pick(0, 0) == ()


def test_picks_are_distinct_even_and_a_function_of_the_step() -> None:
    buffer = ReplayBuffer(10, seed=3, groups=[group(row) for row in range(10)])
    picks = [_rows(buffer.pick(step, 4)) for step in range(2000)]
    assert picks == [_rows(buffer.pick(step, 4)) for step in range(2000)]
    assert all(rows == sorted(set(rows)) and len(rows) == 4 for rows in picks)
    counts = np.bincount(np.concatenate(picks), minlength=10)
    # Draws without replacement: the variance of a count is 1 - 4/10 of what independent ones would have.
    assert ((counts - 800) ** 2 / (800 * 0.6)).sum() * 9 / 10 < 27.88  # 9 degrees of freedom, 0.001


@pytest.mark.parametrize(
    ("fresh", "replayed", "merged"),
    [
        ([1, 2], [], [1, 2]),
        ([1, 2, 3], [7, 8, 9], [1, 7, 2, 8, 3, 9]),
        ([1, 2, 3, 4], [7, 8], [1, 7, 2, 3, 8, 4]),
        ([1], [7, 8, 9], [1, 7, 8, 9]),
    ],
)
def test_replayed_groups_are_spread_among_the_fresh(fresh: list, replayed: list, merged: list) -> None:
    assert _rows(mixed([group(row) for row in fresh], [group(row) for row in replayed])) == merged
