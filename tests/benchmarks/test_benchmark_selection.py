"""The table of curricula: every strategy of the registry is in it, with figures of steps that it took."""

from gainrl_ray.benchmarks.selection import CASES, run
from gainrl_ray.curricula import registry


def test_every_strategy_is_measured_at_every_size() -> None:
    assert {settings["name"] for settings in CASES.values()} == set(registry._STRATEGIES)
    figures = run([20, 3000], count=32, rounds=2)
    title = next(iter(figures))
    assert title.startswith("32 problems a step")
    rows = figures[title].rows
    assert list(rows) == [*CASES]
    for costs in rows.values():
        assert list(costs) == ["20", "3,000"]
        for cost in costs.values():
            assert 0 < cost.milliseconds.low <= cost.milliseconds.median <= cost.milliseconds.high < 10_000
            assert cost.checkpoint_bytes > 30
            assert 0 < cost.resident_bytes < 50_000
    lines = str(figures[title]).splitlines()[1:]
    assert [line.split("  ")[0] for line in lines[1:]] == list(rows)
    assert "N = 3,000" in lines[0] and len(lines) == 1 + len(rows)
