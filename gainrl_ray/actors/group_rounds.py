"""The groups of a step, round by round: screened, continued and refilled as the group policy has it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gainrl_ray.actors.generation import Ask, Round
from gainrl_ray.curricula.group_policy import GroupPolicy, Verdict
from gainrl_ray.types import GradedGroup, Window

Refill = Callable[[int, Sequence[int]], Window]
"""(count, rows drawn so far) -> that many more problems for the step, fewer where fewer are left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
    """What a step starts from, as it was when its window was drawn."""

    window: Window  # as many problems as the step wants groups of
    policy: GroupPolicy
    replayed: tuple[GradedGroup, ...]  # of earlier steps, with the slots that they had there


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """A step's graded groups."""

    drawn: Window  # every problem drawn: `rows[slot]` is the slot's, the window's first, skipped ones included
    groups: tuple[GradedGroup, ...]  # all that were generated, in slot order
    replayed: tuple[GradedGroup, ...]  # trained beside them; their slots follow those of `drawn`
    refills: int  # rounds that held newly drawn problems, after the first
    generate_s: float
    grade_s: float

    @property
    def policy_version(self) -> int:
        """The version that generated `groups`."""
        return self.groups[0].group.policy_version


def generate_groups(
    plan: StepPlan, group_size: int, *, ask: Callable[[Sequence[Ask]], Round | None], refill: Refill
) -> Generated | None:
    """The groups of a planned step; None when `ask` gives None.

    A round asks for what continued groups lack and for the first samples of newly drawn problems, all at once. A
    refill draws as many problems as groups are missing, so that no accepted group is left over.
    """
    drawing, policy = _Drawing(plan, refill), plan.policy
    groups: dict[int, GradedGroup] = {}
    fresh, continued = drawing.first(), list[int]()
    accepted = refills = 0
    generate_s = grade_s = 0.0
    while fresh or continued:
        asks = [drawing.ask(slot, len(groups[slot].grades), group_size) for slot in continued]
        asks += [drawing.ask(slot, 0, policy.screen(group_size)) for slot in fresh]
        done = ask(asks)
        if done is None:
            return None
        generate_s, grade_s, continued = generate_s + done.generate_s, grade_s + done.grade_s, []
        for part in done.groups:
            slot = part.group.slot
            groups[slot] = _joined(groups[slot], part) if slot in groups else part
            verdict = policy.admit(groups[slot], group_size)
            accepted += verdict is Verdict.ACCEPT
            if verdict is Verdict.CONTINUE:
                continued.append(slot)
        fresh = drawing.more(len(plan.window.rows) - accepted - len(continued), refills)
        refills += bool(fresh)
    return Generated(
        drawn=drawing.window,
        groups=tuple(groups[slot] for slot in sorted(groups)),
        replayed=renumbered(plan.replayed, len(drawing.window.rows)),
        refills=refills,
        generate_s=generate_s,
        grade_s=grade_s,
    )


def renumbered(groups: Sequence[GradedGroup], start: int) -> tuple[GradedGroup, ...]:
    """The groups in slots from `start` on."""
    return tuple(
        replace(graded, group=replace(graded.group, slot=start + place)) for place, graded in enumerate(groups)
    )


class _Drawing:
    """The problems drawn for a step so far; a slot is a problem's place among them."""

    def __init__(self, plan: StepPlan, refill: Refill) -> None:
        self._policy, self._refill = plan.policy, refill
        self._wanted = len(plan.window.rows)
        self.window = plan.window

    def first(self) -> list[int]:
        """The window's slots, others in place of those that are skipped; the whole window where all would be."""
        kept = self._kept(0)
        return kept + self.more(self._wanted - len(kept), 0) or list(range(self._wanted))

    def more(self, shortfall: int, refills: int) -> list[int]:
        """Slots of further problems, as many as are missing and the policy's budget and the dataset allow."""
        kept: list[int] = []
        while count := self._policy.refill(
            shortfall - len(kept), refills=refills, drawn=len(self.window.rows), window=self._wanted
        ):
            more, start = self._refill(count, self.window.rows), len(self.window.rows)
            if not more.rows:
                break
            self.window = replace(
                self.window,
                rows=self.window.rows + more.rows,
                problem_ids=self.window.problem_ids + more.problem_ids,
            )
            kept += self._kept(start)
        return kept

    def ask(self, slot: int, start: int, stop: int) -> Ask:
        return Ask(slot=slot, row=self.window.rows[slot], samples=range(start, stop))

    def _kept(self, start: int) -> list[int]:
        """The slots from `start` on that the policy does not skip."""
        rows = np.asarray(self.window.rows[start:], dtype=np.int64)
        return (start + np.flatnonzero(self._policy.keep(self.window.step, rows))).tolist()


def _joined(screened: GradedGroup, rest: GradedGroup) -> GradedGroup:
    group = replace(screened.group, completions=screened.group.completions + rest.group.completions)
    return GradedGroup(group=group, grades=screened.grades + rest.grades)
