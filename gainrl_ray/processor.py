"""What the processor offers: the instructions that decide how fast, and whether, models run on it."""

import platform
from dataclasses import dataclass
from pathlib import Path

from gainrl_ray.errors import ResourceError

CPUINFO = Path("/proc/cpuinfo")
_X86 = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_bf16": "AVX-512 BF16", "amx_bf16": "AMX BF16"}
_ARM = {"asimd": "NEON", "sve": "SVE", "i8mm": "I8MM", "bf16": "BF16"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Processor:
    """One machine's processor."""

    name: str  # "" where the system does not say
    machine: str  # "x86_64", "aarch64", ... as the system calls the architecture
    features: tuple[str, ...]  # of those that matter here, in rising order

    def line(self, dtype: str) -> str:
        """One line for the log of a run of that dtype on CPUs."""
        slow = ""
        if dtype == "bfloat16" and self.name and not any("BF16" in feature for feature in self.features):
            slow = "; it emulates bfloat16, which is right but slower than model.dtype=float32"
        return f"processor: {self.name or self.machine} ({self.instructions}){slow}"

    @property
    def instructions(self) -> str:
        """Its features in words."""
        return ", ".join(self.features) or ("none of those that count here" if self.name else "instructions unknown")

    def check_engine(self) -> None:
        """Raises ResourceError where vLLM's CPU kernels end in an illegal instruction: on x86 without AVX2."""
        if self.machine == "x86_64" and self.name and "AVX2" not in self.features:
            raise ResourceError(
                f"{self.name} has no AVX2 instructions, which vLLM's CPU kernels need: use a processor of 2013 or "
                "later, or GPUs (rollout.gpus_per_engine=1); jobs/score.py runs here"
            )


def this_processor() -> Processor:
    """The processor of this machine, with what little is known where there is no /proc/cpuinfo."""
    try:
        text = CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    return parse(text, platform.machine())


def parse(cpuinfo: str, machine: str) -> Processor:
    """The first processor of a /proc/cpuinfo."""
    fields: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    known = _ARM if machine == "aarch64" else _X86
    flags = set((fields.get("Features") or fields.get("flags") or "").split())
    return Processor(
        name=fields.get("model name") or (f"{machine} processor" if fields else ""),
        machine=machine,
        features=tuple(said for flag, said in known.items() if flag in flags),
    )
