"""One resource budget: what every part asks for, from the config alone, and the check against the cluster."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from gainrl_ray.actors.devices import check_packages
from gainrl_ray.config import Config
from gainrl_ray.errors import ResourceError
from gainrl_ray.processor import this_processor

LEARNER_PART = 0.6
"""Of a GPU that a learner rank shares with an engine: above one half, so that no two ranks land on one GPU."""

HEAD = "node:__internal_head__"
"""By which Ray marks the head among the resources, beside one of its own per node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one part asks for: `count` units of `cpus` and `gpus` each."""

    part: str
    count: int
    cpus: float
    gpus: float

    @property
    def bundle(self) -> dict[str, float]:
        """One unit as a Ray resource bundle; zero amounts are left out."""
        return {name: amount for name, amount in (("CPU", self.cpus), ("GPU", self.gpus)) if amount > 0}


def gpu_shares(config: Config) -> tuple[float, float]:
    """GPUs that a learner rank and an engine ask Ray for; a shared GPU is counted once."""
    learner, engine = config.learner.gpus_per_worker, config.rollout.gpus_per_engine
    if config.rollout.colocated:
        return LEARNER_PART * learner, (1 - LEARNER_PART) * engine
    return learner, engine


def budget(config: Config) -> tuple[Share, ...]:
    """The shares of a training run's lasting parts; control actors ask for nothing.

    Scoring is not among them: it ends before the engines' groups exist.
    """
    learner, rollout = config.learner, config.rollout
    learner_gpus, engine_gpus = gpu_shares(config)
    return (
        Share(part="learner", count=learner.workers, cpus=learner.cpus_per_worker, gpus=learner_gpus),
        Share(part="engine", count=rollout.engines, cpus=rollout.cpus_per_engine, gpus=engine_gpus),
    )


def scoring_share(config: Config) -> Share:
    """The share of scoring at its smallest."""
    scoring = config.scoring
    return Share(part="scorer", count=scoring.min_actors, cpus=scoring.cpus_per_actor, gpus=scoring.gpus_per_actor)


def shortage(shares: tuple[Share, ...], supply: Mapping[str, float]) -> str | None:
    """A sentence for each resource of which `shares` need more than `supply`, or None when all fits."""
    lines = []
    for resource, amount in (("CPU", "cpus"), ("GPU", "gpus")):
        parts = [(share, getattr(share, amount)) for share in shares if getattr(share, amount) > 0]
        need = sum(share.count * each for share, each in parts)
        have = supply.get(resource, 0.0)
        if need > have + 1e-9:
            detail = " + ".join(f"{share.count} {share.part} x {each:g}" for share, each in parts)
            lines.append(f"{resource}: needed {need:g} ({detail}), the cluster has {have:g}")
    return "; ".join(lines) or None


def tell_processor(config: Config, shares: tuple[Share, ...], say: Callable[[str], None]) -> None:
    """Says in one line what this machine's processor offers, where a part of the run computes on CPUs.

    Raises:
        ResourceError: engines would run on it and cannot.
    """
    parts = {share.part for share in shares if share.gpus == 0}
    processor = this_processor()
    if "engine" in parts:
        processor.check_engine()
    if parts:
        say(processor.line(config.model.dtype))


def threads(config: Config) -> int:
    """Cores that a run keeps busy at a time on CPU, where its engines and learners take turns; 0 on GPUs.

    Runs that share cores beyond this wait for each other's threads, and each step takes several times as long.
    """
    learner, rollout = config.learner, config.rollout
    if learner.gpus_per_worker or rollout.gpus_per_engine:
        return 0
    return max(learner.workers * learner.threads_per_worker, rollout.engines * rollout.threads_per_engine)


def side_by_side(budgets: Sequence[tuple[Share, ...]], supply: Mapping[str, float], most: int) -> int:
    """How many runs, each as large as the largest of `budgets`, fit into `supply` at a time, 0 to `most`."""
    counts = range(most, 0, -1)
    return next((count for count in counts if not any(shortage(need * count, supply) for need in budgets)), 0)


def _shared_gpu_hint(shares: tuple[Share, ...], supply: Mapping[str, float]) -> str:
    """Words on the preset one-gpu where learner and engine want whole GPUs and the cluster has one, else ""."""
    wants_whole = all(share.gpus >= 1 for share in shares if share.part in ("learner", "engine"))
    both = {"learner", "engine"} <= {share.part for share in shares}
    if not (both and wants_whole and supply.get("GPU", 0.0) >= 1 and shortage(shares, {**supply, "CPU": math.inf})):
        return ""
    return (
        "; `--config one-gpu` after the other --config has one learner and one engine share a GPU by turns "
        "(jobs/configs/one-gpu.yaml tells which models fit which GPU)"
    )


def preflight(shares: tuple[Share, ...], supply: Mapping[str, float], autoscaling: bool) -> str:
    """One console line: need against supply.

    Raises:
        ResourceError: the shares do not fit and the cluster does not grow; on an autoscaling cluster the wait
            for placement has its own deadline instead. Or the packages cannot serve them: on a cluster of this node
            alone, since others can have other packages, and refuse for themselves.
    """
    short = shortage(shares, supply)
    if short and not autoscaling:
        raise ResourceError(
            f"{short}. Lower rollout.engines, learner.workers or their cpus_per_*/gpus_per_* settings, "
            f"or run on a larger cluster{_shared_gpu_hint(shares, supply)}"
        )
    nodes = [name for name in supply if name.startswith("node:") and name != HEAD]
    if len(nodes) == 1 and not autoscaling:
        check_packages([(share.part, share.gpus) for share in shares])
    need = ", ".join(
        f"{s.count} {s.part} x {{{', '.join(f'{k}: {v:g}' for k, v in s.bundle.items())}}}" for s in shares
    )
    have = ", ".join(f"{name}: {supply.get(name, 0):g}" for name in ("CPU", "GPU") if supply.get(name))
    return f"resources: {need}; cluster: {{{have}}}" + (f"; waiting for nodes ({short})" if short else "")
