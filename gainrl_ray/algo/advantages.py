"""Rewards of a group to group-relative advantages (GRPO, arXiv 2402.03300)."""

from collections.abc import Sequence

import numpy as np

EQUAL_REWARDS = 1e-6
"""Rewards of a group that differ by no more than this are equal: dividing by their spread would amplify noise."""


def is_informative(rewards: Sequence[float] | np.ndarray) -> bool:
    """Whether the rewards of a group differ, so that its advantages are not all zero."""
    values = np.asarray(rewards, dtype=np.float64)
    return bool(values.size) and float(values.max() - values.min()) > EQUAL_REWARDS


def group_advantages(rewards: Sequence[float] | np.ndarray, divide_by_std: bool) -> np.ndarray:
    """Reward minus group mean, over the group's sample standard deviation when asked; [group] float32.

    rewards: [group], any finite scale. Equal rewards give zeros. The standard deviation has group - 1 in its
    denominator, as in TRL and verl, and no epsilon: groups without spread do not reach the division.
    Without the division these are the advantages of Dr.GRPO (arXiv 2503.20783).

    Raises: ValueError for a reward that is not finite.
    """
    values = np.asarray(rewards, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"rewards must be finite, received {values.tolist()}")
    if not is_informative(values):
        return np.zeros(values.shape, dtype=np.float32)
    centred = values - values.mean()
    if divide_by_std:
        centred = centred / values.std(ddof=1)
    return centred.astype(np.float32)
