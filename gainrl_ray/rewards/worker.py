"""The program of a grading process: JSON lines in, JSON lines out, one grader loaded once."""

import contextlib
import importlib
import inspect
import json
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any, TextIO

import numpy as np

from gainrl_ray.types import Outcome

TRACEBACK_CHARACTERS = 8000


def main() -> None:
    """Serve one request a line until standard input ends: first the setup, then completions to grade.

    Setup: {"function", "path" (sys.path), "memory_bytes" (or null), "backstop_s"} -> {"ready": true} or {"error"}.
    Request: {"id", "completion", "answer"} -> {"id", and one of "outcome", "reward", "error" (a traceback)}.
    """
    requests, replies = _take_streams()
    setup = json.loads(requests.readline() or "null")
    if setup is None:
        return
    try:
        _limit(setup["memory_bytes"])
        sys.path[:] = setup["path"]
        grader = load_grader(setup["function"])
    except BaseException as error:  # a user's module may raise anything, SystemExit included
        _send(replies, {"error": f"{type(error).__name__}: {error}", "traceback": _traceback()})
        return
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    _send(replies, {"ready": True})
    for line in requests:
        request = json.loads(line)
        # The caller kills a late process; should the caller be gone, the kernel's alarm ends it, whatever it computes.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, setup["backstop_s"])
        reply = grade(grader, request["completion"], request["answer"])
        signal.setitimer(signal.ITIMER_REAL, 0)
        _send(replies, {"id": request["id"], **reply})


def load_grader(function: str) -> Callable[[str, str], Any]:
    """The grader that a config names: `math`, or the function at `module:function`.

    Raises whatever the import raises; TypeError when the name is not a function of two arguments.
    """
    if function == "math":
        from gainrl_ray.rewards.math import grade_math

        grade_math(r"\boxed{\frac{x+1}{2}}", "(1+x)/2")  # loads sympy's parser outside of any completion's deadline
        return grade_math
    module, _, name = function.partition(":")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    if not callable(found):
        raise TypeError(f"{function} is of type {type(found).__name__}, not a function of (completion, answer)")
    with contextlib.suppress(ValueError):  # a built-in function may have no signature
        inspect.signature(found).bind("completion", "answer")
    return found


def grade(grader: Callable[[str, str], Any], completion: str, answer: str) -> dict[str, Any]:
    """{"outcome": text}, {"reward": finite number} or {"error": traceback} of one call of the grader."""
    try:
        value = grader(completion, answer)
        if isinstance(value, Outcome):
            return {"outcome": value.value}
        if isinstance(value, str) or value is None:
            raise TypeError(f"the reward function returned {value!r}; accepted: a number, True, False or an Outcome")
        number = float(value)
        if number - number != 0.0:
            raise ValueError(f"the reward function returned {number}; accepted: a finite number")
        if isinstance(value, (bool, np.bool_)):
            return {"outcome": (Outcome.CORRECT if value else Outcome.WRONG).value}
        return {"reward": number}
    except BaseException:  # SystemExit and KeyboardInterrupt of a user's function are crashes of that function too
        return {"error": _traceback()}


def _take_streams() -> tuple[TextIO, TextIO]:
    """Private copies of standard input and output; what a grader prints goes to standard error instead."""
    requests = os.fdopen(os.dup(0), encoding="ascii")
    replies = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    return requests, replies


def _limit(memory_bytes: int | None) -> None:
    with contextlib.suppress(ValueError, OSError):  # a lower hard limit set from outside stands
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if memory_bytes is not None:
            resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))


def _send(replies: TextIO, message: dict[str, Any]) -> None:
    replies.write(json.dumps(message) + "\n")
    replies.flush()


def _traceback() -> str:
    return traceback.format_exc()[-TRACEBACK_CHARACTERS:]


if __name__ == "__main__":
    main()
