"""The resource budget against the cluster's supply."""

import pytest

from gainrl_ray.actors.resources import Share, budget, preflight, shortage
from gainrl_ray.config import Config
from gainrl_ray.errors import ResourceError


def test_the_default_run_fits_two_cores() -> None:
    assert shortage(budget(Config()), {"CPU": 2.0}) is None


def test_a_shortage_names_the_parts_and_both_amounts() -> None:
    config = Config.model_validate({"learner": {"workers": 3, "gpus_per_worker": 1}, "rollout": {"gpus_per_engine": 2}})
    with pytest.raises(ResourceError, match=r"GPU: needed 5 \(3 learner x 1 \+ 1 engine x 2\), the cluster has 4"):
        preflight(budget(config), {"CPU": 16.0, "GPU": 4.0}, autoscaling=False)


def test_a_growing_cluster_is_waited_for() -> None:
    shares = (Share(part="engine", count=2, cpus=1.0, gpus=1.0),)
    line = preflight(shares, {"CPU": 1.0}, autoscaling=True)
    assert "waiting for nodes" in line and "GPU: needed 2 (2 engine x 1), the cluster has 0" in line


def test_zero_amounts_are_not_in_a_bundle() -> None:
    assert Share(part="engine", count=1, cpus=0.5, gpus=0.0).bundle == {"CPU": 0.5}
