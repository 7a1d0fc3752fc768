"""The split of a cluster's GPUs between rollout and learning that gives the most steps an hour."""

from collections.abc import Iterator

from gainrl_ray.config import Config
from gainrl_ray.planning.cluster import Cluster
from gainrl_ray.planning.costs import Assumptions
from gainrl_ray.planning.prediction import SIMULATED_STEPS, Prediction, Simulator, predict
from gainrl_ray.planning.shape import ModelShape
from gainrl_ray.planning.workload import Lengths

SCREENED_STEPS = 3
"""Steps simulated of every split; the best are simulated in full."""
SHARED_PART = 0.6
"""Of a shared GPU's memory for its engine, as in jobs/configs/one-gpu.yaml."""
SHARES = 16
"""Learner counts tried: so many even parts of the cluster."""


def with_split(
    config: Config, *, engines: int, tensor_parallel: int, learners: int, zero_stage: int, shared: bool = False
) -> Config:
    """The config with another split of GPUs; each engine process and learner has one, or with `shared` one of each."""
    rollout = {"engines": engines, "tensor_parallel_size": tensor_parallel, "gpus_per_engine": float(tensor_parallel)}
    rollout["colocated"] = shared
    if shared:
        rollout["gpu_memory_utilization"] = min(SHARED_PART, config.rollout.gpu_memory_utilization)
    learner = {"workers": learners, "zero_stage": zero_stage, "gpus_per_worker": 1.0}
    if zero_stage < 3:
        learner["offload_params"] = "none"
    if zero_stage == 0:
        learner["offload_optimizer"] = "none"
    return config.model_copy(
        update={
            "rollout": config.rollout.model_copy(update=rollout),
            "learner": config.learner.model_copy(update=learner),
        }
    )


def splits(config: Config, shape: ModelShape, cluster: Cluster) -> Iterator[Config]:
    """Every split tried: learners by even parts, the rest engines of 1 GPU up to a node, ZeRO 0 to 3; and, where the
    settings allow it, an engine and a learner on every GPU."""
    sequences = config.rollout.problems_per_step
    part = max(1, cluster.count // SHARES)
    for learners in range(part, cluster.count, part):
        for tensor_parallel in (1, 2, 4, 8):
            engines = (cluster.count - learners) // tensor_parallel
            heads_divide = shape.heads % tensor_parallel == 0
            if tensor_parallel <= cluster.device.per_node and heads_divide and 1 <= engines <= sequences:
                for stage in range(4):
                    yield with_split(
                        config, engines=engines, tensor_parallel=tensor_parallel, learners=learners, zero_stage=stage
                    )
    if not config.rollout.max_staleness and not config.lora.sends_adapters and cluster.count <= sequences:
        count = cluster.count
        yield with_split(config, engines=count, tensor_parallel=1, learners=count, zero_stage=2, shared=True)


def best_splits(
    config: Config, shape: ModelShape, cluster: Cluster, lengths: Lengths, assumed: Assumptions, keep: int
) -> list[Prediction]:
    """The best `keep` splits that fit, fastest first, each with its fastest ZeRO stage; when none fits, the nearest."""
    screen = Simulator(config, lengths, SCREENED_STEPS)
    tried = [predict(split, shape, cluster, assumed, screen) for split in splits(config, shape, cluster)]
    fitting = sorted((found for found in tried if found.times), key=lambda found: -found.steps_per_hour)
    if not fitting:
        return [min(tried, key=lambda found: (not found.engine.fits, found.learner.peak))] if tried else []
    full = Simulator(config, lengths, SIMULATED_STEPS)
    fastest: dict[tuple[int, int, int], Prediction] = {}
    for found in fitting:
        rollout = found.config.rollout
        fastest.setdefault((rollout.engines, rollout.tensor_parallel_size, found.config.learner.workers), found)
    best = [predict(found.config, shape, cluster, assumed, full) for found in [*fastest.values()][: 2 * keep]]
    return sorted(best, key=lambda found: -found.steps_per_hour)[:keep]


def own_splits(
    config: Config, shape: ModelShape, cluster: Cluster, lengths: Lengths, assumed: Assumptions
) -> list[tuple[str, Prediction]]:
    """The config as it stands, and its split scaled to the whole cluster where that is another one."""
    simulator = Simulator(config, lengths, SIMULATED_STEPS)
    own = predict(config, shape, cluster, assumed, simulator)
    found = [("as configured", own)]
    scale = cluster.count // own.gpus
    if scale > 1 and cluster.device.is_gpu:
        scaled = with_split(
            config,
            engines=config.rollout.engines * scale,
            tensor_parallel=config.rollout.tensor_parallel_size,
            learners=config.learner.workers * scale,
            zero_stage=config.learner.zero_stage,
            shared=config.rollout.colocated,
        )
        found.append((f"the same x {scale}", predict(scaled, shape, cluster, assumed, simulator)))
    return found
