"""Fused kernels of the package liger-kernel in a transformers model, for CUDA."""

import importlib.util
from typing import Any

from gainrl_ray.config import LearnerConfig
from gainrl_ray.errors import ConfigError


def check_liger(config: LearnerConfig) -> None:
    """Nothing; raises ConfigError when fused kernels are asked for without GPUs, or without the package they are in."""
    if not config.liger:
        return
    if not config.gpus_per_worker:
        raise ConfigError(
            "learner.liger=true needs CUDA GPUs for the learner, received learner.gpus_per_worker=0: its kernels run "
            "on no CPU; set learner.gpus_per_worker=1 or learner.liger=false"
        )
    if importlib.util.find_spec("liger_kernel") is None:
        raise ConfigError(
            "learner.liger=true needs the package liger-kernel, which is not installed: install gainrl-ray with its "
            "extra `liger` (`uv pip install 'gainrl-ray[liger]'`, in a checkout `uv pip install -e '.[liger]'`), "
            "or set learner.liger=false"
        )


def fuse(model: Any) -> None:
    """Put Liger's kernels for RMSNorm, rotary positions and the gated MLP into the model.

    From then on the model runs on CUDA alone; the rotary positions are replaced for all models of its type in this
    process. Liger's cross entropy stays out: the policy's own head gives log-probabilities of single tokens.
    Raises ConfigError for a type of model that Liger has no kernels for; it would go on in silence.
    """
    from liger_kernel.transformers import _apply_liger_kernel_to_instance
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

    kind = model.config.model_type
    if kind not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise ConfigError(
            f"learner.liger=true: liger-kernel has no kernels for models of type {kind}, it has them for "
            f"{', '.join(sorted(MODEL_TYPE_TO_APPLY_LIGER_FN))}; set learner.liger=false"
        )
    _apply_liger_kernel_to_instance(model=model, cross_entropy=False, fused_linear_cross_entropy=False)
