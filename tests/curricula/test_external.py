"""An order from a file under GAIN-RL's controller."""

import numpy as np
import pytest
from every_strategy import build, config
from pydantic import ValidationError

from gainrl_ray.config_curricula import CurriculumConfig, ExternalConfig


def test_windows_follow_the_given_order() -> None:
    order = np.random.default_rng(1).permutation(800)
    gain, external = (build(name, order=order, size=800, sigma=0.1, mu_start=0.5) for name in ("gain", "external"))
    assert np.array_equal(gain.select(3, 32), external.select(3, 32))


def test_it_cannot_do_without_a_file() -> None:
    chosen: CurriculumConfig = config("external", key="order")
    assert isinstance(chosen, ExternalConfig) and (chosen.path, chosen.key) == ("order.json", "order")
    with pytest.raises(ValidationError, match=r"give --curriculum\.path=FILE"):
        config("external", path="")
