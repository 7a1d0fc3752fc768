"""The built-in problems: determinism, disjoint splits, solutions that an independent reader agrees with."""

import operator
import re
from fractions import Fraction

import pytest

from gainrl_ray.data.arithmetic import ArithmeticProblem, generate, is_heldout
from gainrl_ray.errors import DataError
from gainrl_ray.types import Problem

SIGNS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": Fraction}


def recomputed(problem: ArithmeticProblem) -> int:
    """The answer by exact rational arithmetic along the question's numbers, with the signs of the solution."""
    first, *lines, last = problem.solution.split("\n")
    numbers = [int(number) for number in re.findall(r"\d+", problem.question)]
    assert first == "Steps:"
    assert len(lines) == problem.level == len(numbers) - 1
    total = Fraction(numbers[0])
    for line, number in zip(lines, numbers[1:], strict=True):
        left, sign, right, result = re.fullmatch(r"(\d+)([-+*/])(\d+)=(\d+)", line).groups()  # type: ignore[union-attr]
        assert (int(left), int(right)) == (total, number), problem
        total = SIGNS[sign](total, number) if sign != "/" else total / number
        assert total == int(result), problem
    assert last == f"The answer is \\boxed{{{total}}}."
    return int(total)


def test_every_solution_is_right_and_small() -> None:
    for problem in generate("train", 1200, max_level=12) + generate("heldout", 600):
        assert recomputed(problem) == int(problem.answer)
        assert all(2 <= int(line.split("=")[1]) <= 99 for line in problem.solution.split("\n")[1:-1])


def test_words_of_a_question_agree_with_its_signs() -> None:
    """A reader that knows only the verbs finds the same answers."""
    verbs = {
        "+": r"\b(buys|finds|wins)\b|gives \w+ \d",
        "-": r"\b(loses|sells|takes)\b|gives \d",
        "*": r"\btimes as many\b",
        "/": r"\bequal(ly)?\b",
    }
    for problem in generate("heldout", 300):
        sentences = re.findall(r"[^.?]+[.?]", problem.question)[1:-1]
        signs = [next(sign for sign, pattern in verbs.items() if re.search(pattern, text)) for text in sentences]
        assert signs == re.findall(r"[-+*/]", problem.solution.rpartition("\n")[0])


def test_the_same_arguments_give_the_same_problems() -> None:
    assert generate("train", 50) == generate("train", 50)
    assert generate("train", 50) != generate("train", 50, seed=1)
    assert generate("train", 200)[:50] == generate("train", 50)


def test_a_problem_is_the_same_for_ever() -> None:
    """Problems are part of scored indexes and committed weights: a changed generator must be noticed."""
    problem = generate("heldout", 1, min_level=2, max_level=2)[0]
    assert problem.id == "arithmetic-heldout-0-2-0"
    assert problem.question == (
        "Ines starts with 5 keys. Next, she wins 6 keys in a game. Next, she wins 2 keys in a game. "
        "What is the number of keys in the end?"
    )
    assert (problem.solution, problem.answer) == ("Steps:\n5+6=11\n11+2=13\nThe answer is \\boxed{13}.", "13")


def test_splits_are_disjoint_and_without_duplicates() -> None:
    train = [problem.question for seed in (0, 1) for problem in generate("train", 3000, seed=seed)]
    heldout = [problem.question for seed in (0, 1) for problem in generate("heldout", 1000, seed=seed)]
    assert not set(train) & set(heldout)
    assert len({problem.question for problem in generate("train", 6000, max_level=1)}) == 6000
    assert len({problem.id for problem in generate("train", 3000)}) == 3000
    assert all(is_heldout(question) for question in heldout) and not any(map(is_heldout, train))


def test_levels_are_evenly_mixed() -> None:
    levels = [problem.level for problem in generate("train", 25, min_level=2, max_level=6)]
    assert levels == [2, 3, 4, 5, 6] * 5


def test_a_problem_becomes_a_row_like_any_other() -> None:
    problem = generate("train", 3)[2]
    row = Problem(id=problem.id, question=problem.question, answer=problem.answer, source="arithmetic/level3")
    assert problem.problem == row


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "test", "count": 1}, "unknown split 'test'"),
        ({"split": "train", "count": -1}, "-1 arithmetic problems"),
        ({"split": "train", "count": 1, "min_level": 0}, "levels 0..6"),
        ({"split": "train", "count": 1, "min_level": 4, "max_level": 3}, "levels 4..3"),
        ({"split": "train", "count": 1, "max_level": 13}, "levels 1..13"),
    ],
)
def test_what_cannot_be_generated_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        generate(**arguments)  # type: ignore[arg-type]


def test_an_exhausted_set_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gainrl_ray.data.arithmetic._draw", lambda rng, level: ("a question", ["1+1=2"], 2))
    with pytest.raises(DataError, match="no new arithmetic question of level 1 after 1000 draws, 1 problems made"):
        generate("heldout" if is_heldout("a question") else "train", 2, max_level=1)
