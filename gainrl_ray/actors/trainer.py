"""The Ray Train trainer of a run: the learner gang, its restarts, checkpoints and deadlines."""

import os
from collections.abc import Callable
from typing import Any

from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from gainrl_ray.actors.devices import device_environment
from gainrl_ray.actors.resources import gpu_shares
from gainrl_ray.config import Config


def build_trainer(config: Config, run_name: str, loop: Callable[[Any], None], task: Any) -> TorchTrainer:
    """The trainer whose checkpoints live in `<storage>/<run_name>`; an existing run of that name is continued.

    Ray Train's own waits have no limit by default (group start, the report barrier): each gets one here.
    """
    learner, gpu = config.learner, config.learner.gpus_per_worker > 0
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(learner.start_deadline_s)
    os.environ["RAY_TRAIN_COLLECTIVE_TIMEOUT_S"] = str(learner.collective_deadline_s)
    os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = str(min(60.0, learner.collective_deadline_s))
    # How soon the end of a gang, or of a rank, is seen: with Ray's 2 s a run lasts 3.5 s longer after its last step.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    # Nodes of a fixed cluster are not taken away with a warning; the watcher would be one more process to start.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "1" if config.ray.autoscaling else "0")
    resources = {"CPU": learner.cpus_per_worker} | ({"GPU": gpu_shares(config)[0]} if gpu else {})
    threads = {} if gpu else {"OMP_NUM_THREADS": str(learner.threads_per_worker)}
    variables = threads | device_environment(learner.gpus_per_worker)
    return TorchTrainer(
        loop,
        train_loop_config=task,
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo", timeout_s=int(learner.collective_deadline_s)),
        scaling_config=ScalingConfig(num_workers=learner.workers, use_gpu=gpu, resources_per_worker=resources),
        run_config=RunConfig(
            name=run_name,
            storage_path=config.run.storage,
            failure_config=FailureConfig(
                max_failures=config.run.max_failures, controller_failure_limit=config.run.max_failures
            ),
            checkpoint_config=CheckpointConfig(num_to_keep=config.checkpoint.keep_last),
            worker_runtime_env={"env_vars": variables},
        ),
    )
