"""Nested figures as a table."""

from gainrl_ray.benchmarks.table import render
from gainrl_ray.benchmarks.timing import Spread


def test_spreads_come_first_and_the_rest_below() -> None:
    figures = {"ms": {"a": Spread(1.5, 1.0, 2500.0), "bc": Spread(0.25, 0.125, 3.0)}, "machine": {"threads": "2"}}
    assert render(figures).splitlines() == [
        "                      median         min         max",
        "ms: a                    1.5           1       2,500",
        "ms: bc                  0.25       0.125           3",
        "machine: threads  2",
    ]
