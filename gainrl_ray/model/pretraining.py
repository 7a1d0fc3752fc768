"""The start model's making: a small Qwen2 trained on the built-in problems alone, as a start for RL.

The model learns two ways to answer: step by step, which it does reliably, and a bare answer, which is a guess as soon
as there are several steps. How often it chooses the first falls with the number of steps (STEP_BY_STEP_SHARE). So it
knows the format, is right now and then, and RL has something to find.

Three lessons, since a small model learns the parts of a task faster than the whole:

1. equations: worked solutions alone, to calculate;
2. problems: questions with worked solutions, to find the next step in the text;
3. styles: the whole prompt and both ways to answer. A part of all problems (`worked`) is shown with its steps, and the
   loss of an answer's first token, which makes the choice, is weighted so that the choice learns STEP_BY_STEP_SHARE.
"""

import math
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from torch.nn.functional import cross_entropy
from transformers import (
    DynamicCache,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from gainrl_ray.config import PromptConfig
from gainrl_ray.data.arithmetic import MAX_LEVEL, ArithmeticProblem, bare_answer, generate
from gainrl_ray.data.prompts import PromptBuilder
from gainrl_ray.model.tiny_tokenizer import END_OF_TEXT, MESSAGE_END, train_tokenizer

CONTEXT = 2048  # tokens
STEP_BY_STEP_SHARE = {1: 0.5, 2: 0.25, 3: 0.1, 4: 0.03, 5: 0.01, 6: 0.003}
PROBLEM_SEED = 1_000_003  # of the problems trained on, so that they are not those that RL trains on

_NOT_CALCULATED = re.compile(r"^\D*\d+|[-+*/]\d+")  # what nobody can know without the question


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How long and how fast to train; steps and batches (in problems) of the three lessons."""

    seed: int = 0
    equation_steps: int = 160
    equation_batch: int = 64
    problem_steps: int = 600
    style_steps: int = 300
    batch: int = 32
    worked: float = 0.7  # part of the last lesson's problems that are shown with their steps
    lr: float = 2e-3  # peak
    warmup: int = 30  # steps
    decay: float = 0.05  # AdamW's weight decay, of matrices

    @property
    def steps(self) -> int:
        """Steps of all lessons."""
        return self.equation_steps + self.problem_steps + self.style_steps

    def shortened(self, part: float) -> "Recipe":
        """The same recipe with `part` of each lesson's steps, at least one."""
        lengths = {name: getattr(self, name) for name in ("equation_steps", "problem_steps", "style_steps")}
        return replace(self, **{name: max(1, round(part * length)) for name, length in lengths.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """Token ids [tokens] after the shared prefix, and the weight of each in the loss."""

    token_ids: tuple[int, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one step trains: examples, with the tokens that stand before each of them."""

    lesson: str
    prefix: tuple[int, ...]
    examples: Sequence[Example]


def build_tokenizer(seed: int) -> PreTrainedTokenizerBase:
    """The tokenizer, trained on 3,000 problems and, as often as its words need, on the default prompt."""
    config = PromptConfig()
    prompt = "\n".join(
        ["system", str(config.system), "user", str(config.example_question), "assistant", str(config.example_answer)]
    )
    texts = [f"{problem.question}\n{problem.solution}" for problem in generate("train", 3000, seed=seed)]
    return train_tokenizer([*texts, *[prompt] * 300], CONTEXT)


def build_model(tokenizer: PreTrainedTokenizerBase, seed: int) -> PreTrainedModel:
    """A Qwen2 of about one million parameters with random weights, float32, tied embeddings."""
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer),  # pyright: ignore[reportArgumentType]
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.05,  # near 1/sqrt(hidden): a narrow model starts slowly from the usual 0.02
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.convert_tokens_to_ids(MESSAGE_END),
        pad_token_id=cast(int, tokenizer.convert_tokens_to_ids(END_OF_TEXT)),
        dtype="float32",
    )
    model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id)
    return model


def train(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, recipe: Recipe, report: Callable[[str], None]
) -> None:
    """Trains the model in place: AdamW, cosine schedule, loss on completions only; `report` gets progress lines."""
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": recipe.decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, recipe))
    model.train()
    started, losses = time.monotonic(), []
    for step, batch in enumerate(lessons(tokenizer, recipe), start=1):
        loss = _loss(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        losses.append(loss.item())
        if step % 20 == 0 or step == recipe.steps:
            mean, seconds = sum(losses) / len(losses), time.monotonic() - started
            report(f"step {step}/{recipe.steps} ({batch.lesson}): loss {mean:.4f}, {seconds:.0f} s")
            losses.clear()
    model.eval()


def save(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Writes the Hugging Face folder that transformers and vLLM load."""
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    for path in folder.iterdir():
        path.chmod(0o644)


def lessons(tokenizer: PreTrainedTokenizerBase, recipe: Recipe) -> Iterator[Batch]:
    """The batches of all steps, in order."""
    prompts = PromptBuilder(tokenizer, PromptConfig())
    end = cast(int, tokenizer.convert_tokens_to_ids(MESSAGE_END))
    count = recipe.equation_steps * recipe.equation_batch
    solutions = generate("train", count, min_level=MAX_LEVEL - 4, max_level=MAX_LEVEL, seed=PROBLEM_SEED)
    equations = _equations(tokenizer, [problem.solution for problem in solutions])
    for examples in _split(equations, recipe.equation_batch, recipe.seed):
        yield Batch(lesson="equations", prefix=(), examples=examples)
    count = (recipe.problem_steps + recipe.style_steps) * recipe.batch
    problems = generate("train", count, max_level=max(STEP_BY_STEP_SHARE), seed=PROBLEM_SEED)
    first, rest = problems[: recipe.problem_steps * recipe.batch], problems[recipe.problem_steps * recipe.batch :]
    worked = [_answered(tokenizer, prompts, problem, problem.solution, 1.0, end) for problem in first]
    for examples in _split(worked, recipe.batch, recipe.seed):
        yield Batch(lesson="problems", prefix=(), examples=examples)
    rng = random.Random(recipe.seed)
    mixed = [_styled(tokenizer, prompts, problem, rng.random() < recipe.worked, recipe.worked, end) for problem in rest]
    for examples in _split(mixed, recipe.batch, recipe.seed):
        yield Batch(lesson="styles", prefix=prompts.prefix_ids, examples=examples)


def _equations(tokenizer: PreTrainedTokenizerBase, solutions: Sequence[str]) -> list[Example]:
    """Solutions without their questions; only what follows from the tokens before has weight."""
    encoded = tokenizer(list(solutions), return_offsets_mapping=True)
    examples = []
    for text, ids, offsets in zip(solutions, encoded["input_ids"], encoded["offset_mapping"], strict=True):
        hidden = {place for match in _NOT_CALCULATED.finditer(text) for place in range(*match.span())}
        examples.append(
            Example(token_ids=tuple(ids), weights=tuple(float(start not in hidden) for start, _ in offsets))
        )
    return examples


def _styled(
    tokenizer: PreTrainedTokenizerBase,
    prompts: PromptBuilder,
    problem: ArithmeticProblem,
    steps: bool,
    worked: float,
    end: int,
) -> Example:
    """A problem answered in one of the two ways; its first token weighs wanted over shown frequency of that way."""
    share = STEP_BY_STEP_SHARE[problem.level]
    weight = share / worked if steps else (1 - share) / (1 - worked)
    text = problem.solution if steps else bare_answer(problem.answer)
    return _answered(tokenizer, prompts, problem, text, weight, end)


def _answered(
    tokenizer: PreTrainedTokenizerBase,
    prompts: PromptBuilder,
    problem: ArithmeticProblem,
    text: str,
    first_weight: float,
    end: int,
) -> Example:
    """A question, its answer and the end of the message; the answer's tokens have weight."""
    question = prompts.build(problem.problem).token_ids[len(prompts.prefix_ids) :]
    answer = tokenizer(text)["input_ids"]
    return Example(
        token_ids=(*question, *answer, end),
        weights=(0.0,) * len(question) + (first_weight,) + (1.0,) * len(answer),
    )


def _split(examples: Sequence[Example], size: int, seed: int, pool: int = 8) -> Iterator[Sequence[Example]]:
    """Batches in order, but each `pool` of them sorted by length and dealt out again, to save padding."""
    rng = random.Random(seed)
    for start in range(0, len(examples), size * pool):
        part = sorted(examples[start : start + size * pool], key=lambda example: len(example.token_ids))
        batches = [part[place : place + size] for place in range(0, len(part), size)]
        rng.shuffle(batches)
        yield from batches


def _rate(step: int, recipe: Recipe) -> float:
    """Learning rate at a step as a share of the peak: linear warm-up, then a cosine to 2 %."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    progress = min(1.0, (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup))
    return 0.02 + 0.98 * (1 + math.cos(math.pi * progress)) / 2


def _loss(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Cross-entropy of the tokens with weight, weighted, over their number; the shared prefix is computed once."""
    rows, length = len(batch.examples), max(len(example.token_ids) for example in batch.examples)
    token_ids = torch.zeros(rows, length, dtype=torch.long)
    weights = torch.zeros(rows, length)
    for row, example in enumerate(batch.examples):
        token_ids[row, : len(example.token_ids)] = torch.tensor(example.token_ids)
        weights[row, : len(example.token_ids)] = torch.tensor(example.weights)
    body = model.model  # pyright: ignore[reportAttributeAccessIssue]
    cache = None
    if batch.prefix:
        cache = DynamicCache(config=model.config)
        body(torch.tensor([batch.prefix]), past_key_values=cache, use_cache=True)
        cache.batch_repeat_interleave(rows)
    hidden = body(token_ids, past_key_values=cache, use_cache=cache is not None).last_hidden_state
    wanted = weights[:, 1:] > 0  # the state at position t predicts token t + 1
    logits = model.lm_head(hidden[:, :-1][wanted])  # pyright: ignore[reportCallIssue]
    losses = cross_entropy(logits, token_ids[:, 1:][wanted], reduction="none")
    return (losses * weights[:, 1:][wanted]).sum() / wanted.sum()
