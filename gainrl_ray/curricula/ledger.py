"""The ledger: what became of every slot of every window, across restarts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class SlotStatus(StrEnum):
    """The furthest that a slot came in one attempt."""

    PLANNED = "planned"
    GRADED = "graded"
    TRAINED = "trained"  # its group was in the update
    LEFT_OUT = "left_out"  # its rewards were all equal: in the step's outcome, not in the update
    SKIPPED = "skipped"  # drawn and not generated, as the group policy had it
    REPLAYED = "replayed"  # trained once more: generated in an earlier step


@dataclass(slots=True)
class LedgerEntry:
    """One step of one attempt; `statuses[slot]` and `problem_ids[slot]` speak of the same slot."""

    step: int
    attempt: int
    problem_ids: tuple[str, ...]
    statuses: list[SlotStatus]
    policy_version: int | None = None
    discarded: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The entry as JSON-able values."""
        return {
            "step": self.step,
            "attempt": self.attempt,
            "policy_version": self.policy_version,
            "discarded": self.discarded,
            "problem_ids": list(self.problem_ids),
            "statuses": [str(status) for status in self.statuses],
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "LedgerEntry":
        """The entry that `as_dict` described."""
        return cls(
            step=values["step"],
            attempt=values["attempt"],
            problem_ids=tuple(values["problem_ids"]),
            statuses=[SlotStatus(status) for status in values["statuses"]],
            policy_version=values["policy_version"],
            discarded=values["discarded"],
        )


class Ledger:
    """Every slot's history, keyed by (step, attempt, slot).

    Exactly once holds in the committed history: of all entries of a step, one at most is not discarded.
    """

    def __init__(self, entries: list[LedgerEntry] | None = None) -> None:
        self._entries: dict[tuple[int, int], LedgerEntry] = {}
        for entry in entries or []:
            self._entries[entry.step, entry.attempt] = entry

    def __iter__(self) -> Iterator[LedgerEntry]:
        return iter(sorted(self._entries.values(), key=lambda entry: (entry.step, entry.attempt)))

    def since(self, step: int) -> list[LedgerEntry]:
        """The entries of all attempts from `step` on: when that was the last step to rewind to, those that changed."""
        return [entry for entry in self if entry.step >= step]

    def plan(self, step: int, attempt: int, problem_ids: tuple[str, ...]) -> None:
        """Record a window; planning the same step of the same attempt again changes nothing."""
        if (step, attempt) not in self._entries:
            statuses = [SlotStatus.PLANNED] * len(problem_ids)
            self._entries[step, attempt] = LedgerEntry(step, attempt, problem_ids, statuses)

    def extend(self, step: int, attempt: int, problem_ids: Sequence[str]) -> None:
        """Record slots beyond those of the window; `problem_ids` are all slots', and known ones change nothing.

        Raises:
            KeyError: the step was never planned in this attempt.
        """
        entry = self._entries[step, attempt]
        added = tuple(problem_ids[len(entry.problem_ids) :])
        entry.problem_ids += added
        entry.statuses += [SlotStatus.PLANNED] * len(added)

    def mark(self, step: int, attempt: int, statuses: dict[int, SlotStatus], policy_version: int) -> None:
        """Record how far slots came, and the version that generated their groups.

        Raises:
            KeyError: the step was never planned in this attempt.
        """
        entry = self._entries[step, attempt]
        entry.policy_version = policy_version
        for slot, status in statuses.items():
            entry.statuses[slot] = status

    def rewind(self, step: int, attempt: int) -> int:
        """Discard all entries at or past `step` of attempts before `attempt`; returns how many were discarded."""
        stale = [e for e in self._entries.values() if e.step >= step and e.attempt < attempt and not e.discarded]
        for entry in stale:
            entry.discarded = True
        return len(stale)
