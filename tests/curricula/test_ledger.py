"""The ledger: exactly once in the committed history."""

import pytest

from gainrl_ray.curricula.ledger import Ledger, LedgerEntry, SlotStatus


def _committed(ledger: Ledger, step: int) -> LedgerEntry:
    """The one entry of a step that counts."""
    (live,) = [entry for entry in ledger.since(step) if entry.step == step and not entry.discarded]
    return live


def test_a_rewound_step_counts_once() -> None:
    ledger = Ledger()
    ledger.plan(0, 1, ("a", "b"))
    ledger.plan(1, 1, ("c", "c"))
    ledger.mark(0, 1, {0: SlotStatus.TRAINED, 1: SlotStatus.LEFT_OUT}, 0)
    assert ledger.rewind(1, attempt=2) == 1
    ledger.plan(1, 2, ("c", "c"))
    ledger.mark(1, 2, {1: SlotStatus.GRADED}, 1)
    first, second = _committed(ledger, 0), _committed(ledger, 1)
    assert first.statuses == [SlotStatus.TRAINED, SlotStatus.LEFT_OUT]
    assert (second.attempt, second.policy_version) == (2, 1)
    assert second.statuses == [SlotStatus.PLANNED, SlotStatus.GRADED]
    assert [(e.step, e.attempt, e.discarded) for e in ledger] == [(0, 1, False), (1, 1, True), (1, 2, False)]


def test_what_changed_since_a_step_is_from_there_on_in_all_attempts() -> None:
    ledger = Ledger([LedgerEntry(step, 1, ("a",), [SlotStatus.TRAINED]) for step in range(4)])
    ledger.rewind(2, attempt=2)
    ledger.plan(2, 2, ("b",))
    found = [(entry.step, entry.attempt, entry.discarded) for entry in ledger.since(2)]
    assert found == [(2, 1, True), (2, 2, False), (3, 1, True)]
    assert len(ledger.since(0)) == 5 and ledger.since(4) == []


def test_planning_again_keeps_what_happened() -> None:
    ledger = Ledger()
    ledger.plan(0, 1, ("a",))
    ledger.mark(0, 1, {0: SlotStatus.GRADED}, 0)
    ledger.plan(0, 1, ("a",))
    entry = _committed(ledger, 0)
    assert entry.statuses == [SlotStatus.GRADED]


def test_entries_survive_json() -> None:
    entry = LedgerEntry(4, 2, ("a", "b"), [SlotStatus.TRAINED, SlotStatus.PLANNED], 4, True)
    assert LedgerEntry.from_dict(entry.as_dict()) == entry


def test_marking_what_was_never_planned_is_an_error() -> None:
    with pytest.raises(KeyError):
        Ledger().mark(0, 1, {0: SlotStatus.GRADED}, 0)


def test_a_step_is_extended_once_by_what_was_drawn_beside_its_window() -> None:
    ledger = Ledger()
    ledger.plan(0, 1, ("a", "b"))
    for _ in range(2):
        ledger.extend(0, 1, ("a", "b", "c", "a"))
        ledger.mark(0, 1, {0: SlotStatus.SKIPPED, 2: SlotStatus.GRADED, 3: SlotStatus.REPLAYED}, 0)
    entry = _committed(ledger, 0)
    assert entry.problem_ids == ("a", "b", "c", "a")
    assert entry.statuses == [SlotStatus.SKIPPED, SlotStatus.PLANNED, SlotStatus.GRADED, SlotStatus.REPLAYED]
    with pytest.raises(KeyError):
        ledger.extend(1, 1, ("a",))
