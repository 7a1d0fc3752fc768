"""Seconds of a run's parts, from the hardware's datasheet with stated shares of it, or from a measured run."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from gainrl_ray.config import Config, Fraction, Node
from gainrl_ray.errors import ConfigError
from gainrl_ray.planning.cluster import Cluster
from gainrl_ray.planning.pipeline import Demand, StepCosts
from gainrl_ray.planning.rollouts import DecodeCost
from gainrl_ray.planning.shape import ModelShape
from gainrl_ray.planning.workload import RankWork

GIGA, TERA = 1e9, 1e12


class Assumptions(Node):
    """What no datasheet tells; each is an assumption until measured, and printed with every plan."""

    train_share: Fraction = 0.40
    """of peak TFLOP/s in training's matrix products (assumed: dense layers in PyTorch reach 0.35 to 0.5)"""
    prefill_share: Fraction = 0.50
    """of peak TFLOP/s in the engines' matrix products (assumed)"""
    memory_share: Fraction = 0.70
    """of peak memory bandwidth, decoding and in AdamW (assumed)"""
    link_share: Fraction = 0.70
    """of a link's GB/s in collectives and to the host (assumed)"""
    decode_fixed_s: float = 0.003
    """s of a decode step beside weights and cache: scheduling, launches (assumed)"""
    decode_sequence_s: float = 2e-5
    """s of a decode step per sequence: seeded sampling, log-probabilities, output (assumed)"""
    all_reduce_s: float = 2e-5
    """s of a small all-reduce of a tensor-parallel engine, two a layer (assumed)"""
    pass_s: float = 0.02
    """s of a micro-batch beside its matrix products (assumed)"""
    copy_gbs: float = 4.0
    """GB/s of one thread's copy into shared memory (assumed; benchmark.py sync measured 0.6 to 9 on 2 cores)"""
    checksum_gbs: float = 20.0
    """GB/s of xxh3, computed by sender and engine (measured on one core)"""
    object_gbs: float = 2.5
    """GB/s of Ray's object transfer between two nodes, over TCP (assumed)"""
    call_s: float = 0.05
    """s of calls and waits in every part of a step (assumed)"""
    host_adam_values: float = 1e9
    """weights a second of torch's AdamW in host memory, when offloaded (assumed)"""
    disk_gbs: float = 1.0
    """GB/s of a rank's checkpoint to storage (assumed)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainCost:
    """Seconds of a learner rank's step."""

    line_s: float  # of a token through the layers, forward and backward
    square_s: float  # of a squared token of a line: attention
    head_s: float  # of a response token through the head
    measured_s: float  # of a prompt token run without a gradient
    pass_s: float  # of a micro-batch
    pass_floor_s: float  # least seconds of a micro-batch: its parameters' way between ranks under ZeRO 3
    update_s: float  # of an optimizer update: reduction and AdamW

    def seconds(self, work: RankWork) -> float:
        """Seconds of one step."""
        compute = self.line_s * work.lines + self.square_s * work.square + self.head_s * work.head
        passes = max(compute + self.pass_s * work.passes, self.pass_floor_s * work.passes)
        return passes + self.measured_s * work.measured + self.update_s * work.updates


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncCost:
    """One version's way, stage by stage, in seconds."""

    gather_s: float  # ZeRO 3: from all ranks to the first
    to_host_s: float  # from its GPU; nothing of this and the next two when versions are broadcast
    pack_s: float  # the checksum
    put_s: float  # the copy into shared memory
    pull_s: float  # to the engines' nodes, or by broadcast to their GPUs
    load_s: float  # checksum, to the GPUs
    call_s: float

    @property
    def publish_s(self) -> float:
        """The learner's part."""
        return self.gather_s + self.to_host_s + self.pack_s + self.put_s + self.call_s

    @property
    def arrive_s(self) -> float:
        """The engines' part."""
        return self.pull_s + self.load_s + self.call_s


@dataclass(frozen=True, slots=True, kw_only=True)
class PartCosts:
    """All that the simulation has to know of hardware and model."""

    decode: DecodeCost
    train: TrainCost
    sync: SyncCost
    call_s: float  # of a call of generate beside its engines
    grade_s: float
    close_s: float
    commit_s: float
    demand: Demand


def step_costs(
    parts: PartCosts, *, engines: tuple[float, ...], work: RankWork, evaluate_s: float, commits: bool
) -> StepCosts:
    """The costs of one step whose engines take `engines` seconds."""
    return StepCosts(
        generate=tuple(seconds + parts.call_s for seconds in engines),
        grade=parts.grade_s,
        train=parts.train.seconds(work),
        publish=parts.sync.publish_s,
        load=parts.sync.arrive_s,
        close=parts.close_s,
        evaluate=evaluate_s,
        commit=parts.commit_s if commits else 0.0,
    )


def hardware_costs(shape: ModelShape, config: Config, cluster: Cluster, assumed: Assumptions) -> PartCosts:
    """The costs of `config` on `cluster`."""
    weights = _width(config) * shape.parameters / (config.learner.workers if config.learner.zero_stage == 3 else 1)
    return PartCosts(
        decode=decode_cost(shape, config, cluster, assumed),
        train=train_cost(shape, config, cluster, assumed),
        sync=sync_cost(shape, config, cluster, assumed),
        call_s=assumed.call_s,
        grade_s=assumed.call_s,
        close_s=assumed.call_s + turns_s(shape, config, cluster, assumed),
        commit_s=(12 * shape.parameters / config.learner.workers + weights) / (assumed.disk_gbs * GIGA),
        demand=Demand(
            engine=config.rollout.threads_per_engine,
            learner=config.learner.threads_per_worker,
            learners=config.learner.workers,
        ),
    )


def turns_s(shape: ModelShape, config: Config, cluster: Cluster, assumed: Assumptions) -> float:
    """Seconds in which a step's learner moves what it holds to host memory and back, where it shares its GPU.

    Under ZeRO 3 everything is there already (actors/turns.py).
    """
    if not (config.rollout.colocated and cluster.device.is_gpu) or config.learner.zero_stage == 3:
        return 0.0
    replicas = _width(config) * (2 if config.loss.kl_coef > 0 else 1)
    states = 0.0 if config.learner.offload_optimizer == "cpu" else 12 / config.learner.workers
    return 2 * shape.parameters * (replicas + states) / (cluster.device.host_gbs * GIGA * assumed.link_share)


def decode_cost(shape: ModelShape, config: Config, cluster: Cluster, assumed: Assumptions) -> DecodeCost:
    """An engine of rollout.tensor_parallel_size GPUs: bound by reading weights and cache, or by matrix products."""
    rollout, width = config.rollout, _width(config)
    devices = rollout.tensor_parallel_size if cluster.device.is_gpu else rollout.threads_per_engine
    reading = devices * cluster.device.memory_gbs * GIGA * assumed.memory_share
    products = devices * cluster.device.tflops * TERA * assumed.prefill_share
    # Every matrix is read once a step, an untied input embedding only at a row for each sequence.
    matrices = shape.body_parameters + shape.embedding_parameters
    reduces = 2 * shape.layers * assumed.all_reduce_s if rollout.tensor_parallel_size > 1 else 0.0
    return DecodeCost(
        fixed_s=assumed.decode_fixed_s + reduces,
        sequence_s=assumed.decode_sequence_s,
        weights_s=width * matrices / reading,
        context_s=width * shape.kv_values(1) / reading,
        compute_s=2 * matrices / products,
        prefill_s=2 * shape.body_parameters / products,
    )


def train_cost(shape: ModelShape, config: Config, cluster: Cluster, assumed: Assumptions) -> TrainCost:
    """2 operations a weight forward, 4 backward; with checkpointing 2 more, for a reference policy 2 more, and 2 more
    for the old log-probabilities of several updates."""
    learner, width = config.learner, _width(config)
    ranks = learner.workers
    speed = cluster.device.tflops * TERA * assumed.train_share
    if not cluster.device.is_gpu:
        speed *= learner.threads_per_worker
    extra = 2 * (config.loss.kl_coef > 0) + 2 * (learner.updates_per_step > 1)
    passes = 6 + 2 * learner.gradient_checkpointing + extra
    link = cluster.link_gbs(ranks) * GIGA * assumed.link_share
    moved = 2 * (ranks - 1) / ranks * width * shape.parameters / link  # of a ring all-reduce
    # Forward, backward and every pass without a gradient gather; the backward pass reduces. Overlapped by prefetching.
    gathers = (3 + extra / 2) * moved / 2 if learner.zero_stage == 3 else 0.0
    # Stages 1 and 2 gather the new parameters after the reduction; stage 3 reduces in every backward pass.
    reduced = 0.0 if learner.zero_stage == 3 else moved * (1.5 if learner.zero_stage == 1 else 1.0)
    owned = shape.parameters / (ranks if learner.zero_stage else 1)
    adam = 28 * owned / (cluster.device.memory_gbs * GIGA * assumed.memory_share)
    if learner.offload_optimizer == "cpu":
        adam = owned / assumed.host_adam_values + 8 * owned / (cluster.device.host_gbs * GIGA * assumed.link_share)
    return TrainCost(
        line_s=passes * shape.body_parameters / speed,
        square_s=passes * shape.layers * shape.heads * shape.head_size / speed,
        head_s=(passes + 2 - 2 * learner.gradient_checkpointing) * shape.embedding_parameters / speed,
        measured_s=2 * shape.body_parameters / speed,
        pass_s=assumed.pass_s,
        pass_floor_s=gathers,
        update_s=reduced + adam,
    )


def sync_cost(shape: ModelShape, config: Config, cluster: Cluster, assumed: Assumptions) -> SyncCost:
    """The stages of actors/{zero_state,transport,weights,rollout,engine}.py for the bytes of one version.

    A broadcast goes over the links between all GPUs, a learner that shares its GPU copies there what waits in host
    memory, and the store is filled while engines generate. Nodes that hold a bucket pass it on, so the pull takes as
    many rounds as doublings reach all nodes (assumed).
    """
    size = _width(config) * shape.parameters
    copy, checksum = size / (assumed.copy_gbs * GIGA), size / (assumed.checksum_gbs * GIGA)
    ranks, device = config.learner.workers, cluster.device
    link = cluster.link_gbs(ranks) * GIGA * assumed.link_share
    to_device = size / (device.host_gbs * GIGA * assumed.link_share) if device.is_gpu else copy
    gpus = config.rollout.engines * config.rollout.tensor_parallel_size
    used = max(gpus, ranks) if config.rollout.colocated else gpus + ranks
    nodes = math.ceil(gpus / device.per_node) if used > device.per_node else 0
    rounds = math.ceil(math.log2(nodes + 1))
    gather_s = (ranks - 1) / ranks * size / link if config.learner.zero_stage == 3 else 0.0
    if config.fast_sync:
        by_link = size / (cluster.link_gbs(gpus + ranks) * GIGA * assumed.link_share)
        sent_s = to_device if config.fast_sync == "ipc" else by_link
        return SyncCost(
            gather_s=gather_s, to_host_s=0, pack_s=0, put_s=0, pull_s=sent_s, load_s=0, call_s=assumed.call_s
        )
    return SyncCost(
        gather_s=gather_s,
        to_host_s=to_device,
        pack_s=checksum,
        put_s=copy,
        pull_s=rounds * size / (assumed.object_gbs * GIGA),
        load_s=checksum + to_device,
        call_s=assumed.call_s,
    )


def assumptions(settings: Sequence[str]) -> Assumptions:
    """The assumptions with NAME=VALUE settings over them. Raises ConfigError naming what is accepted."""
    names = ", ".join(Assumptions.model_fields)
    values: dict[str, str] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or name not in Assumptions.model_fields:
            raise ConfigError(f"--assume {setting}: accepted are NAME=NUMBER with one of {names}")
        values[name] = value
    try:
        assumed = Assumptions.model_validate(values)
    except ValidationError as error:
        detail = error.errors()[0]
        raise ConfigError(f"--assume {detail['loc'][0]}={detail['input']}: {detail['msg']}") from None
    zero = [name for name in values if getattr(assumed, name) <= 0 and not name.endswith("_s")]
    if zero or any(getattr(assumed, name) < 0 for name in values):
        raise ConfigError(f"--assume {' '.join(settings)}: shares and rates are above 0, seconds not below it")
    return assumed


def _width(config: Config) -> int:
    return 2 if config.model.dtype == "bfloat16" else 4
