"""What parts cost, beside what a user would take instead: `python jobs/benchmark.py COMMAND [options]`."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gainrl_ray.benchmarks.table import render
from gainrl_ray.errors import exit_status

TRAIN_JOB = Path(__file__).with_name("train.py")


@exit_status("nothing was written, run it again")
def main(argv: list[str]) -> None:
    """Print the figures and, with --json, write them to a file; the exit status, 2 when the input cannot be used."""
    options = _parser().parse_args(argv)
    figures = options.run(options)
    print(render(figures))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(figures, file, indent=2, default=asdict)  # spreads


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmark.py", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    score = commands.add_parser("score", help="prompts/s against the released GAIN-RL procedure")
    score.add_argument("--shape", default="0.5b", choices=["0.5b", "1.5b", "7b", "small"], help="of Qwen2.5")
    score.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    score.add_argument("--device", default="cpu", help="cpu or cuda")
    score.add_argument("--data", default="arithmetic", help="whose question lengths are used, as data.train.path")
    score.add_argument("--column", default="problem", help="column of the question")
    score.add_argument("--problems", type=int, default=24, help="prompts of a round")
    score.set_defaults(run=_score)
    scale = commands.add_parser("scale", help="rows/s and memory of scoring by tenth of a large dataset")
    scale.add_argument("--problems", type=int, default=10**6)
    scale.set_defaults(run=_scale)
    select = commands.add_parser("select", help="ms and bytes of every curriculum as the index grows")
    select.add_argument("--sizes", type=int, nargs="+", default=[10**4, 10**5, 10**6, 10**7, 10**8])
    select.add_argument("--count", type=int, default=1024, help="problems of a step")
    select.set_defaults(run=_select)
    sync = commands.add_parser("sync", help="seconds and GB/s of each stage of a weight sync")
    sync.add_argument("--shape", default="0.5b", choices=["0.5b", "1.5b", "7b", "small", "tiny"], help="of Qwen2.5")
    sync.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    sync.add_argument("--bucket-mib", type=float, default=256.0, help="as sync.bucket_mib")
    sync.add_argument("--threads", type=int, default=2, help="of the engine")
    sync.set_defaults(run=_sync)
    step = commands.add_parser("step", help="seconds of a training step against TRL's GRPOTrainer")
    step.add_argument("--steps", type=int, default=8, help="of a run; the first two are not counted")
    step.add_argument("--rows", type=int, default=32, help="completions of one of TRL's forward passes")
    step.set_defaults(run=_step)
    generate = commands.add_parser("generate", help="tokens/s of a step's completions against transformers")
    generate.set_defaults(run=_generate)
    for command in (step, generate):
        command.add_argument("--model", default="tiny", help="as model.path")
        command.add_argument("--dtype", default="float32", choices=["bfloat16", "float32"])
        command.add_argument("--problems", type=int, default=32, help="of a step")
        command.add_argument("--group-size", type=int, default=8, help="completions of a problem")
        command.add_argument("--max-new-tokens", type=int, default=80, help="of a completion")
        command.add_argument("--threads", type=int, default=2, help="of every part")
    start = commands.add_parser("start", help="seconds from the command to the first trained step")
    start.set_defaults(run=_start)
    for command, rounds in ((score, 3), (select, 20), (sync, 5), (step, 3), (generate, 5), (start, 3)):
        command.add_argument("--rounds", type=int, default=rounds, help="repetitions, by turns")
    for command in commands.choices.values():
        command.add_argument("--json", help="file for the figures")
    return parser


def _score(options: argparse.Namespace) -> dict[str, Any]:
    from gainrl_ray.benchmarks.scoring import ScoringBenchmark, run
    from gainrl_ray.config import SourceConfig
    from gainrl_ray.data.sources import open_source

    names = ("shape", "dtype", "device", "problems", "rounds")
    benchmark = ScoringBenchmark(**{name: getattr(options, name) for name in names})
    rows = open_source(SourceConfig(path=options.data, question_column=options.column)).rows()
    questions = [row.values.get(options.column) for row in rows]
    return run(benchmark, [question for question in questions if isinstance(question, str)])


def _sync(options: argparse.Namespace) -> dict[str, Any]:
    from gainrl_ray.benchmarks.syncing import SyncBenchmark, run

    names = ("shape", "dtype", "bucket_mib", "threads", "rounds")
    return run(SyncBenchmark(**{name: getattr(options, name) for name in names}))


def _step(options: argparse.Namespace) -> dict[str, Any]:
    from gainrl_ray.benchmarks.stepping import StepWork, run

    names = ("model", "dtype", "problems", "group_size", "max_new_tokens", "threads", "steps", "rounds", "rows")
    return run(StepWork(**{name: getattr(options, name) for name in names}), TRAIN_JOB)


def _generate(options: argparse.Namespace) -> dict[str, Any]:
    from gainrl_ray.benchmarks.generating import run
    from gainrl_ray.benchmarks.stepping import StepWork

    names = ("model", "dtype", "problems", "group_size", "max_new_tokens", "threads", "rounds")
    return run(StepWork(**{name: getattr(options, name) for name in names}))


def _start(options: argparse.Namespace) -> dict[str, Any]:
    from gainrl_ray.benchmarks.starting import run

    return run(options.rounds, TRAIN_JOB)


def _scale(options: argparse.Namespace) -> dict[str, Any]:
    import tempfile

    from gainrl_ray.benchmarks.scale import run

    with tempfile.TemporaryDirectory(prefix="gainrl-scale-") as folder:
        return run(Path(folder), options.problems)


def _select(options: argparse.Namespace) -> dict[str, Any]:
    from gainrl_ray.benchmarks.selection import run

    return run(options.sizes, options.count, options.rounds)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
