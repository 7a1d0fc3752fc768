"""What processors offer, from the words in which Linux describes them."""

import pytest

from gainrl_ray.errors import ResourceError
from gainrl_ray.processor import parse, this_processor

AVX2 = """processor\t: 0
vendor_id\t: AuthenticAMD
model name\t: AMD EPYC
flags\t\t: fpu sse4_2 avx f16c avx2 bmi2 vaes

processor\t: 1
model name\t: AMD EPYC
flags\t\t: fpu sse4_2
"""
SAPPHIRE_RAPIDS = """model name\t: Intel(R) Xeon(R) Platinum 8480+
flags\t\t: avx2 avx512f avx512bw avx512_bf16 amx_bf16 amx_tile amx_int8
"""
WESTMERE = "model name\t: Intel(R) Xeon(R) CPU X5650\nflags\t\t: fpu sse4_2 aes\n"
GRAVITON = "processor\t: 0\nBogoMIPS\t: 2100.00\nFeatures\t: fp asimd sve i8mm bf16\nCPU implementer\t: 0x41\n"


@pytest.mark.parametrize(
    ("cpuinfo", "machine", "line"),
    [
        (AVX2, "x86_64", "processor: AMD EPYC (AVX2)"),
        (
            SAPPHIRE_RAPIDS,
            "x86_64",
            "processor: Intel(R) Xeon(R) Platinum 8480+ (AVX2, AVX-512, AVX-512 BF16, AMX BF16)",
        ),
        (WESTMERE, "x86_64", "processor: Intel(R) Xeon(R) CPU X5650 (none of those that count here)"),
        (GRAVITON, "aarch64", "processor: aarch64 processor (NEON, SVE, I8MM, BF16)"),
        ("", "x86_64", "processor: x86_64 (instructions unknown)"),
    ],
)
def test_a_processor_in_one_line(cpuinfo: str, machine: str, line: str) -> None:
    assert parse(cpuinfo, machine).line("float32") == line


@pytest.mark.parametrize(
    ("cpuinfo", "machine", "emulated"),
    [
        (AVX2, "x86_64", True),
        (SAPPHIRE_RAPIDS, "x86_64", False),
        (GRAVITON, "aarch64", False),
        (GRAVITON.replace(" bf16", ""), "aarch64", True),
        ("", "x86_64", False),
    ],
)
def test_bfloat16_without_its_instructions_is_told_with_the_remedy(cpuinfo: str, machine: str, emulated: bool) -> None:
    line = parse(cpuinfo, machine).line("bfloat16")
    assert ("emulates bfloat16" in line and "model.dtype=float32" in line) is emulated


def test_engines_are_refused_where_they_would_end_in_an_illegal_instruction() -> None:
    with pytest.raises(ResourceError, match=r"X5650 has no AVX2 instructions.*jobs/score.py runs here"):
        parse(WESTMERE, "x86_64").check_engine()
    for cpuinfo, machine in ((AVX2, "x86_64"), (SAPPHIRE_RAPIDS, "x86_64"), (GRAVITON, "aarch64"), ("", "x86_64")):
        parse(cpuinfo, machine).check_engine()


def test_it_is_what_torch_finds() -> None:
    import torch

    features = this_processor().features
    assert ("AVX2" in features) == torch.cpu._is_avx2_supported()
    assert ("AVX-512 BF16" in features) == torch.cpu._is_avx512_bf16_supported()
