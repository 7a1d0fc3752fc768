"""Scoring of many problems by a model so small that the pipeline is what is measured: is it flat in time and memory?"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gainrl_ray.actors.session import session
from gainrl_ray.benchmarks.timing import machine
from gainrl_ray.config import Config, ModelConfig
from gainrl_ray.errors import ResourceError
from gainrl_ray.model.loading import load_tokenizer
from gainrl_ray.model.shapes import random_model
from gainrl_ray.scoring import score

SHAPE = "smallest"
PARTS = 10
_PIPELINE_TITLE = "ray::_ScoringJob"
_SETTINGS = {"ray": {"num_cpus": 2}, "scoring": {"cpus_per_actor": 1.0, "block_rows": 2048}}


@dataclass(frozen=True, slots=True)
class Sample:
    """What was done when, and the memory that it took by then."""

    rows: int
    seconds: float
    driver_mib: float
    pipeline_mib: float  # of the process that runs Ray Data's executor; 0 when there is none


def run(folder: Path, problems: int, settings: dict[str, Any] | None = None) -> dict[str, Any]:
    """Rows per second and resident MiB by tenth of the rows, of preparing and of scoring `problems` generated sums.

    folder: an empty one; dataset, model and index are written below it.

    Raises: ResourceError where the kernel does not tell a process's memory (/proc).
    """
    if not Path("/proc/self/statm").exists():
        raise ResourceError("this benchmark reads memory from /proc, which is not here: run it on Linux")
    model = ModelConfig(path=str(_write_model(folder / "model")), dtype="float32")
    config = Config.model_validate(
        {
            "run": {"storage": str(folder / "storage")},
            "model": model,
            "data": {
                "train": {"path": str(_write_problems(folder / "problems.jsonl", problems)), "id_column": "id"},
                "prompt": {"system": None, "example_question": None, "example_answer": None},
            },
            **(_SETTINGS if settings is None else settings),
        }
    )
    started = time.monotonic()
    samples: dict[str, list[Sample]] = {}

    def watch(stage: str, rows: int) -> None:
        now = time.monotonic() - started
        taken = Sample(rows, now, resident_mib(), sum(map(resident_mib, _processes(_PIPELINE_TITLE))))
        samples.setdefault(stage, []).append(taken)

    with session(config.ray):
        at_start = resident_mib()
        report = score(config, watch=watch)
        at_end = resident_mib()
    return {
        "problems": len(report.index),
        "seconds in all": time.monotonic() - started,
        "driver, MiB": {"at the start": at_start, "at the end, index in memory": at_end},
        **{stage: by_part(taken) for stage, taken in samples.items()},
        "machine": machine("ray"),
    }


def by_part(samples: list[Sample]) -> dict[str, dict[str, float]]:
    """Rows per second and MiB of each tenth of the rows between the first sample and the last.

    The time at which a tenth was reached is interpolated between samples; memory is that of the tenth's last sample,
    or of the nearest one before.
    """
    rows = np.array([sample.rows for sample in samples], dtype=np.float64)
    seconds = np.array([sample.seconds for sample in samples])
    ends = np.linspace(rows[0], rows[-1], PARTS + 1)
    reached = np.interp(ends, rows, seconds)
    found = {}
    for part in range(PARTS):
        last = samples[max(0, int(np.searchsorted(rows, ends[part + 1], side="right")) - 1)]
        spent = reached[part + 1] - reached[part]
        found[f"tenth {part + 1}"] = {
            "rows/s": float((ends[part + 1] - ends[part]) / spent) if spent > 0 else float("nan"),
            "driver, MiB": last.driver_mib,
            "pipeline, MiB": last.pipeline_mib,
        }
    return found


def resident_mib(process: str = "self") -> float:
    """Resident memory of a process in MiB; 0 when it is gone."""
    try:
        fields = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in fields if line.startswith("VmRSS:")) / 1024


def _processes(title: str) -> list[str]:
    """Numbers of the processes whose command line starts so."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().startswith(title.encode()):
                found.append(path.parent.name)
        except OSError:  # it ended
            continue
    return found


def _write_problems(path: Path, count: int) -> Path:
    """Sums in a .jsonl file, one line at a time."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            a, b = 10 + number % 990, number // 990
            file.write(f'{{"id": "s{number}", "problem": "What is {a} + {b}?", "answer": "{a + b}"}}\n')
    return path


def _write_model(folder: Path) -> Path:
    """A random model of SHAPE with the built-in tokenizer."""
    random_model(SHAPE, dtype="float32", device="cpu").save_pretrained(folder)
    load_tokenizer(ModelConfig()).save_pretrained(folder)
    return folder
