"""What a run leaves on disk while it trains: metrics, rollouts, the ledger, and its console lines."""

import json
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from gainrl_ray.config import Config
from gainrl_ray.console import evaluation_line, step_line
from gainrl_ray.data.rollout_table import groups_to_table
from gainrl_ray.metrics import MetricsWriter, Record
from gainrl_ray.storage import Storage
from gainrl_ray.types import GradedGroup, Outcome, UpdateReport

CONFIG_FILE = "config.yaml"
LEDGER = "ledger"
ROLLOUTS = "rollouts"

LEARNER_MEANS = (
    "loss",
    "kl",
    "clip_fraction",
    "entropy",
    "importance_mean",
    "mismatch_kl",
    "grad_norm",
    "learning_rate",
)


def read_ledger(run: Storage) -> list[dict[str, Any]]:
    """The entries in a run's folder by step and attempt, as LedgerEntry.as_dict has them."""
    folder, entries = run.child(LEDGER), {}
    for name in folder.list():  # by attempt, then step: of an entry in two files the later one holds
        for entry in json.loads(folder.read_text(name)):
            entries[entry["step"], entry["attempt"]] = entry
    return [entries[key] for key in sorted(entries)]


class RunRecord:
    """The run's folder and its lines for the console; safe to call from several threads."""

    def __init__(self, config: Config, run_name: str, storage: Storage) -> None:
        self._config, self._storage = config, storage
        self._metrics = MetricsWriter(storage, config.tracking, run_name, config.model_dump(mode="json"))
        self._lock = threading.Lock()
        self._last = time.monotonic()
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        """Add a console line."""
        with self._lock:
            self.lines.append(line)

    def log(self, record: Record) -> None:
        """Store an evaluation that belongs to no step."""
        with self._lock:
            self._metrics.log(record)
            self.lines.append(evaluation_line(record))

    def start_clock(self) -> None:
        """Count the first step's seconds from now on."""
        with self._lock:
            self._last = time.monotonic()

    def step(
        self,
        step: int,
        groups: Sequence[GradedGroup],
        *,
        reports: Sequence[UpdateReport],
        seconds: dict[str, float],
        extra: Record,
    ) -> Record:
        """Store and return the record of a step: learning, outcomes, speed, totals of the run so far."""
        with self._lock:
            total_s, self._last = time.monotonic() - self._last, time.monotonic()
            record = self._record(step, groups, reports, seconds, total_s) | extra
            self._metrics.log(record)
            self.lines.append(step_line(record, self._config.run.steps))
            return record

    def rollouts(self, step: int, groups: Sequence[GradedGroup]) -> None:
        """Write a step's rollouts as rollouts/step_<number>.parquet."""
        if self._config.tracking.rollouts:
            name = f"step_{step:06d}.parquet"
            self._storage.child(ROLLOUTS).write_table(name, groups_to_table(step, groups))

    def ledger(self) -> list[dict[str, Any]]:
        """The stored ledger; empty for a new run."""
        return read_ledger(self._storage)

    def best_accuracy(self) -> float:
        """The highest held-out accuracy of a trained version so far; -inf before the first."""
        found = [record["eval/accuracy"] for record in self._metrics.records if "eval/accuracy" in record]
        return max(found[1:], default=float("-inf"))

    def commit(self, step: int, attempt: int, ledger: list[dict[str, Any]]) -> None:
        """Store the ledger's entries of the steps since the last commit; those of earlier steps have not changed."""
        self._storage.child(LEDGER).write_text(f"attempt_{attempt:04d}_step_{step:06d}.json", json.dumps(ledger))

    def rewind(self, step: int, attempt: int) -> None:
        """Drop everything past `step` trained steps."""
        with self._lock:
            self._metrics.rewind(step)
            folder = self._storage.child(ROLLOUTS)
            for name in folder.list():
                if name.startswith("step_") and int(name[5:-8]) >= step:
                    folder.delete(name)
            if attempt > 1:
                self.lines.append(f"continuing after step {step} (attempt {attempt})")

    def close(self) -> None:
        """End the trackers."""
        self._metrics.close()

    def _record(
        self,
        step: int,
        groups: Sequence[GradedGroup],
        reports: Sequence[UpdateReport],
        seconds: dict[str, float],
        total_s: float,
    ) -> Record:
        completions = [completion for graded in groups for completion in graded.group.completions]
        grades = [grade for graded in groups for grade in graded.grades]
        tokens = sum(len(completion.token_ids) for completion in completions)
        rewards = np.array([grade.reward for grade in grades])
        informative = [len(set(graded.rewards)) > 1 for graded in groups]
        parts = {name: max(report.seconds.get(name, 0.0) for report in reports) for name in ("train", "publish")}
        parts = {**seconds, "train": parts["train"], "sync": seconds["sync"] + parts["publish"]}
        parts["wait"] = max(0.0, total_s - sum(parts.values()))
        before = self._metrics.records[-1] if self._metrics.records else {}
        outcomes = Counter(grade.outcome for grade in grades)
        return {
            "step": step,
            "accuracy": float(np.mean([graded.accuracy for graded in groups])),
            "reward": float(rewards.mean()),
            "reward_std": float(rewards.std()),
            "informative_groups": float(np.mean(informative)),
            "truncated": float(np.mean([c.finish_reason == "length" for c in completions])),
            "completion_tokens": tokens / len(completions),
            "prompt_tokens": float(np.mean([len(graded.group.prompt.token_ids) for graded in groups])),
            "prefix_tokens": groups[0].group.prompt.prefix.stop,
            **{f"outcome/{outcome}": outcomes[outcome] / len(grades) for outcome in Outcome},
            **{name: getattr(reports[0], name) for name in LEARNER_MEANS},
            "skipped_updates": reports[0].skipped_updates,
            "trained_tokens": reports[0].trained_tokens,
            "tokens_per_second": tokens / total_s,
            **{f"seconds/{name}": value for name, value in parts.items()},
            **({"seconds/store": reports[0].seconds["store"]} if "store" in reports[0].seconds else {}),
            "seconds/total": total_s,
            "total/problems": before.get("total/problems", 0) + len(groups),
            "total/rollouts": before.get("total/rollouts", 0) + len(completions),
            "total/tokens": before.get("total/tokens", 0) + tokens,
            "total/seconds": before.get("total/seconds", 0.0) + total_s,
        }
