"""Scoring against the released procedure, on the same model and prompts."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from gainrl_ray.benchmarks.released import released_scores
from gainrl_ray.benchmarks.timing import Spread, by_turns, machine, ratios
from gainrl_ray.model.prefill import prefill_angles
from gainrl_ray.model.shapes import SHAPES, random_model
from gainrl_ray.types import Prompt, Span

PREFIX_TOKENS, SUFFIX_TOKENS = 110, 5
"""Of the R1-style one-shot prompt in Qwen's chat format."""
CHARACTERS_PER_TOKEN = 4.0
"""Of English word problems under a vocabulary of 150,000, roughly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringBenchmark:
    """What is measured."""

    shape: str = "0.5b"
    dtype: str = "bfloat16"
    device: str = "cpu"
    problems: int = 24
    rounds: int = 3
    batch_tokens: int = 16384


def run(benchmark: ScoringBenchmark, questions: list[str]) -> dict[str, Any]:
    """Prompts per second of both, their ratio, the largest difference of a score, and where this was measured.

    Token ids are random: speed depends on lengths alone, which are those of `questions`, taken evenly over the list.
    """
    model = random_model(benchmark.shape, dtype=benchmark.dtype, device=benchmark.device)
    chosen = [questions[i] for i in np.linspace(0, len(questions) - 1, benchmark.problems).astype(int)]
    prompts = random_prompts(chosen, SHAPES[benchmark.shape].vocabulary)
    found: dict[str, list[float]] = {}

    def ours() -> None:
        scores = prefill_angles(model, prompts, pad_id=0, batch_tokens=benchmark.batch_tokens)
        found["gainrl-ray"] = [score.c_intra + score.c_inter for score in scores]

    def released() -> None:
        found["released"] = released_scores(model, prompts)

    seconds = by_turns({"gainrl-ray": ours, "released": released}, rounds=benchmark.rounds)
    speeds = {name: Spread.of([len(prompts) / value for value in values]) for name, values in seconds.items()}
    return {
        "prompts per second": speeds,
        "ratio": ratios(seconds["released"], seconds["gainrl-ray"]),
        "largest difference of a score": float(np.abs(np.subtract(found["gainrl-ray"], found["released"])).max()),
        "tokens of a prompt": float(np.mean([len(prompt.token_ids) for prompt in prompts])),
        "machine": machine("transformers"),
    }


def random_prompts(questions: list[str], vocabulary: int) -> list[Prompt]:
    """Prompts of one prefix and random tokens, each question as long as its text suggests."""
    rng = np.random.default_rng(0)
    prefix = rng.integers(0, vocabulary, PREFIX_TOKENS)
    prompts = []
    for number, text in enumerate(questions):
        length = max(1, round(len(text) / CHARACTERS_PER_TOKEN))
        stop = PREFIX_TOKENS + length
        ids = np.concatenate([prefix, rng.integers(0, vocabulary, length + SUFFIX_TOKENS)])
        prompts.append(
            Prompt(
                problem_id=str(number),
                token_ids=tuple(ids.tolist()),
                prefix=Span(0, PREFIX_TOKENS),
                question=Span(PREFIX_TOKENS, stop),
                suffix=Span(stop, stop + SUFFIX_TOKENS),
            )
        )
    return prompts
