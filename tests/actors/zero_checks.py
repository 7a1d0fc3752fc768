"""One learner rank that runs everything test_zero.py looks at and writes down what it saw.

    python zero_checks.py RANK RANKS PORT MODEL FOLDER

Run as a program, since a process belongs to one process group only.
"""

import os
import shutil
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gainrl_ray.actors import turns
from gainrl_ray.actors.zero import PolicyEngine
from gainrl_ray.algo.batching import build_rank_batches
from gainrl_ray.config import Config
from gainrl_ray.errors import GainrlError
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
STEPS = 8
ALL_IN_ONE = 100_000
FEW_TOKENS = 48
RANKS_FOLDER = "ranks{}"
PROBE = (5, 9, 2, 77, 310)


def make_config(path: str, stage: int, **sections: dict[str, Any]) -> Config:
    """A float32 run; a large eps keeps Adam's first update smooth in the gradient, so that runs can be compared."""
    # Without the threshold ZeRO-3 would not shard weights as small as these.
    extra = {"zero_optimization": {"stage3_param_persistence_threshold": 0}} if stage == 3 else {}
    tree: dict[str, dict[str, Any]] = {
        "run": {"steps": STEPS},
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


def make_batches(config: Config, seed: int, ranks: int, tokens: int, step: int = 0) -> tuple[RankBatch, ...]:
    """The step's batch of every rank."""
    return build_rank_batches(
        make_groups(seed),
        step=step,
        policy_version=0,
        loss=config.loss,
        ranks=ranks,
        microbatch_tokens=tokens,
        updates_per_step=config.learner.updates_per_step,
        max_new_tokens=12,
        measure_all=True,
        pad_id=0,
        pack_tokens=config.learner.pack_tokens,
    )


def weights_now(engine: PolicyEngine) -> dict[str, Any]:
    """Copies of the weights, which stay as they are when the engine trains on."""
    return {name: tensor.clone() for name, tensor in engine.named_weights()}


class Rank:
    """The checks, as seen by one rank."""

    def __init__(self, rank: int, ranks: int, model: str, folder: Path) -> None:
        self.rank, self.ranks, self.model, self.folder = rank, ranks, model, folder
        self.tokens = ALL_IN_ONE if ranks == 1 else FEW_TOKENS

    def engine(self, config: Config) -> PolicyEngine:
        return PolicyEngine(config, rank=self.rank, world_size=self.ranks)

    def batch(self, config: Config, seed: int, step: int = 0, tokens: int | None = None) -> RankBatch:
        return make_batches(config, seed, self.ranks, tokens or self.tokens, step)[self.rank]

    def first_update(self, config: Config, tokens: int | None = None) -> tuple[PolicyEngine, dict[str, Any]]:
        """An engine after one update, with that update's gradients and weights."""
        engine = self.engine(config)
        seen: dict[str, Any] = {"start": weights_now(engine), "probe": engine.probe(PROBE)[0]}
        step = engine._apply
        engine._apply = lambda: seen.update(gradients=_gradients(engine)) or step()  # type: ignore[method-assign]
        seen["report"] = asdict(engine.update(self.batch(config, seed=1, tokens=tokens)))
        engine._apply = step  # type: ignore[method-assign]
        seen["weights"] = weights_now(engine)
        return engine, seen

    def resume(self, config: Config, name: str) -> dict[str, Any]:
        """Two updates at once, and one, a checkpoint, a new engine and the other.

        Where an engine may share its device with others, it rests before the second update and is saved then.
        """
        engine, seen = self.first_update(config)
        learner = config.learner
        if rests := learner.zero_stage == 2 or learner.offload_params == "cpu":
            engine.rest()
            seen["resting"] = weights_now(engine)
        engine.save(self.folder / name)
        if rests:
            engine.resume()
        seen["second"] = asdict(engine.update(self.batch(config, seed=2, step=1)))
        seen["straight"] = weights_now(engine)
        continued = self.engine(config)
        continued.load(self.folder / name)
        seen["loaded"] = weights_now(continued)
        seen["second_resumed"] = asdict(continued.update(self.batch(config, seed=2, step=1)))
        seen["resumed"] = weights_now(continued)
        seen["refusal"] = self.refused_export(continued, f"{name}_refused")
        continued.export(self.folder / f"{name}_model")
        return seen

    def refused_export(self, engine: PolicyEngine, name: str) -> str:
        """What an export that cannot write says on this rank; all ranks go on from it."""
        (self.folder / f".{name}.draft").write_text("a file where a folder is to be")
        try:
            engine.export(self.folder / name)
        except OSError as error:
            return type(error).__name__
        return ""

    def skip(self, config: Config) -> dict[str, Any]:
        """An update spoilt on the last rank only, then a good one, by an engine that has not trained."""
        engine, batch = self.engine(config), self.batch(config, seed=1)
        spoilt = batch if self.rank < self.ranks - 1 else replace(batch, updates=(_spoil(batch.updates[0]),))
        report = asdict(engine.update(spoilt))
        after = weights_now(engine)
        second = asdict(engine.update(batch))
        return {"report": report, "after": after, "second": second, "weights": weights_now(engine)}

    def several_updates(self, config: Config) -> dict[str, Any]:
        """A step of two updates against a reference policy, after a step of none."""
        engine = self.engine(config)
        batch = self.batch(config, seed=3)
        idle = asdict(engine.update(replace(batch, updates=())))
        before = weights_now(engine)
        report = asdict(engine.update(batch))
        return {"idle": idle, "before": before, "report": report, "weights": weights_now(engine)}

    def alone(self) -> dict[str, Any]:
        """The checks of a run with one rank, by name."""
        config = make_config(self.model, 2)
        found = {"small": self.first_update(config, tokens=FEW_TOKENS)[1], "stage2": self.resume(config, "stage2")}
        for stage in (0, 1, 3):
            found[f"stage{stage}"] = self.first_update(make_config(self.model, stage))[1]
        for stage in range(4):
            found[f"several{stage}"] = self.several_updates(_with_kl(self.model, stage))
        found["refusals"] = self.refusals()
        found["no_signal"] = self.no_signal()
        found["no_gpu"] = self.no_gpu()
        return found

    def refusals(self) -> dict[str, str]:
        """The error of loading each unsuitable checkpoint into an engine of one rank and stage 2."""
        engine, two_ranks = self.engine(make_config(self.model, 2)), self.folder.parent / RANKS_FOLDER.format(2)
        broken = self.folder / "broken"
        shutil.copytree(self.folder / "stage2", broken)
        for file in (broken / "engine").glob("*optim_states.pt"):
            file.write_bytes(b"not a checkpoint")
        folders = {
            "ranks": two_ranks / "stage2",
            "stage": two_ranks / "stage1",
            "nothing": self.folder / "nowhere",
            "broken": broken,
        }
        errors = {}
        for name, folder in folders.items():
            try:
                engine.load(folder)
            except GainrlError as error:
                errors[name] = f"{type(error).__name__}: {error}"
        return errors

    def no_signal(self) -> dict[str, Any]:
        """One update of a model whose blocks have no MLP of that name, and the error where its angles are needed."""
        folder = str(self.folder.parent / "opt")
        config = make_config(folder, 2, curriculum={"name": "uniform"})
        found: dict[str, Any] = {"report": asdict(self.engine(config).update(self.batch(config, seed=1)))}
        try:
            self.engine(make_config(folder, 2))
        except GainrlError as error:
            found["error"] = f"{type(error).__name__}: {error}"
        return found

    def no_gpu(self) -> str:
        """The error of an engine that is to run on a GPU, where there is none."""
        torch.cuda.is_available = lambda: False
        try:
            self.engine(make_config(self.model, 2, learner={"gpus_per_worker": 1}))
        except GainrlError as error:
            return f"{type(error).__name__}: {error}"
        return ""

    def slow_rest(self) -> dict[str, float]:
        """When this rank's device was free, and when `rest` said so; other ranks leave theirs half a second later."""
        engine, seen, move = self.engine(make_config(self.model, 2)), {}, turns.rest
        first_is_free = self.folder / "first_is_free"

        def slowly(*states: Any) -> None:
            deadline = time.monotonic() + 60
            while self.rank and not first_is_free.exists():
                assert time.monotonic() < deadline
                time.sleep(0.01)
            time.sleep(0.5 * self.rank)
            move(*states)
            seen["free"] = time.monotonic()
            first_is_free.touch()

        turns.rest = slowly
        engine.rest()
        seen["said"] = time.monotonic()
        turns.rest = move
        return seen

    def together(self) -> dict[str, Any]:
        """The checks of a run with several ranks, by name."""
        found: dict[str, Any] = {"slow_rest": self.slow_rest()}
        for stage in range(4):
            config = make_config(self.model, stage)
            found[f"stage{stage}"] = self.resume(config, f"stage{stage}")
            found[f"skip{stage}"] = self.skip(config)
            found[f"several{stage}"] = self.several_updates(_with_kl(self.model, stage))
            # On the CPU it is sdpa.
            config = make_config(self.model, stage, model={"dtype": "bfloat16", "attention": "flash_attention_2"})
            found[f"bf16_{stage}"] = self.resume(config, f"bf16_{stage}")
            found[f"bf16_skip{stage}"] = self.skip(config)
        config = make_config(self.model, 2, learner={"gradient_checkpointing": True})
        found["checkpointing2"] = self.first_update(config)[1]
        config = make_config(self.model, 3, learner={"gradient_checkpointing": True})
        found["checkpointing3"] = self.first_update(config)[1]
        for stage, offload in ((2, ("offload_optimizer",)), (3, ("offload_optimizer", "offload_params"))):
            config = make_config(self.model, stage, learner=dict.fromkeys(offload, "cpu"))
            found[f"offload{stage}"] = self.resume(config, f"offload{stage}")
            found[f"offload_skip{stage}"] = self.skip(config)
        return found


def deepspeed_ops() -> int:
    """Of how many kernels DeepSpeed has found out whether it could compile them."""
    import deepspeed

    return len(deepspeed.ops.__compatible_ops__)


def _with_kl(model: str, stage: int) -> Config:
    return make_config(model, stage, loss={"kl_coef": 0.1}, learner={"updates_per_step": 2})


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
    if int(ranks) > 1:  # one rank needs to be told nothing
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, RANK=rank, WORLD_SIZE=ranks, LOCAL_RANK=rank)
    checks = Rank(int(rank), int(ranks), model, Path(folder))
    if checks.ranks == 1:  # as on a machine with a GPU that the config does not ask for
        torch.cuda.is_available = lambda: True
    found = checks.alone() if checks.ranks == 1 else checks.together()
    found["modules"] = {
        "probed": deepspeed_ops(),
        "accelerator": os.environ["DS_ACCELERATOR"],
        "backend": torch.distributed.get_backend(),
    }
    torch.save(found, Path(folder) / f"rank{rank}.pt")


if __name__ == "__main__":
    main()
