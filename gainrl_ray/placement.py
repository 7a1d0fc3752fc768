"""Where a run goes: settings that ask for no GPU get the cluster's, and GPUs that cannot be used are refused before
anything starts."""

from collections.abc import Callable, Sequence
from typing import Any

from gainrl_ray.actors.gpu_nodes import GpuNode, gpu_nodes
from gainrl_ray.actors.resources import budget, scoring_share
from gainrl_ray.actors.session import cluster_supply, free_supply
from gainrl_ray.cli import Named
from gainrl_ray.config import Config
from gainrl_ray.config_layers import Layer, flatten, resolve
from gainrl_ray.devices import FREE_MIB, Gpu
from gainrl_ray.errors import ConfigError, ResourceError

CHOICES = ("learner.gpus_per_worker", "rollout.gpus_per_engine", "scoring.gpus_per_actor", "rollout.colocated")
"""Settings of which any that is given, in a preset too, leaves all of this to whoever gave it."""
PLACED = (*CHOICES, "rollout.gpu_memory_utilization", "model.dtype")
"""What is chosen here where nobody chose."""
SHARED_PART = 0.6
"""Most of a GPU's memory for an engine that shares it, as in jobs/configs/one-gpu.yaml."""
ON_CPUS = "GAINRL_EXTRA=cpu ./cluster/local.sh installs the packages for CPUs and leaves the GPUs alone"
ON_GPUS = "GAINRL_EXTRA=gpu ./cluster/local.sh installs the packages for GPUs"
HEADERS = (
    "Triton compiles at run time and finds no Python.h: apt install python3-dev (python3.11-dev beside python3.11), or "
    "give .venv a Python that has it (PYTHON=...)"
)


def place(config: Config, named: Named, *, stored: Config | None = None, say: Callable[[str], None]) -> Config:
    """The settings with the cluster's GPUs in them where they ask for none and `named` holds no choice of them.

    stored: those of a run that is continued, which stays where it was. One line tells what was chosen and how to choose
    otherwise. Ray must be connected.

    Raises:
        ResourceError: the GPUs that are asked for or chosen cannot run the settings; with the remedy.
    """
    nodes = gpu_nodes(say) if cluster_supply().get("GPU", 0) > 0 else []
    is_chosen = bool(named.anywhere & {*CHOICES})
    if stored is not None and not is_chosen:
        kept = {key: value for key, value in flatten(stored.model_dump(mode="json")) if key in PLACED}
        config = _with(config, kept, named)
    elif nodes and not is_chosen and not _asks(config):
        config = _on_gpus(config, named, nodes, say)
    check(config, nodes)
    return config


def check(config: Config, nodes: Sequence[GpuNode]) -> None:
    """Nothing; raises ResourceError when these nodes' GPUs, which are asked for, cannot run the settings."""
    if not nodes or not _asks(config):
        return
    old = [gpu for gpu in _usable_gpus(nodes) if not gpu.takes_bfloat16]
    if old and config.model.dtype == "bfloat16":
        raise ResourceError(
            f"model.dtype=bfloat16 needs GPUs of compute capability 8.0 or more, {old[0]} has less: use "
            "--model.dtype=float32, or leave it out by CUDA_VISIBLE_DEVICES"
        )


def _usable_gpus(nodes: Sequence[GpuNode]) -> list[Gpu]:
    """The GPUs of nodes with the packages for them. Raises ResourceError when nothing can run on any."""
    usable = [node for node in nodes if node.build == "cuda"]
    if not usable:
        raise ResourceError(f"GPUs are asked for and there, but the packages for CPUs are installed: {ON_GPUS}")
    if not any(node.has_headers for node in usable):
        raise ResourceError(f"{HEADERS}, or {ON_CPUS}")
    gpus = [gpu for node in usable for gpu in node.gpus]
    troubles = [f"{gpu}: {gpu.trouble}" for gpu in gpus if gpu.trouble]
    if len(troubles) == len(gpus) and all(node.gpus for node in usable):
        raise ResourceError(f"{'; '.join(troubles)}; or {ON_CPUS}")
    return gpus


def _on_gpus(config: Config, named: Named, nodes: Sequence[GpuNode], say: Callable[[str], None]) -> Config:
    """The settings on the nodes' GPUs: each part on its own, else by turns on shared ones; as they are where the
    packages for CPUs are installed."""
    usable = [node for node in nodes if node.build == "cuda"]
    if not usable:
        say(f"on CPUs: the packages for CPUs are installed and the GPUs are left alone ({ON_GPUS})")
        return config
    gpus, free = _usable_gpus(usable), _free(usable)
    dtype = "bfloat16" if all(gpu.takes_bfloat16 for gpu in gpus) else "float32"
    needed = config.rollout.engines * config.rollout.tensor_parallel_size + config.learner.workers
    common: dict[str, Any] = {"learner.gpus_per_worker": 1.0, "scoring.gpus_per_actor": 1.0, "model.dtype": dtype}
    utilization = "rollout.gpu_memory_utilization"
    if free >= needed:
        alone = {"rollout.gpus_per_engine": float(config.rollout.tensor_parallel_size)}
        alone |= {utilization: _part(gpus, config.rollout.gpu_memory_utilization)}
        chosen = _with(config, common | alone, named)
        how = f"{needed} of {free} GPUs for learners and engines, each its own"
    else:
        turns = {"rollout.gpus_per_engine": 1.0, "rollout.colocated": True, utilization: _part(gpus, SHARED_PART)}
        try:
            chosen = _with(config, common | turns, named)
            reason = "" if config.learner.workers <= free else f"they need {config.learner.workers}"
        except ConfigError as error:
            chosen, reason = config, str(error)
        if reason:
            raise ResourceError(
                f"learners and engines need {needed} GPUs of their own, free: {free}; they cannot share: {reason}. "
                f"Lower learner.workers or rollout.engines, or {ON_CPUS}"
            )
        shared = "the GPU" if config.learner.workers == 1 else f"{config.learner.workers} GPUs"
        how = f"learner and engine take turns on {shared}"
    names = ", ".join(dict.fromkeys(gpu.name for gpu in gpus))
    say(
        f"on {names or 'GPUs'}: {how}, {chosen.model.dtype} (no setting says where; to choose: "
        f"{', '.join(f'--{key}' for key in PLACED)}; {ON_CPUS})"
    )
    return chosen


def _free(nodes: Sequence[GpuNode]) -> int:
    """GPUs that Ray has not given away, without those that other processes fill. Raises ResourceError for none."""
    offered = int(free_supply().get("GPU", 0.0))
    idle = sum(node.count for node in nodes) <= offered
    busy = [gpu for node in nodes for gpu in node.gpus if gpu.is_busy or gpu.trouble] if idle else []
    if offered > len(busy):
        return offered - len(busy)
    what = "; ".join(f"{gpu} has {gpu.memory}" for gpu in busy) if offered else "Ray's other jobs have all of them"
    raise ResourceError(
        f"no GPU is free: {what}, {FREE_MIB / 1024:g} GiB and a quarter of it are needed. End what uses it (nvidia-smi "
        f"lists it) or wait; {ON_CPUS}"
    )


def _part(gpus: Sequence[Gpu], most: float) -> float:
    """The share of a GPU's memory for an engine: `most`, less where others use the GPU already."""
    free = [gpu.free_mib / gpu.total_mib for gpu in gpus if gpu.free_mib and gpu.total_mib and not gpu.is_busy]
    return min([most, *(int(20 * (share - 0.1)) / 20 for share in free)])


def _asks(config: Config) -> bool:
    """Whether any part asks for GPUs."""
    return any(share.gpus for share in (*budget(config), scoring_share(config)))


def _with(config: Config, chosen: dict[str, Any], named: Named) -> Config:
    """The settings with `chosen` in them where the user named no other value. Raises ConfigError."""
    tree: dict[str, Any] = {}
    for key, value in chosen.items():
        section, _, name = key.partition(".")
        if key not in named.by_user:
            tree.setdefault(section, {})[name] = value
    return resolve([Layer("", config.model_dump(mode="json")), Layer("", tree)])
