"""What the nodes with GPUs of the connected cluster say of them."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from gainrl_ray.devices import Build, Gpu, has_python_headers, installed_build, machine_gpus

QUIET_S, ANSWER_S = 10.0, 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuNode:
    """A node with GPUs."""

    address: str
    count: float  # GPUs that Ray counts there
    build: Build
    has_headers: bool
    gpus: tuple[Gpu, ...]  # () where the driver's tool is not there to be asked


def gpu_nodes(say: Callable[[str], None]) -> list[GpuNode]:
    """Every live node with GPUs; one that does not answer within a minute is left out, and said."""
    nodes = {node["NodeID"]: node for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU", 0) > 0}
    asked = {_ask_there(node_id): node for node_id, node in nodes.items()}
    waiting = [*asked]
    if asked:
        _, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=QUIET_S)
    if waiting:
        say(f"waiting for {len(waiting)} of {len(asked)} nodes to tell of their GPUs")
        _, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=ANSWER_S - QUIET_S)
    found = []
    for ref, node in asked.items():
        address, count = node["NodeManagerAddress"], node["Resources"]["GPU"]
        try:
            if ref in waiting:
                raise TimeoutError(f"no answer within {ANSWER_S:.0f} s")
            build, has_headers, gpus = ray.get(ref)
        except (RayError, TimeoutError) as error:
            say(f"node {address} does not tell of its {count:g} GPUs ({str(error).splitlines()[0]})")
            continue
        found.append(GpuNode(address=address, count=count, build=build, has_headers=has_headers, gpus=gpus))
    return found


def _ask_there(node_id: str) -> Any:
    task = ray.remote(num_cpus=0, max_retries=0)(_describe)
    # A task without GPUs would be shown none, where Ray is told to hide them; here it is to see what the node offers.
    variables = {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    strategy = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return task.options(scheduling_strategy=strategy, runtime_env={"env_vars": variables}).remote()


def _describe() -> tuple[Build, bool, tuple[Gpu, ...]]:
    return installed_build(), has_python_headers(), machine_gpus(os.environ.get("CUDA_VISIBLE_DEVICES"))
