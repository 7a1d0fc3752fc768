"""What the diagnosis concludes, on figures made up so that the answer is known; the verb itself: test_signals.py."""

import numpy as np
import pytest

from gainrl_ray.algo.angles import spearman
from gainrl_ray.diagnosis import GRADIENT, LABEL, LENGTH, PASS_RATE, conclusions, correlate, report

SIZE = 120


@pytest.fixture(scope="module")
def findings():
    """The angle follows length, the pass rate length alone, the label length and angle, the gradient is constant."""
    rng = np.random.default_rng(0)
    length = rng.integers(20, 90, SIZE).astype(float)
    own = 15 * rng.normal(size=SIZE)
    label = length + own
    label[:20] = np.nan
    signals = {"angle": -length - own, "c_intra": rng.normal(size=SIZE), LENGTH: length}
    targets = {LENGTH: length, PASS_RATE: length + 15 * rng.normal(size=SIZE), LABEL: label, GRADIENT: np.zeros(SIZE)}
    return correlate(signals, targets, 0)


def test_each_signal_is_compared_with_each_figure_but_itself(findings):
    pairs = [(finding.signal, finding.against) for finding in findings]
    names = ("angle", "c_intra", LENGTH)
    assert pairs == [(n, t) for t in (LENGTH, PASS_RATE, LABEL, GRADIENT) for n in names if n != t]
    assert [finding.partial is None for finding in findings] == [LENGTH in pair for pair in pairs]


def test_problems_without_a_label_are_left_out(findings):
    assert {finding.problems for finding in findings if finding.against == LABEL} == {SIZE - 20}
    assert {finding.problems for finding in findings if finding.against != LABEL} == {SIZE}
    angle = next(f for f in findings if (f.signal, f.against) == ("angle", LABEL))
    assert (angle.plain.value, angle.partial.value) == pytest.approx((-1.0, -1.0))


def test_a_figure_that_no_problem_has_is_left_out():
    length = np.arange(5.0)
    found = correlate({LENGTH: length}, {LABEL: np.full(5, np.nan), PASS_RATE: length}, 0)
    assert [finding.against for finding in found] == [PASS_RATE]


def test_the_conclusions_are_the_ones_that_were_made_up(findings):
    assert [sentence.partition(":")[0] for sentence in conclusions(findings)] == [
        "Angle concentration moves with the prompt's length",
        "Angle concentration is not seen to tell more of the measured pass rate than length does",
        "Angle concentration tells something of the difficulty label that length does not",
        "Nothing can be said of the gradient norm",
    ]


def test_what_is_not_defined_is_null_and_named(findings):
    entry = next(f.as_json() for f in findings if f.against == GRADIENT)
    assert entry == {
        **{"signal": "angle", "against": GRADIENT, "spearman": None, "low": None, "high": None},
        **{"partial": None, "partial_low": None, "partial_high": None, "problems": SIZE},
    }
    headers = [line for line in report(findings).splitlines() if line.startswith("against")]
    assert "not defined" in report(findings)
    assert [f"({SIZE} problems, {SIZE} at one value)" in line for line in headers] == [False, False, False, True]


def test_the_report_has_every_figure(findings):
    text = report(findings)
    angle = next(f for f in findings if (f.signal, f.against) == ("angle", PASS_RATE))
    line = next(line for line in text.split(f"against {PASS_RATE}")[1].splitlines() if line.startswith("  angle"))
    for correlation in (angle.plain, angle.partial):
        assert f"{correlation.value:+.2f} [{correlation.low:+.2f}, {correlation.high:+.2f}]" in line
    assert all(sentence in text for sentence in conclusions(findings))


def test_the_plain_figure_is_spearmans(findings):
    angle = next(f for f in findings if (f.signal, f.against) == ("angle", LENGTH))
    again = correlate({"angle": np.arange(9.0), LENGTH: np.arange(9.0)[::-1]}, {LENGTH: np.arange(9.0)[::-1]}, 0)
    assert again[0].plain.value == spearman(np.arange(9.0), np.arange(9.0)[::-1]) == pytest.approx(-1.0)
    assert -1 < angle.plain.value < -0.5
