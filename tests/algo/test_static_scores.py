import numpy as np
import pytest
from tolerances import rounding

from gainrl_ray.algo.static_scores import alignment_score, likelihood_score


def test_middling_likelihoods_score_highest():
    # The mean is 0.5.
    np.testing.assert_allclose(likelihood_score(np.array([0.0, 0.5, 1.0])), [0.75, 1.0, 0.75])
    np.testing.assert_allclose(likelihood_score(np.full(4, 0.3)), np.ones(4))


def test_alignment_is_the_mean_over_all_pairs():
    rng = np.random.default_rng(0)
    gradients, accuracy = rng.normal(size=(9, 5)) * rng.uniform(0.01, 100, size=(9, 1)), rng.uniform(size=9)
    expected = np.zeros(9)
    for i in range(9):
        for j in range(9):
            cosine = gradients[i] @ gradients[j] / (np.linalg.norm(gradients[i]) * np.linalg.norm(gradients[j]))
            expected[i] += accuracy[i] * (1 - accuracy[i]) * accuracy[j] * (1 - accuracy[j]) * cosine / 9
    np.testing.assert_allclose(alignment_score(gradients, accuracy), expected, rtol=1e-12)
    np.testing.assert_allclose(
        alignment_score(gradients.astype(np.float32), accuracy), expected, rtol=0, atol=rounding(5 + 9, 1 / 16)
    )


def test_alignment_worked_by_hand():
    # V = 1/4, 1/4, 0 and 3/16; unit vectors (1, 0), (0, 1), none needed, (1, 0).
    gradients = np.array([[5.0, 0.0], [0.0, 0.1], [1.0, 1.0], [2.0, 0.0]])
    mean = np.array([1 / 4 + 3 / 16, 1 / 4]) / 4
    expected = [mean[0] / 4, mean[1] / 4, 0.0, mean[0] * 3 / 16]
    np.testing.assert_allclose(alignment_score(gradients, np.array([0.5, 0.5, 1.0, 0.25])), expected)


def test_a_gradient_of_zero_scores_zero():
    assert alignment_score(np.array([[0.0, 0.0], [1.0, 0.0]]), np.array([0.5, 0.5])) == pytest.approx([0.0, 1 / 32])
