"""What a step has to generate and train: drawn lengths of prompts and completions, and how they fall on the ranks."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gainrl_ray.algo.randomness import coordinate_rng
from gainrl_ray.config import Config

ASSUMED_MEAN_SHARE = 0.25
"""Mean completion as a share of rollout.max_new_tokens, where neither a run nor the command line tells."""
ASSUMED_SPREAD = 0.8
"""Standard deviation of completion lengths over their mean: a long tail."""
ASSUMED_PROMPT_SHARE = 0.25
"""Mean prompt as a share of data.prompt.max_tokens."""
ASSUMED_INFORMATIVE = 0.7
"""Share of groups whose rewards differ, which alone are trained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Where lengths are drawn from: the groups of a run, or a log-normal distribution cut at max_new_tokens."""

    prompt: float  # mean tokens of a prompt
    shared: float  # tokens at the beginning that all prompts have in common
    informative: float  # share of groups that are trained, in [0, 1]
    mean: float  # tokens of a completion
    spread: float  # standard deviation over mean; 0 = all alike
    groups: tuple[tuple[int, ...], ...] = ()  # measured completion lengths by problem; they replace mean and spread

    def draw(self, count: int, size: int, limit: int, rng: np.random.Generator) -> np.ndarray:
        """[count, size] int64 completion lengths in [1, limit]: `count` problems of `size` completions."""
        if self.groups:
            pool = [np.asarray(group) for group in self.groups]
            chosen = rng.integers(len(pool), size=count)
            lengths = np.stack([rng.choice(pool[index], size=size) for index in chosen])
        elif self.spread == 0:
            lengths = np.full((count, size), round(self.mean))
        else:
            variance = np.log1p(self.spread**2)
            lengths = np.ceil(rng.lognormal(np.log(self.mean) - variance / 2, np.sqrt(variance), (count, size)))
        return np.clip(lengths, 1, limit).astype(np.int64)


@dataclass(frozen=True)
class Window:
    """A step's work: the lengths of its groups, and which of them are trained."""

    prompt: int  # tokens of each prompt
    completions: np.ndarray  # [problems, group size] int64 tokens
    trained: np.ndarray  # [problems] bool

    @cached_property
    def tokens(self) -> int:
        """Completion tokens."""
        return int(self.completions.sum())


@dataclass(frozen=True, slots=True)
class RankWork:
    """What the busiest rank runs in one step; padding counts."""

    lines: float  # tokens through the layers with a gradient, all updates
    square: float  # sum of squared line lengths: attention's share
    head: float  # response tokens through the head
    measured: float  # prompt tokens of groups that are left out, without a gradient
    passes: int  # forward-backward passes
    updates: int


def assumed_lengths(config: Config, mean: float | None, spread: float | None, prompt: float | None) -> Lengths:
    """Lengths without a run; what is given comes before what is assumed."""
    return Lengths(
        prompt=prompt or ASSUMED_PROMPT_SHARE * config.data.prompt.max_tokens,
        shared=0.0,
        informative=ASSUMED_INFORMATIVE,
        mean=mean or ASSUMED_MEAN_SHARE * config.rollout.max_new_tokens,
        spread=ASSUMED_SPREAD if spread is None else spread,
    )


def draw_window(lengths: Lengths, config: Config, step: int) -> Window:
    """The window of `step`; the same for equal run.seed, step and settings."""
    rollout = config.rollout
    rng = coordinate_rng(config.run.seed, "plan", step)
    completions = lengths.draw(rollout.problems_per_step, rollout.group_size, rollout.max_new_tokens, rng)
    count = round(lengths.informative * rollout.problems_per_step)
    if config.loss.uninformative == "keep" and config.loss.kl_coef:
        count = rollout.problems_per_step
    trained = np.arange(rollout.problems_per_step) < max(1, count)
    return Window(round(lengths.prompt), completions, trained)


def rank_work(window: Window, config: Config, *, ranks: int, packs: bool, measures: bool) -> RankWork:
    """The work of the rank with the most, by the rules of algo/batching.py, on lengths alone.

    packs: the model runs a prompt and several completions as one line; measures: left-out groups have their prompt
    run for its angle.
    """
    learner = config.learner
    chosen = window.completions[window.trained]
    parts = min(learner.updates_per_step, len(chosen))
    limit = learner.pack_tokens if packs else 0
    lines = square = passes = 0.0
    head = 0.0
    for part in range(parts):
        groups = chosen[len(chosen) * part // parts : len(chosen) * (part + 1) // parts]
        packed = [tokens for group in groups for tokens in _packed(window.prompt, group, limit)]
        shares = _shares(packed, ranks)
        batches = [_joined(share, learner.microbatch_tokens) for share in shares]
        padded = [[(len(batch) * batch[0], len(batch) * batch[0] ** 2) for batch in rank] for rank in batches]
        lines += max(sum(tokens for tokens, _ in rank) for rank in padded)
        square += max(sum(squares for _, squares in rank) for rank in padded)
        passes += max(len(rank) for rank in padded)
        head += groups.sum() / ranks
    left_out = int((~window.trained).sum()) if measures else 0
    return RankWork(lines, square, head, left_out * window.prompt / ranks, int(passes), parts)


def _packed(prompt: int, completions: np.ndarray, limit: int) -> list[int]:
    """Tokens of the lines of one problem: completions by falling length, the prompt once in each line."""
    lines: list[int] = []
    for tokens in sorted(completions.tolist(), reverse=True):
        if lines and lines[-1] + tokens <= limit:
            lines[-1] += tokens
        else:
            lines.append(prompt + tokens)
    return lines


def _shares(lines: Sequence[int], ranks: int) -> list[list[int]]:
    """Lines by falling length, dealt to the ranks there and back."""
    shares: list[list[int]] = [[] for _ in range(ranks)]
    for place, tokens in enumerate(sorted(lines, reverse=True)):
        lap, rank = divmod(place, ranks)
        shares[rank if lap % 2 == 0 else ranks - 1 - rank].append(tokens)
    return shares


def _joined(lines: Sequence[int], limit: int) -> list[list[int]]:
    """Falling lines in micro-batches whose padded tokens stay within `limit`."""
    batches: list[list[int]] = []
    for tokens in lines:
        if batches and (len(batches[-1]) + 1) * batches[-1][0] <= limit:
            batches[-1].append(tokens)
        else:
            batches.append([tokens])
    return batches
