"""What strategies share that learn about single problems."""

from gainrl_ray.curricula.problem_strategy import shown
from gainrl_ray.types import SlotOutcome, StepOutcome


def test_a_problem_shown_twice_stands_once_with_all_its_completions() -> None:
    slots = [(9, 8, 0.25), (4, 3, 2 / 3), (9, 4, 1.0), (5, 1, 0.0)]
    seen = shown(
        StepOutcome(
            step=0,
            slots=tuple(
                SlotOutcome(slot=slot, row=row, completions=completions, accuracy=accuracy, angle=0.0)
                for slot, (row, completions, accuracy) in enumerate(slots)
            ),
        )
    )
    assert seen.rows.tolist() == [4, 5, 9]
    assert seen.completions.tolist() == [3, 1, 12]
    assert seen.successes.tolist() == [2, 0, 6]
    assert seen.accuracy.tolist() == [2 / 3, 0.0, 0.5]
