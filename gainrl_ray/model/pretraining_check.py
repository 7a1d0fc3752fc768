"""What the start model can do: how often it is right, at each number of steps."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gainrl_ray.config import PromptConfig
from gainrl_ray.data.arithmetic import SOLUTION_START, ArithmeticProblem, generate
from gainrl_ray.data.prompts import PromptBuilder

_BOXED = re.compile(r"\\boxed\{(\d+)\}\.$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Skill:
    """Fractions of completions, in [0, 1]."""

    accuracy: float
    boxed: float  # ended with an integer in the box
    step_by_step: float  # began as worked solutions do

    def __str__(self) -> str:
        return f"accuracy {self.accuracy:.3f}, boxed {self.boxed:.3f}, step by step {self.step_by_step:.3f}"


@torch.inference_mode()
def complete(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[ArithmeticProblem],
    *,
    temperature: float,
    begin: bool = False,
    max_new_tokens: int = 96,
) -> list[str]:
    """One completion per problem; temperature 0 is greedy. `begin` makes the model go step by step."""
    prompts = PromptBuilder(tokenizer, PromptConfig())
    start = f"{SOLUTION_START}\n" if begin else ""
    begun = tokenizer(start)["input_ids"]
    rows = [[*prompts.build(problem.problem).token_ids, *begun] for problem in problems]
    inputs = tokenizer.pad({"input_ids": rows}, padding_side="left", return_tensors="pt")
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature > 0 else {"do_sample": False}
    output = model.generate(**inputs, max_new_tokens=max_new_tokens, **sampling)  # pyright: ignore[reportCallIssue]
    texts = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [start + text for text in texts]


def skill(problems: Sequence[ArithmeticProblem], completions: Sequence[str]) -> Skill:
    """How the completions do."""
    answers = [_BOXED.search(text) for text in completions]
    return Skill(
        accuracy=sum(a is not None and a[1] == p.answer for a, p in zip(answers, problems, strict=True))
        / len(problems),
        boxed=sum(a is not None for a in answers) / len(problems),
        step_by_step=sum(text.startswith(SOLUTION_START) for text in completions) / len(problems),
    )


def measure(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, problems_per_level: int, seed: int
) -> Iterator[str]:
    """Lines that say how the model does on held-out problems of each level 1..6, in three ways to complete."""
    ways = {"sampled": (1.0, False), "greedy": (0.0, False), "made to go step by step": (1.0, True)}
    torch.manual_seed(seed)
    for way, (temperature, begin) in ways.items():
        accuracies = []
        for level in range(1, 7):
            problems = generate("heldout", problems_per_level, min_level=level, max_level=level)
            found = skill(problems, complete(model, tokenizer, problems, temperature=temperature, begin=begin))
            accuracies.append(found.accuracy)
            yield f"{way}, level {level}: {found}"
        yield f"{way}, all levels: accuracy {sum(accuracies) / len(accuracies):.3f}"
