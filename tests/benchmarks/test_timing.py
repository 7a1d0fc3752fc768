"""Cases take turns, and their spread is that of their own rounds."""

import time

from gainrl_ray.benchmarks.timing import Spread, by_turns, machine, ratios


def test_cases_run_by_turns_and_the_warm_up_is_not_counted() -> None:
    order: list[str] = []
    seconds = by_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=3)
    assert order == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}


def test_seconds_are_those_of_the_case() -> None:
    seconds = by_turns({"sleeps": lambda: time.sleep(0.02), "does nothing": lambda: None}, rounds=2, warmup=0)
    assert min(seconds["sleeps"]) >= 0.02
    assert ratios(seconds["sleeps"], seconds["does nothing"]).low > 1


def test_a_spread_is_median_and_ends() -> None:
    assert Spread.of([3.0, 1.0, 2.0, 10.0]) == Spread(2.5, 1.0, 10.0)
    assert str(Spread.of([2.0])) == "2 (2 to 2)"
    assert ratios([6.0, 4.0], [2.0, 4.0]) == Spread(2.0, 1.0, 3.0)


def test_the_machine_names_versions_and_what_is_missing() -> None:
    found = machine("numpy", "no-such-package")
    assert found["numpy"] and found["no-such-package"] == "not installed"
    assert "logical cores" in found["processor"]
