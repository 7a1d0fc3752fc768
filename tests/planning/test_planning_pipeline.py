"""The simulation of a run against closed forms."""

import pytest

from gainrl_ray.planning.pipeline import Demand, StepCosts, simulate_run


def costs(count: int = 8, **changes) -> list[StepCosts]:
    parts = {"generate": (3.0,), "grade": 0.25, "train": 2.0, "publish": 0.5, "load": 0.125, "close": 0.0625}
    return [StepCosts(**(parts | changes)) for _ in range(count)]


def demand(**changes) -> Demand:
    return Demand(**({"engine": 1.0, "learner": 1.0, "learners": 1} | changes))


def test_on_policy_a_step_is_the_sum_of_its_parts() -> None:
    times = simulate_run(costs(), max_staleness=0, demand=demand(), cores=None)
    assert times[0].total == pytest.approx(3.0 + 0.25 + 2.0 + 0.5 + 0.0625)  # its weights were there
    for step in times[1:]:
        assert step.total == pytest.approx(0.125 + 3.0 + 0.25 + 2.0 + 0.5)  # books are kept while weights are loaded
        assert (step.generate, step.train, step.sync) == (3.0, 2.0, 0.625)


@pytest.mark.parametrize(("generate", "slowest"), [(3.0, 3.0 + 0.25 + 0.125), (1.0, 2.0 + 0.5 + 0.0625)])
def test_one_step_ahead_the_slower_side_sets_the_pace(generate: float, slowest: float) -> None:
    times = simulate_run(costs(generate=(generate,)), max_staleness=1, demand=demand(), cores=None)
    for step in times[2:]:
        assert step.total == pytest.approx(slowest)


def test_a_call_ends_with_its_slowest_engine() -> None:
    times = simulate_run(costs(generate=(1.0, 4.0, 2.0)), max_staleness=0, demand=demand(), cores=None)
    assert times[1].generate == 4.0


def test_parts_share_cores() -> None:
    crowded = simulate_run(costs(generate=(3.0, 3.0)), max_staleness=0, demand=demand(engine=2.0), cores=2.0)
    assert crowded[1].generate == pytest.approx(6.0)
    ranks = simulate_run(costs(), max_staleness=0, demand=demand(learner=2.0, learners=2), cores=2.0)
    assert ranks[1].train == pytest.approx(4.0)


def test_on_shared_cores_nothing_is_hidden() -> None:
    """Work is conserved: with all cores wanted by both sides, one step ahead takes the sum of both."""
    both = demand(engine=2.0, learner=2.0)
    parts = costs(count=20, grade=0.0, publish=0.0, load=0.0, close=0.0)
    times = simulate_run(parts, max_staleness=1, demand=both, cores=2.0)
    assert sum(step.total for step in times) == pytest.approx(20 * 5.0)


def test_an_evaluation_holds_up_both_sides() -> None:
    steps = [
        StepCosts(generate=(3.0,), grade=0, train=2.0, publish=0, load=0, close=0, evaluate=7.0 * (number == 2))
        for number in range(5)
    ]
    times = simulate_run(steps, max_staleness=0, demand=demand(), cores=None)
    assert [step.total for step in times] == pytest.approx([5.0, 5.0, 12.0, 5.0, 5.0])
    assert [step.evaluate for step in times] == [0, 0, 7.0, 0, 0]


def test_a_checkpoint_delays_the_next_step() -> None:
    steps = [
        StepCosts(generate=(1.0,), grade=0, train=2.0, publish=0, load=0, close=0, commit=4.0 * (number == 1))
        for number in range(4)
    ]
    times = simulate_run(steps, max_staleness=0, demand=demand(), cores=None)
    assert [step.total for step in times] == pytest.approx([3.0, 3.0, 6.0, 3.0])  # generation goes on meanwhile
