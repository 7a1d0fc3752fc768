"""Groups to a table and back."""

from gainrl_ray.data.rollout_table import groups_to_table, table_to_groups
from gainrl_ray.types import Completion, Grade, GradedGroup, Outcome, Problem, Prompt, RolloutGroup, Span

PROBLEM = Problem(id="p", question="1+1?", answer="2", source="test")
PROMPT = Prompt(problem_id="p", token_ids=(1, 2, 3), prefix=Span(0, 1), question=Span(1, 2), suffix=Span(2, 3))


def graded(slot: int) -> GradedGroup:
    completions = tuple(
        Completion(token_ids=(7, slot, sample), logprobs=(-0.1, -0.2, -1e-9), finish_reason="length", text="\\boxed{2}")
        for sample in range(2)
    )
    group = RolloutGroup(slot=slot, row=5, problem=PROBLEM, prompt=PROMPT, completions=completions, policy_version=4)
    grades = (Grade(outcome=Outcome.CORRECT, reward=2.0), Grade(outcome=Outcome.TIMEOUT, reward=-1.0))
    return GradedGroup(group=group, grades=grades)


def test_what_is_read_back_is_what_was_written_bit_for_bit() -> None:
    groups = (graded(0), graded(1))
    table = groups_to_table(9, groups)
    assert table.num_rows == 4 and table["outcome"].to_pylist() == ["correct", "timeout"] * 2
    assert table_to_groups(table, lambda row: PROBLEM, lambda row: PROMPT) == {9: groups}
