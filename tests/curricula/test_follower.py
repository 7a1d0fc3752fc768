"""A follower is where the strategy was some steps ago."""

import pytest
from every_strategy import build, outcome

from gainrl_ray.curricula.checked import CheckedStrategy
from gainrl_ray.curricula.follower import Follower


def test_a_follower_is_where_the_strategy_was() -> None:
    ahead, states = CheckedStrategy(build("dps")), []
    follower = Follower(CheckedStrategy(build("dps")), 0)
    for step in range(5):
        states.append(ahead.state_dict())
        observed = outcome(step, range(step, step + 6), 0.25 * (step % 5))
        ahead.observe(observed)
        follower.hear(observed)
    for step in (1, 1, 3, 4):
        assert follower.at(step).state_dict() == states[step]
    assert follower.at(5).state_dict() == ahead.state_dict()
    with pytest.raises(AssertionError, match="at 5, asked for 4"):
        follower.at(4)
