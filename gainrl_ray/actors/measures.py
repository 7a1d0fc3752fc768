"""What a scoring pass computes of every problem: how a block is tokenised, and what the model makes of it."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa

from gainrl_ray.algo.batching import build_rank_batches
from gainrl_ray.algo.projection import sign_matrix
from gainrl_ray.config import LossConfig
from gainrl_ray.data.prompts import PromptBuilder, RefusedPrompt
from gainrl_ray.errors import DataError
from gainrl_ray.model.embedding import question_means
from gainrl_ray.model.gradients import GradientProjector
from gainrl_ray.model.likelihood import GoldSequence, gold_likelihoods
from gainrl_ray.model.policy import PolicyModel
from gainrl_ray.model.prefill import prefill_angles
from gainrl_ray.rewards.math import last_boxed
from gainrl_ray.types import Completion, Grade, GradedGroup, Outcome, Problem, Prompt, RolloutGroup


class Measure(ABC):
    """One kind of scoring pass; crosses processes as its settings."""

    columns: ClassVar[tuple[str, ...]] = ("question", "turns")
    """What it reads of a problem beside its row and problem_id."""

    def load(self, model: Any) -> Any:
        """What `values` works with, made once of the model in evaluation mode on its device."""
        return model

    def prepare(self, problems: pa.Table, prompts: PromptBuilder) -> list[Any]:
        """One item for `values` a problem; runs beside the model.

        Raises: DataError for a question without a prompt.
        """
        return build_prompts(problems, prompts)

    @abstractmethod
    def values(self, loaded: Any, items: list[Any], batch_tokens: int) -> dict[str, pa.Array]:
        """The columns of the result, each [problems]; batch_tokens bounds the padded tokens of a forward pass."""


@dataclass(frozen=True, slots=True)
class AngleMeasure(Measure):
    """Angle concentration, with the prompt's lengths."""

    def values(self, loaded: Any, items: list[Prompt], batch_tokens: int) -> dict[str, pa.Array]:
        """c_intra, c_inter, score, prompt_tokens, question_tokens."""
        # Padding stands where causal attention never looks, so any token id pads.
        scores = prefill_angles(loaded, items, pad_id=0, batch_tokens=batch_tokens)
        return {
            "c_intra": pa.array([score.c_intra for score in scores], pa.float64()),
            "c_inter": pa.array([score.c_inter for score in scores], pa.float64()),
            "score": pa.array([score.c_intra + score.c_inter for score in scores], pa.float64()),
            "prompt_tokens": pa.array([score.prompt_tokens for score in scores], pa.int64()),
            "question_tokens": pa.array([score.question_tokens for score in scores], pa.int64()),
        }


@dataclass(frozen=True, slots=True)
class EmbeddingMeasure(Measure):
    """The mean state of a question, projected to `size` numbers."""

    size: int

    def values(self, loaded: Any, items: list[Prompt], batch_tokens: int) -> dict[str, pa.Array]:
        """value: a list of `size` float32 numbers."""
        means = question_means(loaded, items, batch_tokens).numpy()
        return {"value": _vectors(means @ sign_matrix(means.shape[1], self.size, 0, "embedding"))}


@dataclass(frozen=True, slots=True)
class GoldMeasure(Measure):
    """The likelihood of the reference answer after the text `before`."""

    before: str
    columns: ClassVar[tuple[str, ...]] = ("question", "turns", "answer")

    def load(self, model: Any) -> PolicyModel:
        """The model that gives log-probabilities."""
        return PolicyModel(model)

    def prepare(self, problems: pa.Table, prompts: PromptBuilder) -> list[GoldSequence]:
        """Prompts with their answers; of an answer with a box (a worked solution), what the last one holds."""
        built = build_prompts(problems, prompts)
        answers = [(last_boxed(answer) or answer).strip() for answer in problems["answer"].to_pylist()]
        pairs = zip(built, prompts.continuations(self.before, answers), strict=True)
        return [GoldSequence(prompt, token_ids, gold) for prompt, (token_ids, gold) in pairs]

    def values(self, loaded: PolicyModel, items: list[GoldSequence], batch_tokens: int) -> dict[str, pa.Array]:
        """value: exp of the mean log-probability of the answer's tokens."""
        return {"value": pa.array(gold_likelihoods(loaded, items, batch_tokens), pa.float64())}


@dataclass(frozen=True, slots=True)
class GradientMeasure(Measure):
    """The gradient of a problem's graded group, projected to side^2 numbers; its length alone when `side` is None."""

    blocks: int
    side: int | None
    loss: LossConfig
    temperature: float
    max_new_tokens: int
    pack_tokens: int
    columns: ClassVar[tuple[str, ...]] = ("question", "turns", "completions", "is_whole", "rewards")

    def load(self, model: Any) -> GradientProjector:
        """The model with hooks on its last linear layers."""
        return GradientProjector(PolicyModel(model), self.blocks, self.side)

    def prepare(self, problems: pa.Table, prompts: PromptBuilder) -> list[GradedGroup]:
        """The groups that `sample_problems` stored."""
        built = build_prompts(problems, prompts)
        columns = (problems[name].to_pylist() for name in ("completions", "is_whole", "rewards"))
        return [_group(*item) for item in zip(built, *columns, strict=True)]

    def values(self, loaded: GradientProjector, items: list[GradedGroup], batch_tokens: int) -> dict[str, pa.Array]:
        """value: the projected gradient, a list of side^2 float32 numbers, or its length, float64."""
        gradients = [loaded(self._batches(item, batch_tokens), self.temperature) for item in items]
        if self.side is None:
            return {"value": pa.array([float(gradient.norm()) for gradient in gradients], pa.float64())}
        return {"value": _vectors([gradient.numpy() for gradient in gradients])}

    def _batches(self, group: GradedGroup, batch_tokens: int) -> Any:
        batches = build_rank_batches(
            [group],
            step=0,
            policy_version=0,
            loss=self.loss,
            ranks=1,
            microbatch_tokens=batch_tokens,
            updates_per_step=1,
            max_new_tokens=self.max_new_tokens,
            measure_all=False,
            pad_id=0,
            pack_tokens=self.pack_tokens,
        )[0].updates
        return batches[0] if batches else ()


def build_prompts(problems: pa.Table, prompts: PromptBuilder) -> list[Prompt]:
    """The prompts of a block. Raises: DataError for a question without one."""
    rows = zip(*(problems[name].to_pylist() for name in ("problem_id", "question", "turns")), strict=True)
    wanted = [Problem(id=name, question=text, answer="", source="", turns=turns) for name, text, turns in rows]
    built = []
    for problem, prompt in zip(wanted, prompts.build_all(wanted), strict=True):
        if isinstance(prompt, RefusedPrompt):
            raise DataError(f"problem {problem.id!r}: {prompt.detail}")
        built.append(prompt)
    return built


def _group(prompt: Prompt, completions: list[list[int]], is_whole: list[bool], rewards: list[float]) -> GradedGroup:
    """A stored group, with what its gradient depends on."""
    group = RolloutGroup(
        slot=0,
        row=0,
        problem=Problem(id=prompt.problem_id, question="", answer="", source=""),
        prompt=prompt,
        completions=tuple(
            Completion(
                token_ids=tuple(token_ids),
                logprobs=(0.0,) * len(token_ids),  # the gradient is at the policy that generated them
                finish_reason="stop" if whole else "length",
                text="",
            )
            for token_ids, whole in zip(completions, is_whole, strict=True)
        ),
        policy_version=0,
    )
    return GradedGroup(group=group, grades=tuple(Grade(outcome=Outcome.WRONG, reward=reward) for reward in rewards))


def _vectors(values: Any) -> pa.Array:
    """A list of float32 numbers a problem."""
    return pa.array([list(map(float, vector)) for vector in values], pa.list_(pa.float32()))
