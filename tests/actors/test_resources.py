"""The resource budget against the cluster's supply."""

import pytest

from gainrl_ray.actors.resources import Share, budget, preflight, shortage, side_by_side, threads
from gainrl_ray.config import Config
from gainrl_ray.errors import ResourceError


def test_the_default_run_fits_two_cores() -> None:
    assert shortage(budget(Config()), {"CPU": 2.0}) is None


def test_a_shortage_names_the_parts_and_both_amounts() -> None:
    config = Config.model_validate({"learner": {"workers": 3, "gpus_per_worker": 1}, "rollout": {"gpus_per_engine": 2}})
    with pytest.raises(ResourceError, match=r"GPU: needed 5 \(3 learner x 1 \+ 1 engine x 2\), the cluster has 4"):
        preflight(budget(config), {"CPU": 16.0, "GPU": 4.0}, autoscaling=False)


def test_a_lone_gpu_is_pointed_to_the_preset_that_shares_it() -> None:
    apart = {"learner": {"gpus_per_worker": 1}, "rollout": {"gpus_per_engine": 1}}
    for config, supply, helps in (
        (apart, {"CPU": 8.0, "GPU": 1.0}, True),
        (apart, {"CPU": 8.0}, False),  # there is none to share
        (apart, {"CPU": 0.5, "GPU": 2.0}, False),  # GPUs are not what is short
        (shared(rollout={"engines": 2}), {"CPU": 8.0, "GPU": 1.0}, False),  # shares already
    ):
        with pytest.raises(ResourceError) as caught:
            preflight(budget(Config.model_validate(config)), supply, autoscaling=False)
        assert ("--config one-gpu" in str(caught.value)) == helps, str(caught.value)


def test_a_growing_cluster_is_waited_for() -> None:
    shares = (Share(part="engine", count=2, cpus=1.0, gpus=1.0),)
    line = preflight(shares, {"CPU": 1.0}, autoscaling=True)
    assert "waiting for nodes" in line and "GPU: needed 2 (2 engine x 1), the cluster has 0" in line


def test_as_many_runs_fit_side_by_side_as_the_largest_leaves_room_for() -> None:
    one = budget(Config())  # 0.5 CPUs of a learner and 0.5 of an engine
    two = budget(Config.model_validate({"rollout": {"engines": 3}}))
    assert side_by_side([one], {"CPU": 4.0}, most=10) == 4
    assert side_by_side([one, two], {"CPU": 4.0}, most=10) == 2
    assert side_by_side([one], {"CPU": 4.0}, most=3) == 3
    assert side_by_side([one], {"CPU": 0.5}, most=3) == 0


def test_a_run_on_cpu_keeps_the_cores_of_its_larger_side_busy() -> None:
    sections = {"learner": {"workers": 2, "threads_per_worker": 3}, "rollout": {"engines": 2, "threads_per_engine": 2}}
    assert threads(Config.model_validate(sections)) == 6
    sections["learner"]["gpus_per_worker"] = 1
    assert threads(Config.model_validate(sections)) == 0


def test_zero_amounts_are_not_in_a_bundle() -> None:
    assert Share(part="engine", count=1, cpus=0.5, gpus=0.0).bundle == {"CPU": 0.5}


def shared(**changes: dict) -> dict:
    tree = {
        "rollout": {"colocated": True, "gpus_per_engine": 1, "engines": 2},
        "learner": {"gpus_per_worker": 1, "workers": 2, "zero_stage": 2},
    }
    return changes | {name: {**section, **changes.get(name, {})} for name, section in tree.items()}


def test_a_shared_gpu_is_counted_once() -> None:
    shares = budget(Config.model_validate(shared()))
    assert shortage(shares, {"CPU": 4.0, "GPU": 2.0}) is None
    assert shortage(shares, {"CPU": 4.0, "GPU": 1.0}) is not None
    learner, engine = (share.gpus for share in shares)
    assert learner + engine == 1.0
    assert 2 * learner > 1.0, "no two ranks on one GPU"
    few = budget(Config.model_validate(shared(rollout={"engines": 1}, learner={"workers": 1})))
    assert shortage(few, {"CPU": 4.0, "GPU": 1.0}) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rollout": {"max_staleness": 1}}, "needs rollout.max_staleness 0, received 1"),
        ({"rollout": {"engines": 3}}, "at most learner.workers .* received 1, 1, 3 with 2"),
        ({"rollout": {"tensor_parallel_size": 2}}, "tensor_parallel_size 1"),
        ({"rollout": {"gpus_per_engine": 0}}, "received 1, 0"),
        ({"learner": {"zero_stage": 0}}, "zero_stage 2, or 3.* received 0"),
        ({"learner": {"zero_stage": 1}}, "zero_stage 2, or 3.* received 1"),
        ({"lora": {"rank": 4, "sync": "adapter"}}, "needs lora.sync=merged"),
        ({"learner": {"zero_stage": 3, "offload_optimizer": "cpu"}}, "received 3: DeepSpeed moves no other"),
    ],
)
def test_what_cannot_be_shared_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config.model_validate(shared(**changes))
    stage3 = {"learner": {"zero_stage": 3, "offload_optimizer": "cpu", "offload_params": "cpu"}}
    Config.model_validate(shared(**stage3))
