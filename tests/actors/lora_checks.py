"""One learner rank that trains adapters in every way test_zero_lora.py looks at, and writes down what it saw.

    python lora_checks.py RANK RANKS PORT MODEL FOLDER

Run as a program, since a process belongs to one process group only.
"""

import os
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import zero_checks
from torch import Tensor

from gainrl_ray.actors import zero_state
from gainrl_ray.actors.zero import PolicyEngine
from gainrl_ray.config import Config
from gainrl_ray.errors import ConfigError

RANK, ALPHA, KL_COEF = 4, 8.0, 0.1
SEEDS = (1, 2, 3)  # of the batches of steps 0, 1 and 2


def make_config(folder: str, stage: int, **sections: dict[str, Any]) -> Config:
    """The run of zero_checks with adapters, and a penalty towards the reference policy."""
    lora = {"rank": RANK, "alpha": ALPHA, **sections.pop("lora", {})}
    return zero_checks.make_config(folder, stage, lora=lora, loss={"kl_coef": KL_COEF}, **sections)


class Rank(zero_checks.Rank):
    """The checks, as seen by one rank."""

    def steps(self, engine: PolicyEngine, config: Config, numbers: tuple[int, ...]) -> list[dict[str, Any]]:
        """Every step of these numbers, with the weights after it."""
        found = []
        for step in numbers:
            report = asdict(engine.update(self.batch(config, SEEDS[step], step)))
            found.append({"report": {**report, "seconds": {}}, "weights": _copies(engine.named_weights())})
        return found

    def resume(self, name: str, config: Config) -> dict[str, Any]:
        """Three steps with a checkpoint after the first, and a new engine that goes on from there."""
        engine = self.engine(config)
        seen: dict[str, Any] = {
            "start": _copies(engine.named_weights()),
            "factors": _copies(zero_state.gathered_adapters(engine._policy.language_model, rank=self.rank)),
        }
        step, gradients = engine._apply, []
        engine._apply = lambda: gradients.append(_gradients(engine)) or step()  # type: ignore[method-assign]
        straight = self.steps(engine, config, (0,))
        engine.save(self.folder / name)
        seen["straight"] = straight + self.steps(engine, config, (1, 2))
        seen["gradients"] = gradients
        seen["moments"] = sum(state["exp_avg"].numel() for state in engine._engine.basic_optimizer.state.values())
        seen["probe"] = engine.probe(zero_checks.PROBE)[0]
        engine.export(self.folder / f"{name}_model")
        # Another seed draws other adapters, so that whatever is not loaded shows.
        continued = self.engine(config.model_copy(update={"run": config.run.model_copy(update={"seed": 7})}))
        continued.load(self.folder / name)
        seen["loaded"] = _copies(continued.named_weights())
        seen["resumed"] = self.steps(continued, config, (1, 2))
        return seen


def _gradients(engine: PolicyEngine) -> dict[str, torch.Tensor]:
    """The full gradient of every trained weight, as DeepSpeed is about to apply it."""
    from deepspeed.utils import safe_get_full_grad

    named = engine._policy.language_model.named_parameters()
    return {n: safe_get_full_grad(weight).detach().float().clone() for n, weight in named if weight.requires_grad}


def main() -> None:
    rank, ranks, port, model, folder = sys.argv[1:]
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, RANK=rank, WORLD_SIZE=ranks, LOCAL_RANK=rank)
    checks = Rank(int(rank), int(ranks), model, Path(folder))
    found: dict[str, Any] = {}
    for stage in range(4):
        found[f"stage{stage}"] = checks.resume(f"stage{stage}", make_config(model, stage))
    for stage in (0, 2):
        found[f"bf16_{stage}"] = checks.resume(f"bf16_{stage}", make_config(model, stage, model={"dtype": "bfloat16"}))
    config = make_config(model, 3, learner={"gradient_checkpointing": True})
    found["checkpointing3"] = {"straight": checks.steps(checks.engine(config), config, (0,))}
    alone = {"sync": "adapter", "export": "adapter", "targets": ["q_proj", "down_proj"]}
    config = make_config(model, 3, lora=alone, model={"dtype": "bfloat16"})
    engine = checks.engine(config)
    found["alone"] = {"start": _copies(engine.named_weights()), "bytes": engine.weight_bytes}
    found["alone"]["straight"] = checks.steps(engine, config, (0,))
    engine.export(checks.folder / "alone_model")
    try:
        engine.load(checks.folder / "stage3")
    except ConfigError as error:
        found["refused"] = str(error)
    torch.save(found, Path(folder) / f"rank{rank}.pt")


def _copies(named: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors that do not change any more; those that come may be the policy's own."""
    return {name: tensor.clone() for name, tensor in named}


if __name__ == "__main__":
    main()
