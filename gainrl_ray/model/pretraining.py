"""The start model's making: a small Qwen2 trained on the built-in problems alone, as a start for RL.

The model learns two ways to answer: step by step, which it does reliably, and a bare answer, which is a guess as soon
as there are several steps. How often it chooses the first falls with the number of steps (STEP_BY_STEP_SHARE). So it
knows the format, is right now and then, and RL has something to find.

The skill and the choice are trained together but apart: PRACTICE of all problems are shown with their steps, and the
loss of a solution's first token, which makes the choice, is weighted so that the choice learns STEP_BY_STEP_SHARE.
"""

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

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
from gainrl_ray.data.arithmetic import ArithmeticProblem, bare_answer, generate
from gainrl_ray.data.prompts import PromptBuilder
from gainrl_ray.model.tiny_tokenizer import END_OF_TEXT, MESSAGE_END, train_tokenizer

CONTEXT = 2048  # tokens
STEP_BY_STEP_SHARE = {1: 0.5, 2: 0.25, 3: 0.1, 4: 0.03, 5: 0.01, 6: 0.003}
PRACTICE = 0.75
PROBLEM_SEED = 1_000_003  # of the problems trained on, so that they are not those that RL trains on


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How long and how fast to train."""

    seed: int = 0
    steps: int = 2000
    batch: int = 32  # problems
    lr: float = 2e-3  # peak
    warmup: int = 50  # steps
    ramp: float = 0.4  # part of the steps over which problems grow from one step to six


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A prompt after the shared prefix, a completion, and the weight of the completion's first token."""

    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    choice_weight: float


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
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.convert_tokens_to_ids(MESSAGE_END),
        pad_token_id=tokenizer.convert_tokens_to_ids(END_OF_TEXT),
        dtype="float32",
    )
    model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id)
    return model


def train(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, recipe: Recipe, report: Callable[[str], None]
) -> None:
    """Trains the model in place: AdamW, cosine schedule, loss on completions only; `report` gets progress lines."""
    prompts = PromptBuilder(tokenizer, PromptConfig())
    batches = list(_batches(_examples(tokenizer, prompts, recipe), recipe))
    report(f"{recipe.steps} steps of {recipe.batch} problems, prefix of {len(prompts.prefix_ids)} tokens")
    prefix = torch.tensor([prompts.prefix_ids])
    decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, recipe))
    model.train()
    started, losses = time.monotonic(), []
    for step, batch in enumerate(batches, start=1):
        loss = _loss(model, prefix, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        losses.append(loss.item())
        if step % 50 == 0 or step == len(batches):
            report(f"step {step}: loss {sum(losses) / len(losses):.4f}, {time.monotonic() - started:.0f} s")
            losses.clear()
    model.eval()


def save(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Writes the Hugging Face folder that transformers and vLLM load."""
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    for path in folder.iterdir():
        path.chmod(0o644)


def _rate(step: int, recipe: Recipe) -> float:
    """Learning rate at a step as a share of the peak: linear warm-up, then a cosine to 2 %."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    progress = min(1.0, (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup))
    return 0.02 + 0.98 * (1 + math.cos(math.pi * progress)) / 2


def _examples(tokenizer: PreTrainedTokenizerBase, prompts: PromptBuilder, recipe: Recipe) -> list[Example]:
    """The examples of all steps in training order; the hardest level grows from 1 to 6 over `ramp` of the steps."""
    rng = random.Random(recipe.seed)
    hardest = max(STEP_BY_STEP_SHARE)
    levels = []
    for step in range(recipe.steps):
        cap = min(hardest, 1 + int(hardest * step / max(1.0, recipe.ramp * recipe.steps)))
        levels += [rng.randint(1, cap) for _ in range(recipe.batch)]
    stock = {
        level: iter(generate("train", levels.count(level), min_level=level, max_level=level, seed=PROBLEM_SEED))
        for level in STEP_BY_STEP_SHARE
    }
    problems = [next(stock[level]) for level in levels]
    shown = [rng.random() < PRACTICE for _ in problems]
    texts = [p.solution if steps else bare_answer(p.answer) for p, steps in zip(problems, shown, strict=True)]
    completions = tokenizer(texts)["input_ids"]
    start, end = len(prompts.prefix_ids), tokenizer.convert_tokens_to_ids(MESSAGE_END)
    return [
        Example(
            prompt=prompts.build(problem.problem).token_ids[start:],
            completion=(*completion, end),
            choice_weight=_choice_weight(problem, steps),
        )
        for problem, steps, completion in zip(problems, shown, completions, strict=True)
    ]


def _choice_weight(problem: ArithmeticProblem, steps: bool) -> float:
    """Wanted frequency of this way to answer, over its frequency among the examples."""
    share = STEP_BY_STEP_SHARE[problem.level]
    return share / PRACTICE if steps else (1 - share) / (1 - PRACTICE)


def _batches(examples: Sequence[Example], recipe: Recipe, pool: int = 8) -> Iterator[list[Example]]:
    """Batches in training order; each `pool` of them is sorted by length and dealt out again, to save padding."""
    rng = random.Random(recipe.seed + 1)
    size = recipe.batch * pool
    for start in range(0, len(examples), size):
        part = sorted(examples[start : start + size], key=lambda e: len(e.prompt) + len(e.completion))
        batches = [part[place : place + recipe.batch] for place in range(0, len(part), recipe.batch)]
        rng.shuffle(batches)
        yield from batches


def _loss(model: PreTrainedModel, prefix: torch.Tensor, batch: Sequence[Example]) -> torch.Tensor:
    """Weighted mean cross-entropy of the completions' tokens; the shared prefix [1, tokens] is computed once."""
    length = max(len(example.prompt) + len(example.completion) for example in batch)
    token_ids = torch.zeros(len(batch), length, dtype=torch.long)
    weights = torch.zeros(len(batch), length)
    for row, example in enumerate(batch):
        start, stop = len(example.prompt), len(example.prompt) + len(example.completion)
        token_ids[row, :stop] = torch.tensor(example.prompt + example.completion)
        weights[row, start:stop] = 1.0
        weights[row, start] = example.choice_weight
    cache = DynamicCache(config=model.config)
    model.model(prefix, past_key_values=cache, use_cache=True)  # pyright: ignore[reportCallIssue]
    cache.batch_repeat_interleave(len(batch))
    hidden = model.model(token_ids, past_key_values=cache, use_cache=True).last_hidden_state  # pyright: ignore[reportCallIssue]
    wanted = weights[:, 1:] > 0  # position t predicts token t + 1
    logits = model.lm_head(hidden[:, :-1][wanted])
    losses = cross_entropy(logits, token_ids[:, 1:][wanted], reduction="none")
    return (losses * weights[:, 1:][wanted]).sum() / wanted.sum()
