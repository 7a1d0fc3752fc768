"""What bringing engines to a version took, and how close they came."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncFigures:
    """What bringing an engine to a version took."""

    version: int
    pull_s: float  # waiting for buckets
    update_s: float
    verify_s: float
    mean_difference: float  # nats, over the probe's tokens; nan when there was no probe
    worst_difference: float
    size: int  # bytes


def slowest(figures: Sequence[SyncFigures]) -> dict[str, float]:
    """The worst of several engines' figures: seconds, nats and bytes under their names; and how many `engines`."""
    return {
        "engines": float(len(figures)),
        "pull_s": max(each.pull_s for each in figures),
        "update_s": max(each.update_s for each in figures),
        "verify_s": max(each.verify_s for each in figures),
        "mean_difference": max(each.mean_difference for each in figures),
        "worst_difference": max(each.worst_difference for each in figures),
        "bytes": float(max(each.size for each in figures)),
    }
