r"""Grading of mathematical answers: a completion's last \boxed{} against a reference, exactly or by math-verify."""

import logging
import re
from fractions import Fraction
from functools import lru_cache
from typing import Any

from gainrl_ray.types import Outcome

logger = logging.getLogger(__name__)

QUICK_CHARACTERS = 200
NUMBER_CHARACTERS = 64

_DECIMAL = r"(?:\d+\.?\d*|\.\d+)"
_NUMBER = re.compile(rf"([-+]?)(?:({_DECIMAL}(?:[eE][-+]?\d{{1,3}})?)|({_DECIMAL})/({_DECIMAL}))")
_FRACTION = re.compile(rf"([-+]?)\\frac(?:\{{([-+]?{_DECIMAL})\}}\{{([-+]?{_DECIMAL})\}}|(\d)(\d))")
_WRAPPED = re.compile(r"\\(?:text|textbf|textit|textrm|textnormal|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_SPACING = re.compile(r"\\[,;:! ]|\\quad|\\qquad|~")
_SIZING = re.compile(r"\\(?:left|right|displaystyle|bigl?|bigr|Bigl?|Bigr)(?![A-Za-z])")
_GROUPED = re.compile(r"([-+]?)(\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+)(\.\d+)?")
_UNIT = re.compile(
    r"(?P<number>[-+]?[\d.,/]+|[-+]?\\frac\{[\d.]+\}\{[\d.]+\})"
    r"(?: ?(?P<short>cm|mm|km|kg|mg|ml|mL|ft|lb|lbs|oz|hr|hrs|mph)(?:\^\{?[23]\}?)?|\^\{?\\circ\}?|°"
    r"|(?P<words> [A-Za-z]{3,}(?: [A-Za-z]+)*))"
)
_NO_UNIT = re.compile(
    r"\b(?:and|cubed|divided|dozen|exp|factorial|half|halves|hundred|log|million|billion|trillion|minus|mod|over"
    r"|percent|plus|quarters?|sin|cos|tan|sqrt|squared|thirds?|thousand|times)\b",
    re.IGNORECASE,
)
_WORDS = re.compile(r"[A-Za-z][A-Za-z' -]+")


def grade_math(completion: str, answer: str) -> Outcome:
    r"""CORRECT, WRONG or UNPARSABLE: the last \boxed{} of `completion` against the reference `answer`.

    A reference that holds a \boxed{} (a worked solution) stands for its last one. No or an unfinished box is
    UNPARSABLE, so nothing against nothing is never correct. May run for ever on hostile input: call it in a process
    that can be killed. Raises ValueError on an empty reference.
    """
    candidate, reference = _sides(completion, answer)
    if not candidate:
        return Outcome.UNPARSABLE
    quick = _compare_plain(candidate, reference)
    return quick if quick is not None else _compare_symbolic(candidate, reference)


def grade_math_quickly(completion: str, answer: str) -> Outcome | None:
    """The outcome where plain numbers, equal texts or words decide it (linear time, no sympy), else None."""
    if not answer.strip():
        return None
    candidate, reference = _sides(completion, answer)
    return _compare_plain(candidate, reference) if candidate else Outcome.UNPARSABLE


def last_boxed(text: str) -> str | None:
    r"""The content of the last \boxed{...} (braces may nest) or `\boxed x`; None without one or when unfinished."""
    start = text.rfind("\\boxed")
    if start < 0:
        return None
    rest = text[start + len("\\boxed") :].lstrip()
    if not rest.startswith("{"):
        token = re.match(r"[^\s$]+", rest) if text[start + len("\\boxed") :][:1].isspace() else None
        return token.group() if token else None
    depth, position = 0, 0
    while position < len(rest):
        character = rest[position]
        if character == "\\":
            position += 1
        elif character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
            if depth == 0:
                return rest[1:position]
        position += 1
    return None


def plain_number(text: str) -> Fraction | None:
    r"""The exact value of a normalised integer, decimal, a/b or \frac{a}{b}; None for anything else."""
    if len(text) > NUMBER_CHARACTERS:
        return None
    if match := _NUMBER.fullmatch(text):
        sign, value, above, below = match.groups()
        value, above, below = value or above, above, below
    elif match := _FRACTION.fullmatch(text):
        sign, above, below, first, second = match.groups()
        value, above, below = None, above or first, below or second
    else:
        return None
    magnitude = Fraction(value) if value and not below else _ratio(above, below)
    return -magnitude if magnitude is not None and sign == "-" else magnitude


def normalise(text: str) -> str:
    r"""`text` without what changes no value: $, \left, \text{}, spacing, separators of thousands, a final stop."""
    text = text.strip().strip("$").removeprefix("\\(").removesuffix("\\)").removeprefix("\\[").removesuffix("\\]")
    text = (
        _SIZING.sub("", text).replace("{,}", ",").replace("\\$", "").replace("\\%", "%").replace("\N{MINUS SIGN}", "-")
    )
    text = re.sub(r"\\[dtc]frac", r"\\frac", _WRAPPED.sub(r" \1 ", text))
    text = re.sub(r"\s+", " ", _SPACING.sub(" ", text)).strip()
    text = re.sub(r" ?([^\w\s\\]) ?", r"\1", text).rstrip(".")
    text = re.sub(r"^\(([A-Z])\)$", r"\1", text)
    if _GROUPED.fullmatch(text):
        text = text.replace(",", "").replace(" ", "")
    return text


def _sides(completion: str, answer: str) -> tuple[str, str]:
    candidate = (last_boxed(completion) or "").strip()
    if candidate and not answer.strip():
        raise ValueError("the reference answer is empty: nothing can be graded against it")
    return candidate, last_boxed(answer) or answer


def _compare_plain(candidate: str, reference: str) -> Outcome | None:
    """CORRECT or WRONG where equal text, plain numbers (a unit aside) or words decide, else None."""
    if max(len(candidate), len(reference)) > QUICK_CHARACTERS:
        return None
    numbers = plain_number(candidate), plain_number(reference)
    if None not in numbers:
        return Outcome.CORRECT if numbers[0] == numbers[1] else Outcome.WRONG
    left, right = normalise(candidate), normalise(reference)
    if left and left == right:
        return Outcome.CORRECT
    numbers = plain_number(left), plain_number(right)
    if numbers[0] is None and numbers[1] is not None:
        numbers = _without_unit(left), numbers[1]
    elif numbers[1] is None and numbers[0] is not None:
        numbers = numbers[0], _without_unit(right)
    if None not in numbers:
        return Outcome.CORRECT if numbers[0] == numbers[1] else Outcome.WRONG
    if _are_words(left, candidate) and _are_words(right, reference):
        return Outcome.CORRECT if left.casefold() == right.casefold() else Outcome.WRONG
    return None


def _compare_symbolic(candidate: str, reference: str) -> Outcome:
    from math_verify import verify

    gold, target = _parse(reference), _parse(candidate)
    try:
        if gold and target and verify(list(gold), list(target), timeout_seconds=None, raise_on_error=True):
            return Outcome.CORRECT
    except (MemoryError, RecursionError):
        raise
    except Exception:  # math-verify raises whatever sympy raises on kinds that cannot be compared
        logger.debug("math-verify could not compare %r with %r", candidate, reference, exc_info=True)
    return Outcome.WRONG if any(not isinstance(value, str) for value in target) else Outcome.UNPARSABLE


@lru_cache(maxsize=4096)
def _parse(content: str) -> tuple[Any, ...]:
    """math-verify's reading of a boxed content: sympy values, then the text; () when nothing was found."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    logging.getLogger("math_verify").setLevel(logging.ERROR)
    targets = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]
    return tuple(parse(f"\\boxed{{{content.rstrip('.')}}}", targets, parsing_timeout=None))  # pyright: ignore


def _ratio(above: str, below: str) -> Fraction | None:
    return Fraction(above) / Fraction(below) if Fraction(below) else None


def _without_unit(text: str) -> Fraction | None:
    match = _UNIT.fullmatch(text)
    if not match or _NO_UNIT.search(match["words"] or ""):
        return None
    return plain_number(normalise(match["number"]))


def _are_words(normalised: str, raw: str) -> bool:
    """Whether an answer is a word, not a product of letters: it stands in \\text{} or has four letters or more."""
    words = _WORDS.fullmatch(normalised)
    return bool(words) and (_WRAPPED.search(raw) is not None or len(normalised) >= 4)
