"""What a person reads."""

from gainrl_ray.console import step_line, table


def test_a_step_in_one_line() -> None:
    record = {
        "step": 3,
        "accuracy": 0.25,
        "reward": 0.5,
        "curriculum/mu": 123.4,
        "kl": 0.00123,
        "tokens_per_second": 4321.0,
        "seconds/generate": 1.23,
        "seconds/grade": 0.01,
        "seconds/train": 2.0,
        "seconds/total": 3.5,
    }
    assert step_line(record, 20) == (
        "step  3/20 | accuracy 0.250 | reward 0.500 | mu 123 | kl 0.0012 | 4,321 tok/s | 3.5 s (generate 1.2 train 2.0)"
    )


def test_held_out_figures_follow_on_their_own_line() -> None:
    record = {"step": 5, "accuracy": 1.0, "reward": 1.0, "kl": None, "tokens_per_second": 1.0, "seconds/total": 1.0}
    lines = step_line(record | {"eval/accuracy": 0.5, "eval/avg@4": 0.25}, 5).splitlines()
    assert "| kl - |" in lines[0]
    assert lines[1] == "  held-out after step 5: greedy accuracy 0.500, avg@4 0.250"


def test_a_table_is_aligned() -> None:
    assert table([("a", "1"), ("long", "2")], "title").splitlines() == ["title", "-----", "a     1", "long  2"]


def test_a_step_says_how_many_groups_it_has_and_lacks() -> None:
    record = {"step": 5, "accuracy": 1.0, "reward": 1.0, "kl": None, "tokens_per_second": 1.0, "seconds/total": 1.0}
    groups = {"generated_groups": 14, "accepted_groups": 6, "missing_groups": 0}
    assert "| reward 1.000 | groups 6 of 14 | kl - |" in step_line(record | groups, 5)
    lacking = step_line(record | groups | {"missing_groups": 2}, 5)
    assert "| groups 6 of 14, 2 missing when the budget was used up | kl" in lacking


def test_a_step_says_how_many_completions_could_not_be_graded() -> None:
    record = {"step": 5, "accuracy": 1.0, "reward": 1.0, "kl": None, "tokens_per_second": 1.0, "seconds/total": 1.0}
    few, many = {"outcome/crash": 0.05, "outcome/timeout": 0.0}, {"outcome/crash": 0.25, "outcome/timeout": 0.125}
    assert step_line(record | few, 5) == step_line(record, 5)
    assert "| reward 1.000 | crash 25% of grades | timeout 12% of grades | kl" in step_line(record | many, 5)
