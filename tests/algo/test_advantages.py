"""Group-relative advantages against numbers worked by hand."""

import numpy as np
import pytest
from tolerances import rounding

from gainrl_ray.algo.advantages import group_advantages, is_informative


def test_without_std_is_reward_minus_mean() -> None:
    # Dr.GRPO: mean 0.25.
    assert group_advantages([1.0, 0.0, 0.0, 0.0], divide_by_std=False).tolist() == [0.75, -0.25, -0.25, -0.25]


def test_with_std_divides_by_the_sample_deviation() -> None:
    # Mean 0.25; squares 0.5625 + 3 * 0.0625 = 0.75, over 3: deviation 0.5.
    assert group_advantages([1.0, 0.0, 0.0, 0.0], divide_by_std=True).tolist() == [1.5, -0.5, -0.5, -0.5]


@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1, -3.7, 1e9])
@pytest.mark.parametrize("divide_by_std", [True, False])
def test_equal_rewards_give_exact_zeros(reward: float, divide_by_std: bool) -> None:
    advantages = group_advantages([reward] * 7, divide_by_std)
    assert advantages.tolist() == [0.0] * 7
    assert advantages.dtype == np.float32
    assert not is_informative([reward] * 7)


def test_normalised_advantages_do_not_depend_on_the_reward_scale() -> None:
    small = group_advantages([0.0, 1.0, 1.0, 0.0, 1.0], divide_by_std=True)
    assert np.allclose(group_advantages([-1.0, 1.0, 1.0, -1.0, 1.0], divide_by_std=True), small)
    assert abs(float(small.sum())) < rounding(5)


def test_rounding_noise_is_no_signal() -> None:
    assert group_advantages([0.1 + 0.2, 0.3, 0.3], divide_by_std=True).tolist() == [0.0, 0.0, 0.0]


def test_a_reward_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="nan"):
        group_advantages([1.0, float("nan")], divide_by_std=True)
