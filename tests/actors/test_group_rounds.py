"""The rounds of a step, against answers that are a function of (row, sample): no engine, no Ray."""

from collections.abc import Sequence

import pytest

from gainrl_ray.actors.generation import Ask, Round
from gainrl_ray.actors.group_rounds import Generated, StepPlan, generate_groups
from gainrl_ray.config_groups import (
    AllGroupsConfig,
    DynamicSamplingConfig,
    GresoConfig,
    GroupPolicyConfig,
    SpeedConfig,
)
from gainrl_ray.curricula.group_policy import GroupPolicy, build_group_policy
from gainrl_ray.types import Completion, Grade, GradedGroup, Outcome, Problem, Prompt, RolloutGroup, Span, Window

GROUP_SIZE = 4
PROMPT = Prompt(problem_id="p", token_ids=(1, 2), prefix=Span(0, 1), question=Span(1, 2), suffix=Span(2, 2))


def _window(rows: Sequence[int]) -> Window:
    return Window(step=3, rows=tuple(rows), problem_ids=tuple(f"p{row}" for row in rows))


class Answers:
    """Rows below 10 have spread in their first two samples; remembers what each round asked and each refill drew."""

    def __init__(self, rows_left: Sequence[int] = range(20, 40)) -> None:
        self.rounds: list[list[tuple[int, int, range]]] = []
        self.refills: list[tuple[int, tuple[int, ...]]] = []
        self._rows_left = list(rows_left)

    def ask(self, asks: Sequence[Ask]) -> Round:
        self.rounds.append([(ask.slot, ask.row, ask.samples) for ask in asks])
        return Round(groups=tuple(map(self._group, asks)), generate_s=2.0, grade_s=0.5)

    def refill(self, count: int, drawn: Sequence[int]) -> Window:
        self.refills.append((count, tuple(drawn)))
        rows, self._rows_left = self._rows_left[:count], self._rows_left[count:]
        return _window(rows)

    def _group(self, ask: Ask) -> GradedGroup:
        group = RolloutGroup(
            slot=ask.slot,
            row=ask.row,
            problem=Problem(id=f"p{ask.row}", question="", answer="", source=""),
            prompt=PROMPT,
            completions=tuple(
                Completion(token_ids=(ask.row, sample), logprobs=(-0.5, -0.5), finish_reason="stop", text=str(sample))
                for sample in ask.samples
            ),
            policy_version=2,
        )
        right, wrong = Grade(outcome=Outcome.CORRECT, reward=1.0), Grade(outcome=Outcome.WRONG, reward=0.0)
        return GradedGroup(
            group=group, grades=tuple(right if ask.row < 10 and sample == 1 else wrong for sample in ask.samples)
        )


def _generate(
    answers: Answers, rows: Sequence[int], policy: GroupPolicyConfig | GroupPolicy, replayed: Sequence[GradedGroup] = ()
) -> Generated:
    built = policy if isinstance(policy, GroupPolicy) else build_group_policy(policy, 0)
    plan = StepPlan(window=_window(rows), policy=built, replayed=tuple(replayed))
    generated = generate_groups(plan, GROUP_SIZE, ask=answers.ask, refill=answers.refill)
    assert generated is not None
    return generated


WHOLE, SCREEN, REST = range(4), range(2), range(2, 4)


def test_without_a_policy_the_window_is_asked_for_once_and_nothing_else_happens() -> None:
    answers = Answers()
    generated = _generate(answers, [1, 50, 2], AllGroupsConfig())
    assert answers.rounds == [[(0, 1, WHOLE), (1, 50, WHOLE), (2, 2, WHOLE)]] and not answers.refills
    assert (generated.drawn, generated.refills, generated.policy_version) == (_window([1, 50, 2]), 0, 2)
    assert (generated.generate_s, generated.grade_s) == (2.0, 0.5)


def test_dynamic_sampling_refills_what_is_missing_until_all_have_spread() -> None:
    answers = Answers([21, 3, 22, 4])
    generated = _generate(answers, [1, 50, 2, 51], DynamicSamplingConfig())
    # 50 and 51 are rejected: two more; 21 is rejected: one more; 22 too: the last one has spread.
    assert answers.refills == [(2, (1, 50, 2, 51)), (1, (1, 50, 2, 51, 21, 3)), (1, (1, 50, 2, 51, 21, 3, 22))]
    assert [[row for _, row, _ in asked] for asked in answers.rounds] == [[1, 50, 2, 51], [21, 3], [22], [4]]
    assert generated.drawn.rows == (1, 50, 2, 51, 21, 3, 22, 4) and generated.refills == 3
    assert [graded.group.slot for graded in generated.groups] == list(range(8)), "rejected groups are there too"
    assert generated.generate_s == 8.0


@pytest.mark.parametrize(
    ("budget", "drawn"), [({"max_refills": 2}, 4 + 2 * 3), ({"max_drawn": 2.5}, 10), ({"max_drawn": 1.0}, 4)]
)
def test_a_used_up_budget_ends_a_step_with_the_groups_it_has(budget: dict[str, float], drawn: int) -> None:
    answers = Answers()
    generated = _generate(answers, [50, 51, 1, 52], DynamicSamplingConfig.model_validate(budget))
    assert len(generated.drawn.rows) == len(generated.groups) == drawn
    assert [graded.group.row for graded in generated.groups if len(set(graded.rewards)) > 1] == [1]


def test_an_exhausted_dataset_ends_a_step() -> None:
    answers = Answers([20])
    generated = _generate(answers, [50, 1, 51], DynamicSamplingConfig())
    assert generated.drawn.rows == (50, 1, 51, 20) and len(answers.rounds) == 2


def test_speed_asks_for_the_rest_beside_the_next_screening() -> None:
    answers = Answers([3])
    generated = _generate(answers, [1, 50, 2], SpeedConfig(screen=2))
    assert answers.rounds == [
        [(0, 1, SCREEN), (1, 50, SCREEN), (2, 2, SCREEN)],
        [(0, 1, REST), (2, 2, REST), (3, 3, SCREEN)],
        [(3, 3, REST)],
    ]
    assert [len(graded.grades) for graded in generated.groups] == [4, 2, 4, 4]
    assert [completion.text for completion in generated.groups[0].group.completions] == ["0", "1", "2", "3"]
    assert generated.groups[0].rewards == (0.0, 1.0, 0.0, 0.0) and generated.refills == 1


def _never_visits(rows: Sequence[int]) -> GroupPolicy:
    """GRESO after 300 steps in which `rows` had no spread: they are visited once in a hundred draws."""
    policy = build_group_policy(GresoConfig(), 0)
    for _ in range(300):
        policy.observe([Answers()._group(Ask(slot=0, row=row, samples=WHOLE)) for row in rows])
    return policy


def test_greso_draws_others_in_place_of_skipped_problems_at_once() -> None:
    answers = Answers([3, 61, 4])
    generated = _generate(answers, [1, 60, 61, 2], _never_visits([60, 61]))
    assert [row for _, row, _ in answers.rounds[0]] == [1, 2, 3, 4] and len(answers.rounds) == 1
    assert generated.drawn.rows == (1, 60, 61, 2, 3, 61, 4), "skipped problems keep their slots"
    assert [graded.group.slot for graded in generated.groups] == [0, 3, 4, 6] and generated.refills == 0


def test_a_window_of_problems_that_are_all_skipped_is_generated() -> None:
    answers = Answers([])
    generated = _generate(answers, [60, 61], _never_visits([60, 61]))
    assert [graded.group.row for graded in generated.groups] == [60, 61]


def test_replayed_groups_get_the_slots_behind_all_that_were_drawn() -> None:
    answers = Answers([3])
    old = [Answers()._group(Ask(slot=0, row=row, samples=WHOLE)) for row in (7, 8)]
    generated = _generate(answers, [1, 50], DynamicSamplingConfig(), old)
    assert [(graded.group.slot, graded.group.row) for graded in generated.replayed] == [(3, 7), (4, 8)]


def test_a_cancelled_round_ends_the_step() -> None:
    plan = StepPlan(window=_window([1]), policy=build_group_policy(AllGroupsConfig(), 0), replayed=())
    assert generate_groups(plan, GROUP_SIZE, ask=lambda asks: None, refill=Answers().refill) is None
