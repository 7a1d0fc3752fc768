"""Small graded groups for tests of what is done with them."""

from gainrl_ray.types import Completion, Grade, GradedGroup, Outcome, Problem, Prompt, RolloutGroup, Span

PROMPT = Prompt(problem_id="p", token_ids=(1, 2), prefix=Span(0, 1), question=Span(1, 2), suffix=Span(2, 2))
COMPLETION = Completion(token_ids=(3,), logprobs=(-0.5,), finish_reason="stop", text="")


def group(row: int, rewards: str = "01", version: int = 0) -> GradedGroup:
    """A group of problem p<row> whose rewards are the digits of `rewards`."""
    outcomes = {"0": Outcome.WRONG, "1": Outcome.CORRECT}
    generated = RolloutGroup(
        slot=0,
        row=row,
        problem=Problem(id=f"p{row}", question="", answer="", source=""),
        prompt=PROMPT,
        completions=(COMPLETION,) * len(rewards),
        policy_version=version,
    )
    return GradedGroup(group=generated, grades=tuple(Grade(outcome=outcomes[r], reward=float(r)) for r in rewards))
