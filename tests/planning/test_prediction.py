"""Whole predictions: what must rise and fall with the hardware, what fits, and figures checked by hand."""

from functools import cache
from pathlib import Path

import pytest

from gainrl_ray.cli import load_config
from gainrl_ray.config import Config
from gainrl_ray.planning.cluster import Cluster, device_named
from gainrl_ray.planning.costs import Assumptions, assumptions, decode_cost, sync_cost, train_cost, turns_s
from gainrl_ray.planning.prediction import Prediction, Simulator, predict
from gainrl_ray.planning.search import best_splits, own_splits, with_split
from gainrl_ray.planning.shape import model_shape
from gainrl_ray.planning.workload import RankWork, assumed_lengths

ON_HOST = ("--learner.offload_optimizer=cpu", "--learner.offload_params=cpu")
PRESETS = Path(__file__).parents[2] / "jobs" / "configs"
ASSUMED = Assumptions()


@cache
def seven(*arguments: str) -> Config:
    small = ("--rollout.problems_per_step=128", "--learner.updates_per_step=1", *arguments)
    return load_config(["--config", "qwen2.5-math-7b-deepscaler", *small], presets=PRESETS)


SHAPE = model_shape(seven().model)


def cluster(count: int, gpu: str = "h100-80") -> Cluster:
    return Cluster(device=device_named(gpu), count=count)


def predicted(config: Config, count: int = 8, gpu: str = "h100-80") -> Prediction:
    lengths = assumed_lengths(config, 500, 0.5, 200)
    return predict(config, SHAPE, cluster(count, gpu), ASSUMED, Simulator(config, lengths, 3))


def test_decoding_reads_the_weights_at_the_memory_s_speed() -> None:
    cost = decode_cost(SHAPE, seven(), cluster(8), ASSUMED)
    # 7.07e9 weights without the input embedding, 2 bytes each, at 0.7 * 3350 GB/s; 57,344 bytes of cache a token
    assert cost.weights_s == pytest.approx(2 * 7.0706e9 / (0.7 * 3350e9), rel=1e-3)
    assert cost.context_s == pytest.approx(57_344 / (0.7 * 3350e9))
    two = with_split(seven(), engines=2, tensor_parallel=2, learners=4, zero_stage=3)
    halved = decode_cost(SHAPE, two, cluster(8), ASSUMED)
    assert halved.weights_s == pytest.approx(cost.weights_s / 2)
    assert halved.fixed_s == pytest.approx(cost.fixed_s + 2 * 28 * ASSUMED.all_reduce_s)


def test_training_takes_six_operations_a_weight_and_token() -> None:
    plain = seven("--loss.kl_coef=0", "--learner.gradient_checkpointing=false", "--learner.workers=1")
    cost = train_cost(SHAPE, plain, cluster(8), ASSUMED)
    work = RankWork(lines=1e6, square=0, head=0, measured=0, passes=1, updates=0)
    body = SHAPE.parameters - 2 * 152_064 * 3584
    assert cost.seconds(work) == pytest.approx(6 * body * 1e6 / (0.4 * 989e12) + ASSUMED.pass_s)
    full = train_cost(SHAPE, seven("--learner.workers=1"), cluster(8), ASSUMED)  # recomputed, and a reference policy
    assert full.line_s == pytest.approx(cost.line_s * 10 / 6)


def test_sync_counts_every_copy() -> None:
    size, stored = 15_231_233_024, "--sync.backend=object_store"
    sync = sync_cost(SHAPE, seven("--learner.zero_stage=2", stored), cluster(8), ASSUMED)
    assert (sync.gather_s, sync.pull_s) == (0, 0)
    assert sync.pack_s == pytest.approx(size / 20e9)
    assert sync.put_s == pytest.approx(size / 4e9)
    far = with_split(seven(stored), engines=24, tensor_parallel=1, learners=8, zero_stage=3)
    assert sync_cost(SHAPE, far, cluster(32), ASSUMED).pull_s == pytest.approx(2 * size / 2.5e9)  # 3 nodes, 2 rounds


def test_a_broadcast_crosses_the_links_once() -> None:
    sync = sync_cost(SHAPE, seven("--learner.zero_stage=2"), cluster(8), ASSUMED)
    assert sync.publish_s == ASSUMED.call_s
    assert sync.arrive_s == pytest.approx(15_231_233_024 / (0.7 * 450e9) + ASSUMED.call_s)


def test_a_shared_gpu_takes_the_weights_from_the_host() -> None:
    shared = seven("--config", "one-gpu")
    sync = sync_cost(SHAPE, shared, cluster(1), ASSUMED)
    assert (shared.fast_sync, sync.publish_s) == ("ipc", ASSUMED.call_s)
    assert sync.arrive_s == pytest.approx(15_231_233_024 / (0.7 * 64e9) + ASSUMED.call_s)


def test_more_and_better_hardware_is_never_slower() -> None:
    small, large = (
        predicted(with_split(seven(), engines=half, tensor_parallel=1, learners=half, zero_stage=3), 2 * half)
        for half in (4, 8)
    )
    assert large.step.generate < small.step.generate
    assert large.step.train < small.step.train
    assert large.learner.peak < small.learner.peak
    older = predicted(seven(), gpu="a100-80")
    newer = predicted(seven(), gpu="h200-141")
    assert newer.steps_per_hour > predicted(seven()).steps_per_hour > older.steps_per_hour
    assert newer.engine.cached_tokens > older.engine.cached_tokens


def test_predictions_are_equal_for_equal_seeds() -> None:
    assert predicted(seven()) == predicted(seven())
    assert predicted(seven("--run.seed=1")).times != predicted(seven()).times


def test_staleness_hides_the_shorter_side() -> None:
    strict, ahead = (predicted(seven(f"--rollout.max_staleness={steps}")) for steps in (0, 1))
    last = ahead.times[-1]
    assert last.total < strict.times[-1].total
    assert last.generate + ahead.sync.arrive_s < last.total  # hidden behind the learners
    assert last.total == pytest.approx(last.train + ahead.sync.publish_s, rel=0.02)


def test_the_best_split_is_no_worse_than_the_config_s_own() -> None:
    config = seven()
    lengths = assumed_lengths(config, 500, 0.5, 200)
    own = own_splits(config, SHAPE, cluster(8), lengths, ASSUMED)
    best = best_splits(config, SHAPE, cluster(8), lengths, ASSUMED, 3)
    assert len(best) == 3
    assert best[0].steps_per_hour >= own[0][1].steps_per_hour
    assert all(found.gpus <= 8 and not found.shortages for found in best)
    scaled = own_splits(config, SHAPE, cluster(16), lengths, ASSUMED)[1]
    assert scaled[0] == "the same x 2"
    assert scaled[1].gpus == 16


def test_a_shared_gpu_is_counted_once() -> None:
    shared = seven("--config", "one-gpu", "--learner.zero_stage=3", *ON_HOST)
    lengths = assumed_lengths(shared, 500, 0.5, 200)
    found = predicted(shared, count=1)
    assert (found.gpus, found.shortages) == (1, ())
    assert predicted(seven("--config", "one-gpu"), count=1).shortages[0].startswith("a learner needs 153.4 GiB")
    two = own_splits(shared, SHAPE, cluster(2), lengths, ASSUMED)[1]
    assert (two[0], two[1].gpus, two[1].config.rollout.engines) == ("the same x 2", 2, 2)
    full = predicted(seven("--config", "one-gpu", "--rollout.gpu_memory_utilization=1"), count=1)
    assert any("lower rollout.gpu_memory_utilization from 1 to 0.97 or less" in reason for reason in full.shortages)


def test_taking_turns_moves_all_states_to_the_host_and_back() -> None:
    shared = seven("--config", "one-gpu")
    # bfloat16 weights of policy and reference, 12 bytes of float32 copy and moments, both ways at 0.7 x 64 GB/s
    seconds = 2 * 7_615_616_512 * (2 + 2 + 12) / (0.7 * 64e9)
    assert turns_s(SHAPE, shared, cluster(1), ASSUMED) == pytest.approx(seconds)
    on_host = seven("--config", "one-gpu", "--learner.zero_stage=3", *ON_HOST)
    assert turns_s(SHAPE, on_host, cluster(1), ASSUMED) == turns_s(SHAPE, seven(), cluster(8), ASSUMED) == 0


@pytest.mark.parametrize(("staleness", "splits"), [(0, [(1, True)]), (1, [])])
def test_one_gpu_is_searched_for_a_split_that_shares_it(staleness: int, splits: list[tuple[int, bool]]) -> None:
    config = load_config(["--config", "qwen2.5-0.5b-gsm8k", f"--rollout.max_staleness={staleness}"], presets=PRESETS)
    shape, lengths = model_shape(config.model), assumed_lengths(config, 200, 0.5, 200)
    best = best_splits(config, shape, cluster(1), lengths, ASSUMED, 3)
    assert [(found.gpus, found.config.rollout.colocated) for found in best] == splits
    assert not any(found.shortages for found in best)


def test_what_does_not_fit_says_what_would() -> None:
    config = seven("--learner.gradient_checkpointing=false", "--learner.zero_stage=2")
    found = predicted(config, gpu="a100-80")
    assert found.times == ()
    assert found.steps_per_hour == 0
    (reason,) = found.shortages
    assert "gradient_checkpointing=true (of" in reason
    assert "learner.zero_stage=3" in reason
    long = predicted(seven("--rollout.gpu_memory_utilization=0.2"))
    assert "tensor_parallel_size" in long.shortages[0]
    assert predicted(seven(), count=6).shortages == ("8 GPUs are asked for, the cluster has 6",)


def test_assumptions_can_be_set() -> None:
    assert assumptions(["train_share=0.5", "pass_s=0"]).train_share == 0.5
