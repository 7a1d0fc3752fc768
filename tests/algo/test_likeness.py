"""Predictions from like vectors: by hand, and against plain loops."""

from math import exp, sqrt

import numpy as np
import pytest
from tolerances import rounding

from gainrl_ray.algo.likeness import WIDTHS, Likeness, _line

ROUNDED = rounding(4 + 40, 1 / min(WIDTHS))
"""Of weights exp(cosine / width), float32: a cosine of up to 4 features, a sum over up to 40 references."""


def _slow(queries: np.ndarray, references: np.ndarray, values: np.ndarray) -> tuple[list[float], float, float]:
    """(predictions, width, slope), one number after the other."""
    centre = references.mean(axis=0)

    def cosine(one: np.ndarray, other: np.ndarray) -> float:
        one, other = one - centre, other - centre
        return float(one @ other / sqrt((one @ one) * (other @ other)))

    def mean(vector: np.ndarray, places: list[int], width: float) -> float:
        weights = [exp(cosine(vector, references[place]) / width) for place in places]
        return sum(w * values[place] for w, place in zip(weights, places, strict=True)) / sum(weights)

    everyone = list(range(len(values)))
    best = (np.inf, 0.0, [0.0])
    for width in WIDTHS:
        others = [mean(references[i], [j for j in everyone if j != i], width) for i in everyone]
        error = sum((one - value) ** 2 for one, value in zip(others, values, strict=True))
        best = min(best, (error, width, others))
    width, others = best[1], best[2]
    slope = max(float(np.polyfit(others, values, 1)[0]), 0.0)
    start = values.mean() - slope * np.mean(others)
    return [min(max(start + slope * mean(q, everyone, width), 0.0), 1.0) for q in queries], width, slope


@pytest.mark.parametrize("seed", range(6))
def test_predictions_are_those_of_plain_loops(seed: int) -> None:
    rng = np.random.default_rng(seed)
    references, queries = rng.normal(size=(12, 3)), rng.normal(size=(7, 3))
    values = 1 / (1 + np.exp(-2 * references[:, 0] - (seed % 2) * rng.normal(size=12)))
    found, (expected, width, slope) = Likeness(references, values), _slow(queries, references, values)
    assert found.width == width
    assert found.slope == pytest.approx(slope, rel=10 * ROUNDED)  # over a spread of a tenth
    assert found.predict(queries) == pytest.approx(np.array(expected), abs=10 * ROUNDED)


def test_two_clusters_by_hand() -> None:
    """Cosines are 1 within a cluster and -1 between, so at width 0.02 each reference is predicted exactly."""
    references = np.array([[1.0, 5.0], [1.0, 5.0], [-1.0, 5.0], [-1.0, 5.0]])
    found = Likeness(references, np.array([0.25, 0.25, 0.75, 0.75]))
    assert found.width == 0.02
    assert found.slope == pytest.approx(1.0, abs=ROUNDED) and found.error == pytest.approx(0.0, abs=ROUNDED)
    assert found.predict(np.array([[3.0, 5.0], [-0.5, 5.0]])) == pytest.approx([0.25, 0.75], abs=ROUNDED)


def test_vectors_that_say_nothing_predict_the_mean() -> None:
    """From the others alone a reference's value is predicted the lower the higher it is; that is no slope."""
    same = np.ones((6, 4))
    found = Likeness(same, np.array([0.0, 0.0, 0.0, 1.0, 1.0, 1.0]))
    assert found.slope == 0.0
    assert found.predict(same[:3] * 2).tolist() == [0.5, 0.5, 0.5]
    assert found.error == 0.5


def test_predictions_stay_within_0_to_1() -> None:
    rng = np.random.default_rng(0)
    references = rng.normal(size=(40, 2))
    found = Likeness(references, (references[:, 0] > 0).astype(float)).predict(rng.normal(size=(500, 2)) * 9)
    assert found.min() >= 0.0 and found.max() <= 1.0


def test_many_queries_are_predicted_as_one_at_a_time() -> None:
    """Beyond one block; they are summed in another order."""
    rng = np.random.default_rng(2)
    references, queries = rng.normal(size=(20, 4)), rng.normal(size=(1100, 4))
    likeness = Likeness(references, rng.random(20))
    alone = np.concatenate([likeness.predict(query[None]) for query in queries])
    assert likeness.predict(queries) == pytest.approx(alone, abs=ROUNDED)
    assert likeness.predict(queries[:0]).shape == (0,)


def test_the_line_is_that_of_least_squares() -> None:
    rng = np.random.default_rng(1)
    inputs = rng.random(30)
    outputs = 3 * inputs + rng.random(30)
    assert _line(inputs, outputs) == pytest.approx(tuple(np.polyfit(inputs, outputs, 1)))
    assert _line(inputs, -outputs) == (0.0, pytest.approx(-outputs.mean()))
    assert _line(np.full(30, 0.25), outputs) == (0.0, pytest.approx(outputs.mean()))
