"""A run's settings as a DeepSpeed configuration, its learning rates, and DeepSpeed's start in this process."""

import contextlib
import io
import logging
import math
import os
import warnings
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import torch

from gainrl_ray.config import Config, OptimizerConfig
from gainrl_ray.errors import ConfigError

_logger = logging.getLogger(__name__)

BACKENDS = {"cuda": "nccl", "cpu": "gloo"}
"""What learner ranks talk by, by device."""

_LARGEST_BUCKET = 5 * 10**8
_DECIDED_HERE = {
    "train_batch_size": "learner.microbatch_tokens",
    "train_micro_batch_size_per_gpu": "learner.microbatch_tokens",
    "gradient_accumulation_steps": "learner.microbatch_tokens",
    "gradient_clipping": "optimizer.max_grad_norm",
    "scheduler": "optimizer.schedule",
    "bf16": "model.dtype",
    "fp16": "model.dtype",
}


def deepspeed_config(config: Config, *, ranks: int, parameters: int) -> dict[str, Any]:
    """The configuration for deepspeed.initialize; `learner.deepspeed` is merged over what the tree gives.

    Micro-batches are packed by tokens and their boundary is set by hand, so DeepSpeed's own batch sizes are 1.
    `parameters`: number of trained weights, which bounds the reduction buckets.
    Raises ConfigError for a key of learner.deepspeed that another setting decides.
    """
    learner, optimizer = config.learner, config.optimizer
    for key, instead in _DECIDED_HERE.items():
        if key in learner.deepspeed:
            raise ConfigError(f"learner.deepspeed.{key}={learner.deepspeed[key]!r} cannot be set: use {instead}")
    if learner.deepspeed.get("zero_optimization", {}).get("stage", learner.zero_stage) != learner.zero_stage:
        raise ConfigError("learner.deepspeed.zero_optimization.stage cannot be set: use learner.zero_stage")
    is_bf16 = config.model.dtype == "bfloat16"
    settings: dict[str, Any] = {
        "train_batch_size": ranks,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": optimizer.max_grad_norm,
        "optimizer": {
            "type": "AdamW",
            "params": {
                "lr": optimizer.lr,
                "betas": list(optimizer.betas),
                "eps": optimizer.eps,
                "weight_decay": optimizer.weight_decay,
                "torch_adam": True,
                "fused": True,
            },
        },
        "bf16": {"enabled": is_bf16, "check_grad_overflow": is_bf16},
        "zero_optimization": _zero(config, parameters),
    }
    # Stage 0 has no float32 accumulation of bfloat16 gradients in DeepSpeed.
    if is_bf16 and learner.zero_stage > 0:
        settings["data_types"] = {"grad_accum_dtype": "fp32"}
    settings = _merged(settings, learner.deepspeed)
    if not settings["optimizer"]["params"]["torch_adam"]:
        del settings["optimizer"]["params"]["fused"]  # DeepSpeed's own kernels do not know the word
    return settings


def reference_config(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of an engine that only runs the frozen reference policy, its parameters sharded alike."""
    kept = {key: value for key, value in settings.items() if key not in ("optimizer", "data_types")}
    zero = {key: value for key, value in kept["zero_optimization"].items() if key != "offload_optimizer"}
    return {**kept, "zero_optimization": zero}


def learning_rate(update: int, config: OptimizerConfig, total_updates: int) -> float:
    """The learning rate of update `update` (from 0), in (0, config.lr].

    Warm-up rises linearly and reaches the peak with its last update; `cosine` and `linear` then fall to
    min_lr_ratio * lr, which the last of `total_updates` uses, and stay there.
    """
    warmup = config.warmup_updates
    if update < warmup:
        return config.lr * (update + 1) / warmup
    if config.schedule == "constant":
        return config.lr
    done = min(1.0, (update - warmup) / max(1, total_updates - 1 - warmup))
    fall = 1.0 - done if config.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
    return config.lr * (config.min_lr_ratio + (1.0 - config.min_lr_ratio) * fall)


def start_engine(deepspeed: Any, **arguments: Any) -> Any:
    """The engine that deepspeed.initialize makes of its arguments; what it prints goes to `logging`."""
    with contextlib.redirect_stdout(io.StringIO()) as chatter:
        engine, *_ = deepspeed.initialize(**arguments)
    _logger.debug(chatter.getvalue())
    return engine


def start_deepspeed(device: str, *, rank: int, ranks: int, deadline_s: float) -> Any:
    """The deepspeed module, ready for deepspeed.initialize on `device` (cuda, cpu), its messages sent to `logging`.

    Joins the process group when nobody has yet: by the MASTER_ADDR environment, or alone when `ranks` is 1.
    """
    os.environ["DS_ACCELERATOR"] = device  # it would take a GPU that it finds
    os.environ.setdefault("LOCAL_RANK", "0")
    # On import its logger takes hold of stdout.
    with contextlib.redirect_stdout(io.StringIO()) as chatter:
        import deepspeed
        import deepspeed.comm
    messages = logging.getLogger("DeepSpeed")
    messages.handlers.clear()
    messages.propagate = True
    # It calls collectives by names that torch has since renamed, at every step.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    _logger.debug(chatter.getvalue())
    # What it could compile is found out by running compilers, for every kernel that it has, when the first is asked
    # about: its shared-memory collectives, which serve inference only and would be compiled then.
    deepspeed.ops.__dict__["__compatible_ops__"] = {}
    backend = BACKENDS[device]
    if not torch.distributed.is_initialized():
        alone = ranks == 1 and "MASTER_ADDR" not in os.environ
        torch.distributed.init_process_group(
            backend,
            rank=rank,
            world_size=ranks,
            timeout=timedelta(seconds=deadline_s),
            store=torch.distributed.HashStore() if alone else None,  # pyright: ignore[reportPrivateImportUsage]
        )
    deepspeed.comm.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)
    return deepspeed


def _zero(config: Config, parameters: int) -> dict[str, Any]:
    learner = config.learner
    zero: dict[str, Any] = {
        "stage": learner.zero_stage,
        "reduce_bucket_size": min(_LARGEST_BUCKET, max(parameters, 1)),
        "overlap_comm": learner.on_gpu,
    }
    if learner.offload_optimizer == "cpu":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": learner.on_gpu}
    if learner.offload_params == "cpu":
        zero["offload_param"] = {"device": "cpu", "pin_memory": learner.on_gpu}
    return zero


def _merged(base: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `extra` over it, sections merged key by key."""
    result = dict(base)
    for key, value in extra.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = _merged(result[key], value) if both else value
    return result
