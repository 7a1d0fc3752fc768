"""The built-in dataset: multi-step word problems whose difficulty is the number of steps.

A problem tells how one person's count of things changes, one sentence a step; its solution is one equation a line:

    Mia has 7 apples. She buys 5 more apples. Then she loses 3 of them. How many apples does Mia have now?
    Steps:
    7+5=12
    12-3=9
    The answer is \\boxed{9}.

Problem number k of a level depends on (split, seed, level, k) alone, so a larger set extends a smaller one. A question
belongs to the held-out split when a hash of its text says so: the splits are disjoint whatever their sizes and seeds.
"""

import hashlib
import random
from dataclasses import dataclass
from typing import Literal

from gainrl_ray.errors import DataError
from gainrl_ray.types import Problem

Split = Literal["train", "heldout"]

SOLUTION_START = "Steps:"  # a bare answer starts otherwise: the first token tells how a problem is solved
MAX_LEVEL = 12
SMALLEST_COUNT = 2  # no count is one, so that every noun is a plural
LARGEST_COUNT = 99
HELDOUT_SHARE = 8  # one question in so many is held out
ATTEMPTS = 1000  # draws for one problem before the set counts as exhausted

_PEOPLE = (
    ("Mia", "she", "her"),
    ("Leo", "he", "his"),
    ("Anna", "she", "her"),
    ("Omar", "he", "his"),
    ("Ines", "she", "her"),
    ("Kofi", "he", "his"),
    ("Yuki", "she", "her"),
    ("Ravi", "he", "his"),
    ("Lena", "she", "her"),
    ("Tom", "he", "his"),
    ("Zoe", "she", "her"),
    ("Max", "he", "his"),
    ("Nora", "she", "her"),
    ("Ivan", "he", "his"),
    ("Dana", "she", "her"),
    ("Ben", "he", "his"),
)
_OBJECTS = (
    "apples",
    "books",
    "coins",
    "shells",
    "cards",
    "stamps",
    "pens",
    "eggs",
    "plums",
    "stones",
    "seeds",
    "cups",
    "beads",
    "keys",
    "nuts",
    "balls",
    "cakes",
    "toys",
    "pears",
    "maps",
)
_OPENINGS = (
    "{name} has {n} {things}.",
    "{name} starts with {n} {things}.",
    "There are {n} {things} in {name}'s box.",
    "One day {name} counts {n} {things}.",
)
_CHANGES = {
    "+": (
        "{She} buys {n} more {things}.",
        "{friend} gives {name} {n} {things}.",
        "Then {she} finds {n} {things}.",
        "Next, {she} wins {n} {things} in a game.",
    ),
    "-": (
        "{She} gives {n} {things} to {friend}.",
        "Then {she} loses {n} of them.",
        "{She} sells {n} {things}.",
        "Next, {friend} takes {n} of the {things}.",
    ),
    "*": (
        "Then {she} gets {n} times as many {things}.",
        "After that, {her} {things} become {n} times as many.",
    ),
    "/": (
        "{She} sorts the {things} into {n} equal bags and keeps one bag.",
        "Then {she} shares {her} {things} equally among {n} people and keeps one share.",
    ),
}
_WEIGHTS = {"+": 3, "-": 3, "*": 1, "/": 1}  # how often each kind of step is drawn where it is possible
_ENDINGS = (
    "How many {things} does {name} have now?",
    "How many {things} are left?",
    "What is the number of {things} in the end?",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArithmeticProblem:
    """A word problem with its worked solution."""

    id: str
    question: str
    answer: str  # an integer in [SMALLEST_COUNT, LARGEST_COUNT]
    solution: str  # "Steps:", one equation a line, "The answer is \boxed{answer}."
    level: int  # number of steps

    @property
    def source(self) -> str:
        """Where it came from, with its level."""
        return f"arithmetic/level{self.level}"

    @property
    def problem(self) -> Problem:
        """The same question and answer as any dataset's problem."""
        return Problem(id=self.id, question=self.question, answer=self.answer, source=self.source)


def generate(
    split: Split, count: int, *, min_level: int = 1, max_level: int = 6, seed: int = 0
) -> list[ArithmeticProblem]:
    """`count` different problems of a split, levels min_level..max_level in turn; the same for the same arguments.

    Raises DataError for an unknown split, levels outside 1..12, or more problems than there are different questions.
    """
    if split not in ("train", "heldout"):
        raise DataError(f"unknown split {split!r} of arithmetic: use 'train' or 'heldout'")
    if count < 0:
        raise DataError(f"{count} arithmetic problems asked for: use 0 or more")
    if not 1 <= min_level <= max_level <= MAX_LEVEL:
        raise DataError(
            f"levels {min_level}..{max_level} of arithmetic: use 1 <= min_level <= max_level <= {MAX_LEVEL}"
        )
    levels = max_level - min_level + 1
    seen: set[str] = set()
    return [_draw_new(split, seed, min_level + place % levels, place // levels, seen) for place in range(count)]


def is_heldout(question: str) -> bool:
    """Whether a question belongs to the held-out split: a fixed eighth of all questions, by SHA-256 of the text."""
    return hashlib.sha256(question.encode()).digest()[0] % HELDOUT_SHARE == 0


def bare_answer(answer: str) -> str:
    """The last line of every solution."""
    return f"The answer is \\boxed{{{answer}}}."


def _draw_new(split: Split, seed: int, level: int, number: int, seen: set[str]) -> ArithmeticProblem:
    """The first problem drawn for (split, seed, level, number) that is of the split and not in `seen`; adds it."""
    rng = random.Random(f"arithmetic/{split}/{seed}/{level}/{number}")  # seeded by SHA-512 of the text
    for _ in range(ATTEMPTS):
        question, equations, total = _draw(rng, level)
        if is_heldout(question) == (split == "heldout") and question not in seen:
            seen.add(question)
            return ArithmeticProblem(
                id=f"arithmetic-{split}-{seed}-{level}-{number}",
                question=question,
                answer=str(total),
                solution="\n".join([SOLUTION_START, *equations, bare_answer(str(total))]),
                level=level,
            )
    raise DataError(
        f"no new arithmetic question of level {level} after {ATTEMPTS} draws, {len(seen)} problems made: "
        "ask for fewer problems or more levels"
    )


def _draw(rng: random.Random, level: int) -> tuple[str, list[str], int]:
    """A question, its equations and its answer."""
    person, other = rng.sample(_PEOPLE, 2)
    words = {"name": person[0], "she": person[1], "She": person[1].capitalize(), "her": person[2], "friend": other[0]}
    words["things"] = rng.choice(_OBJECTS)
    total = rng.randint(SMALLEST_COUNT, 20)
    sentences = [rng.choice(_OPENINGS).format(n=total, **words)]
    equations = []
    used = {total}
    for _ in range(level):
        sign, operand, result = _change(rng, total, used)
        used.add(operand)
        sentences.append(rng.choice(_CHANGES[sign]).format(n=operand, **words))
        equations.append(f"{total}{sign}{operand}={result}")
        total = result
    sentences.append(rng.choice(_ENDINGS).format(**words))
    return " ".join(sentences), equations, total


def _change(rng: random.Random, total: int, used: set[int]) -> tuple[str, int, int]:
    """A sign, an operand and the new count, SMALLEST_COUNT to LARGEST_COUNT; numbers repeat only when no other fits."""
    choices = {
        "+": [n for n in range(2, 10) if total + n <= LARGEST_COUNT],
        "-": [n for n in range(2, 10) if total - n >= SMALLEST_COUNT],
        "*": [n for n in range(2, 6) if total * n <= LARGEST_COUNT],
        "/": [n for n in range(2, 6) if total % n == 0 and total // n >= SMALLEST_COUNT],
    }
    fresh = {sign: [n for n in operands if n not in used] for sign, operands in choices.items()}
    possible = fresh if any(fresh.values()) else choices
    sign = rng.choices(list(possible), weights=[weight * bool(possible[s]) for s, weight in _WEIGHTS.items()])[0]
    operand = rng.choice(possible[sign])
    result = {"+": total + operand, "-": total - operand, "*": total * operand, "/": total // operand}[sign]
    return sign, operand, result
