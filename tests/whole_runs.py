"""Whole runs on the tiny model: real Ray, vLLM and DeepSpeed, four steps of six problems."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from gainrl_ray.config import Config
from gainrl_ray.metrics import read_metrics
from gainrl_ray.run_record import read_ledger
from gainrl_ray.storage import Storage

STEPS, RATE = 4, 1e-4


def settings(folder: Path, **sections: dict[str, Any]) -> Config:
    tree: dict[str, Any] = {
        "run": {"storage": str(folder), "steps": STEPS},
        "model": {"path": "tiny", "dtype": "float32"},
        "data": {
            "train": {"path": "arithmetic", "limit": 64, "max_level": 2},
            "heldout": {"path": "arithmetic", "split": "heldout", "limit": 8, "max_level": 2},
        },
        "curriculum": {"name": "gain", "sigma": 0.2, "mu_step_scale": 0.2},
        "rollout": {"problems_per_step": 6, "group_size": 4, "max_new_tokens": 48, "stall_deadline_s": 60},
        "sync": {"verify_every": 2, "verify_tolerance": 0.001},
        "optimizer": {"lr": RATE},
        "learner": {"zero_stage": 2},
        "evaluation": {"every": 2, "samples": 2},
        "checkpoint": {"every": 2},
        "report": {"every": None},
    }
    for name, section in sections.items():
        tree[name] = {**tree.get(name, {}), **section}
    return Config.model_validate(tree)


@dataclass(frozen=True)
class Finished:
    """A run's folder with what it printed."""

    folder: Path
    lines: list[str]

    def history(self) -> list[tuple]:
        """What the curriculum did in the committed history."""
        ledger = read_ledger(Storage(str(self.folder)))
        live = [e for e in ledger if not e["discarded"] and e["step"] < STEPS]
        return [(e["step"], e["problem_ids"], e["statuses"], e["policy_version"]) for e in live]

    def path(self, key: str) -> list[float]:
        """A figure of every trained step."""
        return [record[key] for record in read_metrics(Storage(str(self.folder))) if record["step"] > 0]

    def weights(self) -> dict[str, torch.Tensor]:
        from safetensors.torch import load_file

        return load_file(self.folder / "model" / "model.safetensors")


def run(config: Config, name: str) -> Finished:
    from gainrl_ray.training import train

    lines: list[str] = []
    return Finished(Path(train(config, name, lines.append).folder), lines)


def assert_alike(one: Finished, other: Finished) -> None:
    """The same windows, mu path and rewards; the same weights, to a tenth of what an update moves them by."""
    assert one.history() == other.history()
    for key in ("curriculum/mu", "accuracy", "reward"):
        assert one.path(key) == pytest.approx(other.path(key), abs=1e-9), key
    weights = other.weights()
    for name, tensor in one.weights().items():
        torch.testing.assert_close(tensor, weights[name], atol=0.1 * RATE, rtol=0)
