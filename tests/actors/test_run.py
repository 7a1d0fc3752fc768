"""The watching of a run: what a person is told while nothing ends."""

import re
import time
from typing import Any

import pytest

from gainrl_ray.actors import run
from gainrl_ray.actors.attempt import Attempt
from gainrl_ray.actors.run import _Fit, _watch
from gainrl_ray.errors import GainrlError


class Pipeline:
    """Of a run that says a line, is silent, says another and ends with `failure`."""

    def __init__(self, failure: str | None = None) -> None:
        self._failure, self._begun = failure, time.monotonic()

    def progress(self, after: int) -> tuple[list[str], str, str | None, bool]:
        passed = time.monotonic() - self._begun
        lines = ["first", "second"][: 1 + (passed > 1.0)]
        return lines[after:], "step 2: training", self._failure if passed > 1.2 else None, False


def watched(monkeypatch: pytest.MonkeyPatch, pipeline: Any) -> list[str]:
    monkeypatch.setattr(run, "SILENCE_S", 0.3)
    monkeypatch.setattr(run, "POLL_S", 0.02)
    monkeypatch.setattr(run, "FAILURE_GRACE_S", 0.1)
    said: list[str] = []
    try:
        assert not _watch(_Fit(lambda: time.sleep(1.5)), pipeline, said.append)
    except GainrlError as error:
        said.append(f"error: {error}")
    return said


def test_a_silent_step_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    said = watched(monkeypatch, Pipeline())
    words = said[1 : said.index("second")]
    assert said[0] == "first" and len(words) >= 2
    assert all(re.fullmatch(r"  step 2: training, [01] s", word) for word in words)


def test_the_error_of_the_pipeline_is_the_run_s(monkeypatch: pytest.MonkeyPatch) -> None:
    assert watched(monkeypatch, Pipeline("an engine died"))[-1] == "error: an engine died"


def test_what_an_attempt_is_at() -> None:
    attempt: Any = Attempt(1, 3)
    assert attempt.doing == "learners and engines start"
    attempt.plans[3] = "a plan"
    assert attempt.doing == "learners and engines start", "no version is published"
    attempt.published = 3
    assert attempt.doing == "step 4: generating"
    attempt.batches[3] = ()
    assert attempt.doing == "step 4: training"
    attempt.plans[4], attempt.states[3] = "a plan", "a state"
    assert attempt.doing == "step 5: generating"
