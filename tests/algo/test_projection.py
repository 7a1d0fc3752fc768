import numpy as np
import pytest

from gainrl_ray.algo.projection import sign_matrix


def test_entries_are_signs_of_columns_of_length_by_rows():
    matrix = sign_matrix(300, 16, 0, "a")
    assert matrix.dtype == np.float32
    assert set(np.unique(matrix)) == {np.float32(-0.25), np.float32(0.25)}
    assert abs(float((matrix > 0).mean()) - 0.5) < 4 * 0.5 / np.sqrt(matrix.size)


def test_draws_are_those_of_their_coordinates():
    assert np.array_equal(sign_matrix(7, 8, 0, 1, "input"), sign_matrix(7, 8, 0, 1, "input"))
    others = (sign_matrix(7, 8, 1, 1, "input"), sign_matrix(7, 8, 0, 2, "input"), sign_matrix(7, 8, 0, 1, "output"))
    assert not any(np.array_equal(sign_matrix(7, 8, 0, 1, "input"), other) for other in others)


def test_inner_products_are_kept_on_average_and_as_closely_as_said():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 40))
    columns, draws = 32, 300
    found = np.array([(x @ m) @ (y @ m) for m in (sign_matrix(40, columns, seed) for seed in range(draws))])
    spread = np.linalg.norm(x) * np.linalg.norm(y) * np.sqrt(2 / columns)
    assert found.mean() == pytest.approx(x @ y, abs=4 * spread / np.sqrt(draws))
    assert found.std() < spread


def test_sums_of_kronecker_projections_keep_inner_products_of_whole_gradients_on_average():
    rng = np.random.default_rng(1)
    shapes, side, draws = [(6, 10), (12, 4)], 8, 400
    pair = [[rng.normal(size=shape) for shape in shapes] for _ in range(2)]

    def projected(gradients, seed):
        return sum(
            sign_matrix(g.shape[0], side, seed, place, "output").T @ g @ sign_matrix(g.shape[1], side, seed, place, "i")
            for place, g in enumerate(gradients)
        )

    exact = sum(float((a * b).sum()) for a, b in zip(*pair, strict=True))
    found = np.array([(projected(pair[0], s) * projected(pair[1], s)).sum() for s in range(draws)])
    assert found.mean() == pytest.approx(exact, abs=4 * found.std() / np.sqrt(draws))
    lengths = np.array([np.square(projected(pair[0], s)).sum() for s in range(draws)])
    assert lengths.mean() == pytest.approx(sum(float((a * a).sum()) for a in pair[0]), rel=0.1)
