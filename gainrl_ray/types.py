"""The values that cross rooms: frozen dataclasses, in the order in which a training step makes them.

    Problem -> Prompt -> AngleScore -> Window -> SampleRequest -> Completion -> RolloutGroup
            -> GradedGroup -> MicroBatch / RankBatch -> UpdateReport -> StepOutcome

A *row* is a problem's position (0..N-1) among those that a run is trained on, the canonical dataset or the part of it
that data.fraction and data.keep leave: strategies select rows, the curriculum actor maps them to problem ids. A *slot*
is a place among a step's problems: those of its window first, then those that a group policy draws beside them, then
replayed ones; slots, not problem ids, identify groups, since a problem may be
shown twice.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, NamedTuple

import numpy as np


class Span(NamedTuple):
    """A half-open range of token positions, [start, stop)."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        """Number of tokens in the span."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A question with its reference answer."""

    id: str
    question: str
    answer: str
    source: str  # where it came from, for example "arithmetic/level3" or a file name
    turns: str = ""  # of a chat, the messages before the question: a JSON list of objects with role and content


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """The token ids of a problem under the chat template, with its three spans.

    The spans partition the prompt: prefix = [0, a), question = [a, b), suffix = [b, len(token_ids)).
    """

    problem_id: str
    token_ids: tuple[int, ...]
    prefix: Span
    question: Span
    suffix: Span


@dataclass(frozen=True, slots=True, kw_only=True)
class AngleScore:
    """Angle concentration of one prompt (GAIN-RL, arXiv 2506.02281)."""

    problem_id: str
    c_intra: float  # in [-1, 1]
    c_inter: float  # in [-1, 1]
    prompt_tokens: int
    question_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The problems drawn for one step; `rows[slot]` and `problem_ids[slot]` name the same problem."""

    step: int
    rows: tuple[int, ...]
    problem_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How completions are sampled; temperature 0 is greedy."""

    temperature: float
    top_p: float
    max_new_tokens: int
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRequest:
    """One completion asked of an engine; `seed` is a function of coordinates, never of the engine."""

    request_id: str
    token_ids: tuple[int, ...]
    seed: int
    sampling: Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One sampled completion, the stop token included in `token_ids` when the model ended by itself."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]  # generator_logprobs, one per token
    finish_reason: Literal["stop", "length"]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutGroup:
    """The completions of one problem of one step, in sample order: group_size, or fewer where it was only screened."""

    slot: int
    row: int
    problem: Problem
    prompt: Prompt
    completions: tuple[Completion, ...]
    policy_version: int


class Outcome(StrEnum):
    """What grading found; an outcome is not a number, the reward follows from it."""

    CORRECT = "correct"
    WRONG = "wrong"
    UNPARSABLE = "unparsable"
    TIMEOUT = "timeout"
    CRASH = "crash"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grade:
    """The outcome and reward of one completion."""

    outcome: Outcome
    reward: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GradedGroup:
    """A group with one grade per completion."""

    group: RolloutGroup
    grades: tuple[Grade, ...]

    @property
    def rewards(self) -> tuple[float, ...]:
        """The rewards in sample order."""
        return tuple(grade.reward for grade in self.grades)

    @property
    def accuracy(self) -> float:
        """Fraction of completions graded correct, in [0, 1], whatever the reward scale."""
        return sum(grade.outcome is Outcome.CORRECT for grade in self.grades) / len(self.grades)


class LineKind(StrEnum):
    """How the rows of a micro-batch go through the model."""

    ROWS = "rows"  # each as a line, padded to the longest
    PACKS = "packs"  # those of a prompt as one line, the prompt once
    END_TO_END = "end_to_end"  # all as one line, without padding


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """Right-padded sequences (prompt + completion) for one forward pass.

    Position t of every [batch, seq] array speaks of token t: `logprobs[b, t]` is the log-probability of
    `token_ids[b, t]` given the tokens before it. `token_weights` carries the whole loss normalisation (it is 0
    outside the response), so a loss is `sum(token_weights * objective)` and does not depend on how sequences
    fall on ranks and micro-batches. A dummy (padding of a rank's schedule) has all weights 0.
    """

    token_ids: np.ndarray  # [batch, seq] int64
    lengths: np.ndarray  # [batch] int64, tokens before the padding
    response_mask: np.ndarray  # [batch, seq] bool, True on completion tokens that are trained
    token_weights: np.ndarray  # [batch, seq] float32
    advantages: np.ndarray  # [batch] float32
    generator_logprobs: np.ndarray  # [batch, seq] float32, 0 where response_mask is False
    prefix_stop: np.ndarray  # [batch] int64: prefix = [0, prefix_stop)
    question_stop: np.ndarray  # [batch] int64: question = [prefix_stop, question_stop)
    slots: np.ndarray  # [batch] int64; -1 = this row's prompt angle is not wanted (a sibling row gives it)
    packs: np.ndarray  # [batch] int64; rows of one number have the same prompt, which models that can run but once


@dataclass(frozen=True, slots=True, kw_only=True)
class RankBatch:
    """What one learner rank trains in one step; every rank has equally many micro-batches in each update."""

    step: int
    policy_version: int  # version that generated the step's completions; replayed ones are older
    updates: tuple[tuple[MicroBatch, ...], ...]  # optimizer updates, each a list of micro-batches; may be empty
    measure: tuple[MicroBatch, ...]  # prompt-only rows of groups left out of the update, for their angle


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateReport:
    """What one rank saw while training one step; means are over trained tokens of all ranks."""

    loss: float
    kl: float | None  # k3 estimate to the reference policy; None without a reference
    clip_fraction: float
    entropy: float
    importance_mean: float  # mean of the truncated importance weights
    mismatch_kl: float  # mean of generator_logprobs - old_logprobs: size of the rollout/learner mismatch
    grad_norm: float  # before clipping; mean over the step's updates
    learning_rate: float
    skipped_updates: int  # updates left out because loss or gradient was not finite
    trained_tokens: int  # completion tokens with weight, all ranks
    angles: dict[int, float]  # slot -> angle concentration of its prompt, this rank's slots only
    seconds: dict[str, float]  # part -> seconds: "train", "sync", "wait", ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotOutcome:
    """What the curriculum learns of one slot."""

    slot: int
    row: int
    completions: int  # graded, 1 or more
    accuracy: float  # of them, in [0, 1]
    angle: float  # angle concentration measured while training; nan when not measured


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOutcome:
    """What the curriculum learns of one step."""

    step: int
    slots: tuple[SlotOutcome, ...]

    @property
    def accuracy(self) -> float:
        """Mean accuracy over slots, in [0, 1]."""
        return float(np.mean([slot.accuracy for slot in self.slots]))

    @property
    def angle(self) -> float:
        """Mean measured angle concentration over slots; nan when none was measured."""
        measured = [slot.angle for slot in self.slots if not np.isnan(slot.angle)]
        return float(np.mean(measured)) if measured else float("nan")
