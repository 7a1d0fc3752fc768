"""One learner rank that runs everything test_zero.py looks at and writes down what it saw.

    python zero_checks.py RANK RANKS PORT MODEL FOLDER

Run as a program, since a process belongs to one process group only.
"""

import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gainrl_ray.actors.zero import PolicyEngine
from gainrl_ray.algo.batching import build_rank_batches
from gainrl_ray.config import Config
from gainrl_ray.types import (
    Completion,
    Grade,
    GradedGroup,
    Outcome,
    Problem,
    Prompt,
    RankBatch,
    RolloutGroup,
    Span,
)

VOCABULARY = 500
TOTAL_UPDATES = 8
ALL_IN_ONE = 100_000
FEW_TOKENS = 48
PROBE = (5, 9, 2, 77, 310)


def make_config(path: str, stage: int, **sections: dict[str, Any]) -> Config:
    """A float32 run; a large eps keeps Adam's first update smooth in the gradient, so that runs can be compared."""
    # Without the threshold ZeRO-3 would not shard weights as small as these.
    extra = {"zero_optimization": {"stage3_param_persistence_threshold": 0}} if stage == 3 else {}
    tree: dict[str, dict[str, Any]] = {
        "model": {"path": path, "dtype": "float32"},
        "rollout": {"temperature": 0.7},
        "optimizer": {"lr": 0.01, "eps": 1e-3, "schedule": "linear", "warmup_updates": 2},
        "learner": {"zero_stage": stage, "deepspeed": extra},
    }
    for name, values in sections.items():
        tree[name] = {**tree.get(name, {}), **values}
    return Config.model_validate(tree)


def make_groups(seed: int) -> list[GradedGroup]:
    """Four groups of four completions, the last with equal rewards."""
    rng = np.random.default_rng(seed)
    return [_group(slot, rng, [1.0, 0.0, 0.0, 1.0] if slot < 3 else [0.0] * 4) for slot in range(4)]


def _group(slot: int, rng: np.random.Generator, rewards: list[float]) -> GradedGroup:
    tokens = int(rng.integers(7, 15))
    prompt = Prompt(
        problem_id=f"p{slot}",
        token_ids=_ids(rng, tokens),
        prefix=Span(0, 3),
        question=Span(3, tokens - 2),
        suffix=Span(tokens - 2, tokens),
    )
    completions = []
    for _ in rewards:
        length = int(rng.integers(2, 13))
        logprobs = tuple(float(value) for value in rng.normal(-6.2, 0.3, length))
        completions.append(Completion(token_ids=_ids(rng, length), logprobs=logprobs, finish_reason="stop", text=""))
    group = RolloutGroup(
        slot=slot,
        row=slot,
        problem=Problem(id=f"p{slot}", question="", answer="", source="test"),
        prompt=prompt,
        completions=tuple(completions),
        policy_version=0,
    )
    grades = tuple(Grade(outcome=Outcome.CORRECT if reward else Outcome.WRONG, reward=reward) for reward in rewards)
    return GradedGroup(group=group, grades=grades)


def _ids(rng: np.random.Generator, count: int) -> tuple[int, ...]:
    return tuple(int(token) for token in rng.integers(0, VOCABULARY, count))


def make_batches(config: Config, seed: int, ranks: int, tokens: int, updates: int = 1) -> tuple[RankBatch, ...]:
    """The step's batch of every rank."""
    return build_rank_batches(
        make_groups(seed),
        step=0,
        policy_version=0,
        loss=config.loss,
        ranks=ranks,
        microbatch_tokens=tokens,
        updates_per_step=updates,
        max_new_tokens=12,
        measure_all=True,
        pad_id=0,
    )


class Rank:
    """The checks, as seen by one rank."""

    def __init__(self, rank: int, ranks: int, model: str, folder: Path) -> None:
        self.rank, self.ranks, self.model, self.folder = rank, ranks, model, folder
        self.tokens = ALL_IN_ONE if ranks == 1 else FEW_TOKENS

    def engine(self, config: Config) -> PolicyEngine:
        return PolicyEngine(config, rank=self.rank, world_size=self.ranks, total_updates=TOTAL_UPDATES)

    def batch(self, config: Config, seed: int, updates: int = 1, tokens: int | None = None) -> RankBatch:
        return make_batches(config, seed, self.ranks, tokens or self.tokens, updates)[self.rank]

    def first_update(self, config: Config, tokens: int | None = None) -> tuple[PolicyEngine, dict[str, Any]]:
        """An engine after one update, with that update's gradients and weights."""
        engine = self.engine(config)
        seen: dict[str, Any] = {"start": dict(engine.named_weights()), "probe": engine.probe(PROBE)}
        step = engine._apply
        engine._apply = lambda: seen.update(gradients=_gradients(engine)) or step()  # type: ignore[method-assign]
        seen["report"] = asdict(engine.update(self.batch(config, seed=1, tokens=tokens)))
        engine._apply = step  # type: ignore[method-assign]
        seen["weights"] = dict(engine.named_weights())
        return engine, seen

    def resume(self, config: Config, name: str) -> dict[str, Any]:
        """Two updates at once, and one, a checkpoint, a new engine and the other."""
        engine, seen = self.first_update(config)
        engine.save(self.folder / name)
        seen["second"] = asdict(engine.update(self.batch(config, seed=2)))
        seen["straight"] = dict(engine.named_weights())
        continued = self.engine(config)
        continued.load(self.folder / name)
        seen["loaded"] = dict(continued.named_weights())
        seen["second_resumed"] = asdict(continued.update(self.batch(config, seed=2)))
        seen["resumed"] = dict(continued.named_weights())
        continued.export(self.folder / f"{name}_model")
        return seen

    def skip(self, config: Config) -> dict[str, Any]:
        """An update spoilt on the last rank only, then a good one, by an engine that has not trained."""
        engine, batch = self.engine(config), self.batch(config, seed=1)
        spoilt = batch if self.rank < self.ranks - 1 else replace(batch, updates=(_spoil(batch.updates[0]),))
        report = asdict(engine.update(spoilt))
        after = dict(engine.named_weights())
        second = asdict(engine.update(batch))
        return {"report": report, "after": after, "second": second, "weights": dict(engine.named_weights())}

    def several_updates(self, config: Config) -> dict[str, Any]:
        """A step of two updates against a reference policy, after a step of none."""
        engine = self.engine(config)
        batch = self.batch(config, seed=3, updates=2)
        idle = asdict(engine.update(replace(batch, updates=())))
        before = dict(engine.named_weights())
        report = asdict(engine.update(batch))
        return {"idle": idle, "before": before, "report": report, "weights": dict(engine.named_weights())}

    def all(self) -> dict[str, Any]:
        """Every check, by name."""
        found: dict[str, Any] = {}
        for stage in range(4):
            config = make_config(self.model, stage)
            found[f"stage{stage}"] = self.resume(config, f"stage{stage}")
            found[f"skip{stage}"] = self.skip(config)
            with_kl = make_config(self.model, stage, loss={"kl_coef": 0.1}, learner={**_learner(config)})
            found[f"several{stage}"] = self.several_updates(with_kl)
            brain = make_config(self.model, stage, model={"dtype": "bfloat16"}, learner=_learner(config))
            found[f"bf16_{stage}"] = self.resume(brain, f"bf16_{stage}")
            found[f"bf16_skip{stage}"] = self.skip(brain)
        found["checkpointing"] = self.first_update(
            make_config(self.model, 2, learner={"zero_stage": 2, "gradient_checkpointing": True})
        )[1]
        for stage in (2, 3):
            offload = {"offload_optimizer": "cpu"} | ({"offload_params": "cpu"} if stage == 3 else {})
            config = make_config(self.model, stage)
            config = make_config(self.model, stage, learner={**_learner(config), **offload})
            found[f"offload{stage}"] = self.resume(config, f"offload{stage}")
            found[f"offload_skip{stage}"] = self.skip(config)
        if self.ranks == 1:
            found["small"] = self.first_update(make_config(self.model, 2), tokens=FEW_TOKENS)[1]
        return found


def _learner(config: Config) -> dict[str, Any]:
    return {"zero_stage": config.learner.zero_stage, "deepspeed": config.learner.deepspeed}


def _spoil(micro_batches: tuple[Any, ...]) -> tuple[Any, ...]:
    """The first micro-batch with an advantage that is not a number."""
    first, *others = micro_batches
    return (replace(first, advantages=np.full_like(first.advantages, np.nan)), *others)


def _gradients(engine: PolicyEngine) -> dict[str, torch.Tensor]:
    """The full gradient of every weight, as DeepSpeed is about to apply it."""
    from deepspeed.utils import safe_get_full_grad

    named = engine._policy.language_model.named_parameters()
    return {name: safe_get_full_grad(weight).detach().float().clone() for name, weight in named}


def main() -> None:
    rank, ranks, port, model, folder = sys.argv[1:]
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, RANK=rank, WORLD_SIZE=ranks, LOCAL_RANK=rank)
    found = Rank(int(rank), int(ranks), model, Path(folder)).all()
    torch.save(found, Path(folder) / f"rank{rank}.pt")


if __name__ == "__main__":
    main()
