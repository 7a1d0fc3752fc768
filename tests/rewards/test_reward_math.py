r"""Grading of boxed answers: pairs judged by hand, extraction, and the cost of the plain path."""

import time

import pytest

from gainrl_ray.rewards.math import grade_math, grade_math_quickly, last_boxed
from gainrl_ray.types import Outcome

SAME = [
    ("5", "5"),
    ("-5", "-5"),
    ("05", "5"),
    ("+5", "5"),
    ("5.", "5"),
    ("5.0", "5"),
    (".5", "1/2"),
    ("1e5", "100000"),
    ("1,234", "1234"),
    ("1{,}234", "1234"),
    (r"1\,234", "1,234"),
    ("1 234 567", "1234567"),
    ("1,234.50", "1234.5"),
    (r"\$72", "72"),
    ("$72$", "72"),
    (r"\(72\)", "72"),
    ("\N{MINUS SIGN}3", "-3"),
    ("3/4", "0.75"),
    (r"\frac{3}{4}", "0.75"),
    (r"\dfrac{3}{4}", r"\frac{3}{4}"),
    (r"\tfrac34", "3/4"),
    (r"-\frac{1}{2}", r"\frac{-1}{2}"),
    (r"\frac{6}{4}", r"\frac{3}{2}"),
    (r"1\frac{1}{2}", "1.5"),
    (r"50\%", r"50\%"),
    (r"50\%", "0.5"),
    (r"72 \text{ clips}", "72"),
    ("72 clips", "72"),
    ("5", r"5\text{ cm}"),
    (r"25\text{ miles per hour}", "25"),
    ("12 cm^2", "12"),
    (r"90^\circ", "90"),
    (r"\text{Evelyn}", "Evelyn"),
    (r"\text{even}", "Even"),
    (r"\text{(C)}", "C"),
    (r"\left(3, \frac{\pi}{2}\right)", r"\left( 3, \frac{\pi}{2} \right)"),
    (r"\sqrt{8}", r"2\sqrt{2}"),
    ("x^2+2x+1", "(x+1)^2"),
    ("x=5", "5"),
    ("2,1", "1,2"),
    (r"\{1,2\}", "1,2"),
    (r"(-\infty,3)", "x<3"),
    (r"1.5\times10^3", "1500"),
    (r"2^{10}", "1024"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
    ("42", r"So we get 6 \cdot 7 = \boxed{42}."),
    (r"\frac{1}{2}", r"First \boxed{9}, then \boxed{\frac{1}{2}}"),
]

DIFFERENT = [
    ("5", "-5"),
    ("11", "1"),
    ("5.01", "5"),
    ("0.33", "1/3"),
    ("0.333333", "1/3"),
    ("0.0000001", "0.0000002"),
    ("12,34", "1234"),
    ("1 1/2", "11/2"),
    ("5 thousand", "5"),
    ("5 and a half", "5"),
    (r"\frac{1}{0}", "5"),
    ("(1,2)", "[1,2]"),
    ("(2,1)", "(1,2)"),
    ("x+1", "x-1"),
    ("1.41", r"\sqrt{2}"),
    (r"\text{Alice}", r"\text{Bob}"),
    (r"\text{silent}", r"\text{listen}"),
    ("nylevE", r"\text{Evelyn}"),
    ("A", "B"),
    ("three", "3"),
    ("1,2,3", "1,2"),
    ("9^{99}", "9^{98}"),
]

UNPARSABLE = ["", "the answer is 5", r"\boxed{}", r"\boxed{ }", r"\boxed{5", r"\boxed{1} and \boxed{\frac{1", "\\boxed"]


@pytest.mark.parametrize(("answer", "reference"), SAME)
def test_equal_answers_are_correct(answer: str, reference: str) -> None:
    assert grade_math(f"Therefore the answer is $\\boxed{{{answer}}}$.", reference) is Outcome.CORRECT


@pytest.mark.parametrize(("answer", "reference"), DIFFERENT)
def test_different_answers_are_wrong(answer: str, reference: str) -> None:
    assert grade_math(f"Therefore the answer is $\\boxed{{{answer}}}$.", reference) is Outcome.WRONG


@pytest.mark.parametrize("completion", UNPARSABLE)
def test_no_finished_box_is_unparsable(completion: str) -> None:
    assert grade_math(completion, "5") is Outcome.UNPARSABLE


def test_latex_that_nobody_can_read_is_unparsable() -> None:
    assert grade_math(r"\boxed{\frac{}{}{}\sqrt}", "5") is Outcome.UNPARSABLE


def test_nothing_against_nothing_is_not_correct() -> None:
    assert grade_math("no box", "") is Outcome.UNPARSABLE
    assert grade_math(r"\boxed{}", "") is Outcome.UNPARSABLE
    assert grade_math_quickly(r"\boxed{5}", "") is None
    with pytest.raises(ValueError, match="reference answer is empty"):
        grade_math(r"\boxed{5}", "  ")


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"\boxed{5}", "5"),
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{\frac{1}{\sqrt{2}}} done", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\text{a } b}", r"\text{a } b"),
        (r"\boxed {7}", "7"),
        (r"so $\boxed 7$", "7"),
        (r"\boxed{\boxed{3}}", "3"),
        (r"\boxed{3", None),
        ("3", None),
        (r"\boxedness", None),
    ],
)
def test_last_box(text: str, content: str | None) -> None:
    assert last_boxed(text) == content


def test_the_quick_path_agrees_with_the_whole_grader() -> None:
    for answer, reference in [*SAME, *DIFFERENT]:
        quick = grade_math_quickly(f"\\boxed{{{answer}}}", reference)
        assert quick in (None, grade_math(f"\\boxed{{{answer}}}", reference)), (answer, reference)


def test_hostile_text_takes_linear_time_on_the_quick_path() -> None:
    start = time.perf_counter()
    for content in ("{" * 50_000, "\\boxed{" * 20_000, "1," * 90, "1 " * 99, "9" * 190 + "/", "a " * 99, "((((" * 49):
        grade_math_quickly(f"\\boxed{{{content}}}", "5")
        grade_math_quickly("\\boxed{5}", content)
    assert time.perf_counter() - start < 2.0


def test_256_plain_answers_take_milliseconds() -> None:
    completions = [f"{'step by step ' * 30} The answer is \\boxed{{{number}}}." for number in range(256)]
    start = time.perf_counter()
    outcomes = [grade_math_quickly(completion, "72") for completion in completions]
    assert time.perf_counter() - start < 0.2
    assert outcomes.count(Outcome.CORRECT) == 1
    assert outcomes.count(Outcome.WRONG) == 255
