"""Where a part of the program computes: what the config decided, held against what this process finds."""

import os
from typing import Literal

import torch

from gainrl_ray.errors import ResourceError


def device_type(gpus: float, setting: str) -> Literal["cuda", "cpu"]:
    """`cuda` for a process that was given GPUs, else `cpu`, also where the machine has some.

    `gpus`: the value of `setting`, such as learner.gpus_per_worker.
    Raises ResourceError when GPUs are asked for and this process has none.
    """
    if not gpus:
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    raise ResourceError(
        f"{setting}={gpus:g} asks for a CUDA GPU and this process finds none: torch {torch.__version__} is built "
        f"{built}, CUDA_VISIBLE_DEVICES is {'not set' if visible is None else repr(visible)}. Install gainrl-ray with "
        f"its extra `gpu` on a machine where nvidia-smi shows a GPU, or set {setting}=0"
    )
