"""What parts cost, beside what a user would take instead: `python jobs/benchmark.py score|select [options]`."""

import argparse
import json
import sys
from dataclasses import asdict
from typing import Any

from gainrl_ray.errors import GainrlError


def main(argv: list[str]) -> int:
    """Print the figures and, with --json, write them to a file; the exit status, 2 when the input cannot be used."""
    options = _parser().parse_args(argv)
    try:
        figures = options.run(options)
    except GainrlError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(_lines(figures)))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(figures, file, indent=2, default=asdict)  # spreads
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmark.py", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="score|select")
    score = commands.add_parser("score", help="prompts/s against the released GAIN-RL procedure")
    score.add_argument("--shape", default="0.5b", choices=["0.5b", "1.5b", "7b", "small"], help="of Qwen2.5")
    score.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    score.add_argument("--device", default="cpu", help="cpu or cuda")
    score.add_argument("--data", default="arithmetic", help="whose question lengths are used, as data.train.path")
    score.add_argument("--column", default="problem", help="column of the question")
    score.add_argument("--problems", type=int, default=24, help="prompts of a round")
    score.set_defaults(run=_score)
    select = commands.add_parser("select", help="ms and bytes of every curriculum as the index grows")
    select.add_argument("--sizes", type=int, nargs="+", default=[10**4, 10**5, 10**6, 10**7, 10**8])
    select.add_argument("--count", type=int, default=1024, help="problems of a step")
    select.set_defaults(run=_select)
    for command, rounds in ((score, 3), (select, 20)):
        command.add_argument("--rounds", type=int, default=rounds, help="repetitions, by turns")
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


def _select(options: argparse.Namespace) -> dict[str, Any]:
    from gainrl_ray.benchmarks.selection import run

    return run(options.sizes, options.count, options.rounds)


def _lines(figures: dict[str, Any], indent: str = "") -> list[str]:
    """The figures as an indented list."""
    lines = []
    for name, value in figures.items():
        if isinstance(value, dict):
            lines += [f"{indent}{name}", *_lines(value, indent + "  ")]
        else:
            lines.append(f"{indent}{name}: {value:.4g}" if isinstance(value, float) else f"{indent}{name}: {value}")
    return lines


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
