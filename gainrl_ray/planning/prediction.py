"""A config's memory and step on a cluster, by the rules of memory and the two simulations."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from gainrl_ray.algo.randomness import coordinate_rng
from gainrl_ray.config import Config
from gainrl_ray.curricula.registry import strategy_class
from gainrl_ray.planning.cluster import GIB, Cluster
from gainrl_ray.planning.costs import Assumptions, PartCosts, SyncCost, hardware_costs, step_costs
from gainrl_ray.planning.memory import CONTEXT_BYTES, EngineMemory, Memory, engine_memory, learner_memory
from gainrl_ray.planning.pipeline import StepTimes, simulate_run
from gainrl_ray.planning.rollouts import DecodeCost, EngineLimits, EngineRun, simulate_call
from gainrl_ray.planning.shape import ModelShape
from gainrl_ray.planning.workload import Lengths, RankWork, Window, draw_window, rank_work

ASSUMED_HELDOUT = 500
"""Held-out problems where data.heldout.limit does not say."""
SIMULATED_STEPS = 11
"""The first is left out: at max_staleness > 0 nothing has been generated ahead of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a config needs and takes."""

    config: Config
    learner: Memory
    engine: EngineMemory
    shortages: tuple[str, ...]  # why it does not fit, and what would help; empty when it does
    sync: SyncCost
    times: tuple[StepTimes, ...]  # empty when it does not fit

    @property
    def gpus(self) -> int:
        """Devices in use."""
        return devices_used(self.config)

    @property
    def step(self) -> StepTimes:
        """Mean seconds of the steps after the first."""
        rest = self.times[1:] or self.times
        return StepTimes(*(fmean(getattr(step, name) for step in rest) for name in StepTimes.__slots__))

    @property
    def steps_per_hour(self) -> float:
        """Steps in 3600 s; 0 when it does not fit."""
        return 3600 / self.step.total if self.times else 0.0


def devices_used(config: Config) -> int:
    """Devices that a config takes, a shared one once."""
    engines, learners = config.rollout.engines * config.rollout.tensor_parallel_size, config.learner.workers
    return max(engines, learners) if config.rollout.colocated else engines + learners


class Simulator:
    """The work of the same drawn steps under changing splits; what splits have in common is computed once."""

    def __init__(self, config: Config, lengths: Lengths, steps: int) -> None:
        self._lengths, self._steps = lengths, steps
        self._windows = [draw_window(lengths, config, step) for step in range(steps)]
        rng = coordinate_rng(config.run.seed, "plan-evaluation")
        count = config.data.heldout.limit or ASSUMED_HELDOUT
        self._heldout = lengths.draw(count, 1, config.rollout.max_new_tokens, rng)
        self._packs = True
        self._measures = strategy_class(config.curriculum).wants_angle
        self._works: dict[int, list[RankWork]] = {}
        self._calls: dict[tuple[int, DecodeCost, int], list[list[EngineRun]]] = {}

    @property
    def windows(self) -> list[Window]:
        """What the steps hold."""
        return self._windows

    def works(self, config: Config) -> list[RankWork]:
        """Each step's work of the busiest rank."""
        ranks = config.learner.workers
        if ranks not in self._works:
            self._works[ranks] = [
                rank_work(window, config, ranks=ranks, packs=self._packs, measures=self._measures)
                for window in self._windows
            ]
        return self._works[ranks]

    def calls(self, config: Config, parts: PartCosts, cached_tokens: int) -> list[list[EngineRun]]:
        """What the engines do in each step."""
        return [self._call(window.prompt, window.completions, config, parts, cached_tokens) for window in self._windows]

    def evaluation_s(self, config: Config, parts: PartCosts, cached_tokens: int) -> float:
        """Seconds of a greedy evaluation."""
        prompt = round(self._lengths.prompt)
        runs = self._call(prompt, self._heldout, config, parts, cached_tokens)
        return max(run.seconds for run in runs) + parts.call_s + parts.grade_s

    def times(self, config: Config, parts: PartCosts, cached_tokens: int, cores: float | None) -> list[StepTimes]:
        """Seconds of each simulated step."""
        calls = self.calls(config, parts, cached_tokens)
        every = config.evaluation.every
        evaluate_s = self.evaluation_s(config, parts, cached_tokens) if every and every <= self._steps else 0.0
        costs = [
            step_costs(
                parts,
                engines=tuple(run.seconds for run in runs),
                work=work,
                evaluate_s=evaluate_s if every and step % every == 0 else 0.0,
                commits=step % config.checkpoint.every == 0,
            )
            for step, (runs, work) in enumerate(zip(calls, self.works(config), strict=True), start=1)
        ]
        staleness = config.rollout.max_staleness
        return simulate_run(costs, max_staleness=staleness, demand=parts.demand, cores=cores)

    def _call(
        self, prompt: int, completions: np.ndarray, config: Config, parts: PartCosts, cached_tokens: int
    ) -> list[EngineRun]:
        groups = [(prompt, group) for group in completions.tolist()]
        limits = EngineLimits(
            sequences=config.rollout.max_num_seqs,
            longest=config.rollout.max_new_tokens,
            cached_tokens=cached_tokens,
        )
        engines, shared = config.rollout.engines, min(self._lengths.shared, float(prompt))
        return simulate_call(groups, engines=engines, cost=parts.decode, limits=limits, shared=shared)


def predict(
    config: Config, shape: ModelShape, cluster: Cluster, assumed: Assumptions, simulator: Simulator
) -> Prediction:
    """Memory of `config` on `cluster`, and its steps when it fits."""
    learner = learner_memory(shape, config, ranks=config.learner.workers, on_gpu=cluster.device.is_gpu)
    engine = engine_memory(shape, config, cluster, tensor_parallel=config.rollout.tensor_parallel_size)
    parts = hardware_costs(shape, config, cluster, assumed)
    short = shortages(config, cluster, learner, engine)
    times = [] if short else simulator.times(config, parts, engine.cached_tokens, cluster.cores)
    return Prediction(
        config=config, learner=learner, engine=engine, shortages=short, sync=parts.sync, times=tuple(times)
    )


def shortages(config: Config, cluster: Cluster, learner: Memory, engine: EngineMemory) -> tuple[str, ...]:
    """Why a config does not fit on the cluster, a sentence each with what would help."""
    found = []
    have, used = cluster.memory, devices_used(config)
    if cluster.device.is_gpu and used > cluster.count:
        found.append(f"{used} GPUs are asked for, the cluster has {cluster.count}")
    if learner.peak > have:
        found.append(
            f"a learner needs {learner.peak / GIB:.1f} GiB, a device has {have / GIB:.1f}: {_remedies(config, learner)}"
        )
    share = config.rollout.gpu_memory_utilization
    if cluster.device.is_gpu and config.rollout.colocated and share * have + CONTEXT_BYTES > have:
        found.append(
            f"a learner that waits keeps {CONTEXT_BYTES / GIB:.0f} GiB of a GPU that its engine shares: lower "
            f"rollout.gpu_memory_utilization from {share:g} to {1 - CONTEXT_BYTES / have:.2f} or less"
        )
    if not engine.fits:
        found.append(
            f"an engine's GPU has room for {engine.cached_tokens:,} tokens of keys and values beside "
            f"{engine.weights / GIB:.1f} GiB of weights and {engine.working / GIB:.1f} GiB of working memory, the "
            f"longest sequence has {engine.longest:,}: raise rollout.tensor_parallel_size, or lower "
            "rollout.max_new_tokens"
        )
    return tuple(found)


def _remedies(config: Config, learner: Memory) -> str:
    """Settings that make a learner smaller, the one that frees most first."""
    settings, shared = config.learner, config.rollout.colocated
    all_states = sum(learner.held.get(name, 0.0) for name in ("parameters", "optimizer", "reference"))
    on_host = "learner.zero_stage=3 with learner.offload_optimizer=cpu and learner.offload_params=cpu"
    offers: Sequence[tuple[bool, float, str]] = (
        (settings.zero_stage < 3 and not shared, learner.held["parameters"], "learner.zero_stage=3"),
        (settings.zero_stage < 3 and shared, all_states, on_host),
        (settings.offload_optimizer == "none", learner.held.get("optimizer", 0.0), "learner.offload_optimizer=cpu"),
        (
            not settings.gradient_checkpointing,
            learner.training["activations"],
            "learner.gradient_checkpointing=true",
        ),
        (settings.gradient_checkpointing, learner.training["activations"], "a smaller learner.microbatch_tokens"),
    )
    useful = sorted((offer for offer in offers if offer[0]), key=lambda offer: -offer[1])
    more = "" if shared else "more learner.workers, or "
    return more + ", ".join(f"{text} (of {size / GIB:.0f} GiB)" for _, size, text in useful)
