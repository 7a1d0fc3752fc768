"""The environment of an engine's process."""

import pytest

from gainrl_ray.actors.vllm_setup import environment
from gainrl_ray.config import RolloutConfig


def test_threads_are_of_cpus_and_triton_of_gpus() -> None:
    on_cpu = environment(RolloutConfig(threads_per_engine=3), in_process=True)
    on_gpu = environment(RolloutConfig(gpus_per_engine=1), in_process=False)
    assert (on_cpu["OMP_NUM_THREADS"], on_cpu["VLLM_ENABLE_V1_MULTIPROCESSING"]) == ("3", "0")
    assert "OMP_NUM_THREADS" not in on_gpu
    assert on_gpu["VLLM_ENABLE_V1_MULTIPROCESSING"] == "1"
    assert "TRITON_F32_DEFAULT" not in on_cpu


def test_triton_takes_full_float32_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    knobs = pytest.importorskip("triton.knobs", reason="Triton comes with vLLM where there is a build of it")
    assert knobs.language.fp32_default is None
    name = "TRITON_F32_DEFAULT"
    monkeypatch.setenv(name, environment(RolloutConfig(gpus_per_engine=1), in_process=False)[name])
    assert knobs.language.fp32_default == "ieee"
