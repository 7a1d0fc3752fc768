"""Group policies against numbers worked by hand."""

import copy
import json

import numpy as np
import pytest
from graded_groups import group

from gainrl_ray.config_groups import (
    AllGroupsConfig,
    DynamicSamplingConfig,
    GresoConfig,
    GroupPolicyConfig,
    SpeedConfig,
)
from gainrl_ray.curricula.group_policy import Greso, Verdict, build_group_policy
from gainrl_ray.errors import ConfigError

CONFIGS = [AllGroupsConfig(), DynamicSamplingConfig(), GresoConfig(), SpeedConfig()]


def _greso(seed: int = 0, **settings: float) -> Greso:
    policy = build_group_policy(GresoConfig(**settings), seed)  # type: ignore[arg-type]
    assert isinstance(policy, Greso)
    return policy


@pytest.mark.parametrize(
    ("config", "rewards", "verdict"),
    [
        (AllGroupsConfig(), "0000", Verdict.ACCEPT),
        (DynamicSamplingConfig(), "0000", Verdict.REJECT),
        (DynamicSamplingConfig(), "1111", Verdict.REJECT),
        (DynamicSamplingConfig(), "0100", Verdict.ACCEPT),
        (GresoConfig(), "1111", Verdict.REJECT),
        (GresoConfig(), "1110", Verdict.ACCEPT),
        (SpeedConfig(screen=2), "00", Verdict.REJECT),
        (SpeedConfig(screen=2), "11", Verdict.REJECT),
        (SpeedConfig(screen=2), "01", Verdict.CONTINUE),
        (SpeedConfig(screen=2), "0111", Verdict.ACCEPT),
    ],
)
def test_verdicts_on_groups_of_four(config: GroupPolicyConfig, rewards: str, verdict: Verdict) -> None:
    assert build_group_policy(config, 0).admit(group(0, rewards), 4) is verdict


@pytest.mark.parametrize(("config", "first"), zip(CONFIGS, [8, 8, 8, 4], strict=True))
def test_only_speed_screens(config: GroupPolicyConfig, first: int) -> None:
    assert build_group_policy(config, 0).screen(8) == first


@pytest.mark.parametrize(
    ("shortfall", "refills", "drawn", "count"),
    [
        (5, 0, 8, 5),  # exactly what is missing
        (0, 0, 8, 0),
        (5, 2, 18, 2),  # 2.5 x 8 = 20 problems in all
        (5, 2, 20, 0),
        (5, 3, 8, 0),  # the rounds are used up
    ],
)
def test_a_refill_is_the_shortfall_within_both_budgets(shortfall: int, refills: int, drawn: int, count: int) -> None:
    for kind in (DynamicSamplingConfig, GresoConfig, SpeedConfig):
        policy = build_group_policy(kind(max_refills=3, max_drawn=2.5), 0)
        assert policy.refill(shortfall, refills=refills, drawn=drawn, window=8) == count


def test_all_groups_never_refills_or_skips() -> None:
    policy = build_group_policy(AllGroupsConfig(), 0)
    assert policy.refill(5, refills=0, drawn=8, window=8) == 0
    assert policy.keep(0, np.arange(5)).tolist() == [True] * 5 and policy.metrics() == {}


def test_greso_counts_visits_without_spread_and_moves_both_probabilities() -> None:
    policy = _greso()
    # Of 4 groups 1 is easy and 1 hard: 1/4 is above both targets, 1/12 and 1/6, so that both bases fall to 0.49.
    policy.observe([group(1, "1111"), group(2, "0000"), group(3, "0110"), group(4, "1000")])
    assert policy.metrics() == pytest.approx({"p_easy": 0.49, "p_hard": 0.49, "skippable": 2})
    assert [policy.visit_probability(row) for row in (1, 2, 3, 9)] == pytest.approx([0.49, 0.49, 1.0, 1.0])
    # 1 easy of 13 is 0.077, below 1/12, and none is hard: both rise to 0.5. Row 1 has z = 2, row 2 still z = 1.
    policy.observe([group(1, "1111"), *[group(row, "0110") for row in range(20, 32)]])
    assert [policy.visit_probability(row) for row in (1, 2)] == pytest.approx([0.5**2, 0.5])
    # Row 2 is solved for the first time: z = 2, now among the easy; row 1 has spread again. 1/2 easy: p_easy 0.49.
    policy.observe([group(1, "1101"), group(2, "1111")])
    assert [policy.visit_probability(row) for row in (1, 2)] == pytest.approx([1.0, 0.49**2])


def test_gresos_probabilities_stay_within_their_bounds() -> None:
    policy = _greso()
    for _ in range(60):
        policy.observe([group(7, "0000")])
    # All hard: 0.5 - 60 * 0.01 and 0.5 + 60 * 0.01 both leave [0.05, 0.95]. 0.05 ** 60 is below the least visit, 0.01.
    assert policy.metrics() == pytest.approx({"p_easy": 0.95, "p_hard": 0.05, "skippable": 1})
    assert policy.visit_probability(7) == 0.01


def test_greso_visits_as_often_as_its_probability_says() -> None:
    policy = _greso(seed=5)
    rows = np.arange(3000)
    for z in (1, 2, 3):
        policy.observe([group(row, "0000") for row in rows[rows % 4 >= z].tolist()])
    # p_hard falls by 0.01 three times, to 0.47; rows of remainder z have z visits without spread.
    chi_square = 0.0
    for z in (0, 1, 2, 3):
        asked = rows[rows % 4 == z]
        kept = sum(int(policy.keep(step, asked).sum()) for step in range(10))
        expected, trials = 0.47**z * 10 * asked.size, 10 * asked.size
        if z == 0:
            assert kept == trials
        else:
            chi_square += (kept - expected) ** 2 / expected + (kept - expected) ** 2 / (trials - expected)
    assert chi_square < 16.27  # 3 degrees of freedom, 0.001
    once, again, later = (policy.keep(step, rows) for step in (3, 3, 4))
    assert np.array_equal(once, again) and not np.array_equal(once, later)
    assert np.array_equal(policy.keep(3, rows[::-1]), once[::-1]), "a row's draw does not depend on the others"


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
def test_states_round_trip_and_belong_to_one_policy(config: GroupPolicyConfig) -> None:
    policy, again = build_group_policy(config, 0), build_group_policy(config, 0)
    policy.observe([group(1, "1111"), group(2, "0000"), group(3, "01")])
    again.load_state_dict(json.loads(json.dumps(policy.state_dict())))
    assert again.state_dict() == policy.state_dict() and again.metrics() == policy.metrics()
    rows = np.arange(10)
    assert np.array_equal(again.keep(4, rows), policy.keep(4, rows))
    for other in CONFIGS:
        if other.name != config.name:
            with pytest.raises(ConfigError, match=rf"'{policy.name}'.*start a new run"):
                build_group_policy(other, 0).load_state_dict(policy.state_dict())


def test_a_copy_keeps_the_state_of_its_time() -> None:
    policy = _greso()
    policy.observe([group(1, "1111")])
    before = copy.copy(policy)
    policy.observe([group(1, "1111"), group(2, "0000")])
    assert (before.visit_probability(1), before.visit_probability(2)) == (0.49, 1.0)
