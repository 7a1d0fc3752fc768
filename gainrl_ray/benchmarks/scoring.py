"""Scoring against the released procedure, on the same model and prompts."""

import math
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

_PEAK_SHARE = 4  # the products that tell the peak are a fraction of the work beside which they are timed


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

    work = needed_operations(model, prompts)
    product = MatrixProduct(model, at_least=work / _PEAK_SHARE)
    seconds = by_turns({"gainrl-ray": ours, "released": released, "peak": product.run}, rounds=benchmark.rounds)
    peak = [product.operations / value / 1e9 for value in seconds.pop("peak")]
    reached = [work / value / 1e9 for value in seconds["gainrl-ray"]]
    speeds = {name: Spread.of([len(prompts) / value for value in values]) for name, values in seconds.items()}
    return {
        "prompts per second": speeds,
        "ratio": ratios(seconds["released"], seconds["gainrl-ray"]),
        "GFLOP/s": {"peak of a matrix product": Spread.of(peak), "gainrl-ray": Spread.of(reached)},
        "share of the peak": Spread.of([ours / best for ours, best in zip(reached, peak, strict=True)]),
        "largest difference of a score": float(np.abs(np.subtract(found["gainrl-ray"], found["released"])).max()),
        "tokens of a prompt": float(np.mean([len(prompt.token_ids) for prompt in prompts])),
        "machine": machine("transformers"),
    }


class MatrixProduct:
    """A product of the largest kind that the model's layers hold, with the rows of a full batch, often repeated."""

    ROWS = 2048

    def __init__(self, model: Any, at_least: float) -> None:
        """`at_least`: operations of one `run`, no fewer."""
        import torch

        weight = model.get_decoder().layers[0].mlp.up_proj.weight.detach()
        self._weight = weight
        self._states = torch.randn(self.ROWS, weight.shape[1], device=weight.device).to(weight.dtype)
        once = 2 * self.ROWS * weight.numel()
        self._times = max(1, math.ceil(at_least / once))
        self.operations = self._times * once

    def run(self) -> None:
        """Return when all products are there."""
        import torch

        with torch.no_grad():
            product = self._states
            for _ in range(self._times):
                product = torch.nn.functional.linear(self._states, self._weight)
            float(product[0, 0])  # an accelerator has not ended before


def needed_operations(model: Any, prompts: list[Prompt]) -> int:
    """Floating-point operations of the matrix products that the scores need; a multiplication and an addition are two.

    Every prefix once and every question, no padding, no suffix, no head, nothing after the signal layer's input; an
    attention over the keys up to a token's own. All else (norms, softmax, rotation, sums) is not counted.
    """
    config, layers = model.config, model.get_decoder().layers
    unneeded = {id(module) for module in layers[-1].mlp.modules()}
    weights = sum(
        module.weight.numel()
        for layer in layers
        for module in layer.modules()
        if isinstance(module, type(layers[0].mlp.up_proj)) and id(module) not in unneeded
    )
    width = len(layers) * config.num_attention_heads * layers[0].self_attn.head_dim
    prefixes = {prompt.token_ids[: prompt.prefix.stop] for prompt in prompts}
    spans = [range(len(prefix)) for prefix in prefixes] + [range(*prompt.question) for prompt in prompts]
    # A token at place t has t + 1 keys, each with a product for its weight and one for its value.
    return sum(2 * weights * len(span) + 4 * width * sum(t + 1 for t in span) for span in spans)


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
