"""Angle concentration against the double loop of its definition; a cosine has two norms to round, of all features."""

import math

import numpy as np
import pytest
import torch
from tolerances import rounding
from torch import Tensor

from gainrl_ray.algo.angles import (
    angle_concentration,
    concentration_of_sums,
    length_residual,
    spearman,
    unit_sums,
    without_diagonal,
)


def _cosine(a: Tensor, b: Tensor) -> float:
    x, y = a.double().tolist(), b.double().tolist()
    dot = sum(p * q for p, q in zip(x, y, strict=True))
    return dot / math.sqrt(sum(p * p for p in x) * sum(q * q for q in y))


def _double_loop(states: Tensor, start: int, prefix_stop: int, question_stop: int) -> tuple[float, float]:
    question, prefix = range(prefix_stop, question_stop), range(start, prefix_stop)
    intra = [_cosine(states[i], states[j]) for i in question for j in question]
    inter = [_cosine(states[i], states[j]) for i in question for j in prefix]
    return sum(intra) / len(intra), sum(inter) / len(inter) if inter else 0.0


def _spans(*values: int) -> Tensor:
    return torch.tensor(values)


def test_equals_the_double_loop() -> None:
    torch.manual_seed(0)
    hidden = torch.randn(4, 12, 6) + 0.5
    spans = [(0, 4, 9), (0, 1, 12), (0, 11, 12), (0, 5, 10)]
    c_intra, c_inter = angle_concentration(hidden, _spans(4, 1, 11, 5), _spans(9, 12, 12, 10))
    assert c_intra.dtype == c_inter.dtype == torch.float64
    for row, span in enumerate(spans):
        expected = _double_loop(hidden[row], *span)
        assert (c_intra[row].item(), c_inter[row].item()) == pytest.approx(expected, abs=rounding(2 * 6))


def test_worked_by_hand() -> None:
    # Prefix (1, 0); question (1, 0), (0, 2): pairs of the question 1, 0, 0, 1 -> 1/2; with the prefix 1, 0 -> 1/2.
    hidden = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 2.0], [7.0, 7.0]]])
    c_intra, c_inter = angle_concentration(hidden, _spans(1), _spans(3))
    assert (c_intra.item(), c_inter.item()) == pytest.approx((0.5, 0.5), abs=rounding(2 * 2))


def test_identical_states_give_one_and_opposite_ones_minus_one() -> None:
    state = torch.randn(1, 1, 16)
    hidden = state.repeat(1, 9, 1)
    assert [c.item() for c in angle_concentration(hidden, _spans(4), _spans(8))] == pytest.approx(
        [1.0, 1.0], abs=rounding(2 * 16)
    )
    hidden[:, :4] *= -3
    assert angle_concentration(hidden, _spans(4), _spans(8))[1].item() == pytest.approx(-1.0, abs=rounding(2 * 16))


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e4, 1e30])
def test_scale_changes_nothing(scale: float) -> None:
    torch.manual_seed(1)
    hidden = torch.randn(1, 10, 8)
    expected = [c.item() for c in angle_concentration(hidden, _spans(3), _spans(8))]
    scaled = hidden * scale * (1 + torch.rand(1, 10, 1))
    assert [c.item() for c in angle_concentration(scaled, _spans(3), _spans(8))] == pytest.approx(
        expected, abs=rounding(2 * 8)
    )


def test_padding_on_either_side_and_batching_change_nothing() -> None:
    torch.manual_seed(2)
    rows = [torch.randn(1, length, 8) for length in (9, 6, 12)]
    stops = [(3, 8), (2, 6), (4, 10)]
    alone = [angle_concentration(row, _spans(a), _spans(b)) for row, (a, b) in zip(rows, stops, strict=True)]
    padded, shifted = torch.full((3, 15, 8), float("nan")), torch.full((3, 15, 8), float("nan"))
    starts = [15 - row.shape[1] for row in rows]
    for i, row in enumerate(rows):
        padded[i, : row.shape[1]] = row[0]
        shifted[i, starts[i] :] = row[0]
    prefix, question, start = _spans(*(a for a, _ in stops)), _spans(*(b for _, b in stops)), _spans(*starts)
    right = angle_concentration(padded, prefix, question)
    left = angle_concentration(shifted, prefix + start, question + start, start=start)
    for part in range(2):
        expected = torch.cat([values[part] for values in alone])
        assert torch.equal(right[part], expected)
        assert torch.equal(left[part], expected)


def test_bfloat16_states_are_summed_without_loss() -> None:
    torch.manual_seed(3)
    hidden = (torch.randn(1, 600, 64) + 1).bfloat16()
    c_intra, _ = angle_concentration(hidden, _spans(100), _spans(599))
    units = torch.nn.functional.normalize(hidden[0, 100:599].double(), dim=1)
    assert c_intra.item() == pytest.approx((units @ units.T).mean().item(), abs=rounding(2 * 64))


def test_a_short_question_and_no_prefix() -> None:
    hidden = torch.randn(1, 6, 8)
    c_intra, c_inter = angle_concentration(hidden, _spans(5), _spans(6))
    assert c_intra.item() == pytest.approx(1.0, abs=rounding(2 * 8))
    assert -1 <= c_inter.item() <= 1
    assert angle_concentration(hidden, _spans(0), _spans(6))[1].item() == 0.0


def test_a_state_of_zero_has_no_direction() -> None:
    hidden = torch.tensor([[[1.0, 0.0], [0.0, 0.0], [1.0, 0.0]]])
    c_intra, c_inter = angle_concentration(hidden, _spans(1), _spans(3))
    assert (c_intra.item(), c_inter.item()) == (0.25, 0.5)


def test_a_state_that_is_not_finite_shows() -> None:
    hidden = torch.ones(1, 4, 2)
    hidden[0, 2, 0] = float("inf")
    assert torch.isnan(angle_concentration(hidden, _spans(1), _spans(4))[0]).all()


@pytest.mark.parametrize(("start", "prefix", "question"), [(0, 3, 3), (0, 3, 7), (4, 3, 5), (0, -1, 4)])
def test_bad_spans_are_named(start: int, prefix: int, question: int) -> None:
    spans = _spans(0, start), _spans(2, prefix), _spans(4, question)
    with pytest.raises(ValueError, match=f"row 1: start {start}, prefix_stop {prefix}, question_stop {question}"):
        angle_concentration(torch.ones(2, 6, 2), spans[1], spans[2], start=spans[0])


def test_a_shared_prefix_needs_one_sum() -> None:
    torch.manual_seed(5)
    prefix, questions = torch.randn(4, 8), torch.randn(3, 5, 8)
    whole = torch.cat([prefix.expand(3, 4, 8), questions], dim=1)
    expected = angle_concentration(whole, _spans(4, 4, 4), _spans(9, 9, 9))
    sums = unit_sums(questions.flatten(0, 1), torch.tensor([5, 5, 5]))
    found = concentration_of_sums(sums, unit_sums(prefix, torch.tensor([4])), torch.tensor(5), torch.tensor(4))
    assert torch.allclose(found[0], expected[0], atol=1e-12)
    assert torch.allclose(found[1], expected[1], atol=1e-12)


def test_sums_worked_by_hand() -> None:
    # (3, 4) / 5 + (0, -2) / 2 + nothing; an empty run; (5, 0) / 5.
    states = torch.tensor([[3.0, 4.0], [0.0, -2.0], [0.0, 0.0], [5.0, 0.0]])
    sums = unit_sums(states, torch.tensor([3, 0, 1]))
    assert sums.dtype == torch.float64
    assert sums.flatten().tolist() == pytest.approx([0.6, -0.2, 0.0, 0.0, 1.0, 0.0])
    assert unit_sums(torch.zeros(0, 3), torch.tensor([0])).tolist() == [[0.0, 0.0, 0.0]]
    no_prefix = concentration_of_sums(torch.ones(2), torch.zeros(2), torch.tensor(2), torch.tensor(0))
    assert [value.item() for value in no_prefix] == [0.5, 0.0]


def test_without_diagonal_equals_the_loop_over_different_pairs() -> None:
    torch.manual_seed(4)
    hidden = torch.randn(1, 7, 5)
    c_intra, _ = angle_concentration(hidden, _spans(2), _spans(7))
    pairs = [_cosine(hidden[0, i], hidden[0, j]) for i in range(2, 7) for j in range(2, 7) if i != j]
    result = without_diagonal(c_intra.numpy(), np.array([5]))
    assert result[0] == pytest.approx(sum(pairs) / len(pairs), abs=rounding(2 * 5))
    # At a constant cosine of 0.4 the diagonal is all that depends on length.
    stored = np.array([0.4 + 0.6 / 16, 0.4 + 0.6 / 256, 1.0])
    assert without_diagonal(stored, np.array([16, 256, 1])) == pytest.approx([0.4, 0.4, 0.0])


def test_length_residual_removes_a_line_over_log_length() -> None:
    tokens = np.array([10, 20, 40, 80])
    assert length_residual(3.0 - 0.5 * np.log(tokens), tokens) == pytest.approx(np.zeros(4), abs=1e-12)
    # log2 lengths 0, 1, 2 and scores 0, 3, 0: slope 0, mean 1.
    assert length_residual(np.array([0.0, 3.0, 0.0]), np.array([1, 2, 4])) == pytest.approx([-1, 2, -1])
    assert length_residual(np.array([1.0, 3.0]), np.array([5, 5])) == pytest.approx([-1, 1])


def test_spearman_worked_by_hand() -> None:
    assert spearman(np.array([1, 2, 3, 4]), np.array([10, 20, 25, 1e9])) == pytest.approx(1.0)
    assert spearman(np.array([1, 2, 3, 4]), np.array([4, 3, 2, 1])) == pytest.approx(-1.0)
    # Ranks 1, 2, 3, 4, 5 and 2, 1, 4, 3, 5: 1 - 6 * 4 / (5 * 24) = 0.8.
    assert spearman(np.array([1, 2, 3, 4, 5]), np.array([2, 1, 4, 3, 5])) == pytest.approx(0.8)
    # Ties: ranks 1.5, 1.5, 3 and 1, 2, 3: covariance 1.5, variances 1.5 and 2 -> sqrt(3)/2.
    assert spearman(np.array([5, 5, 9]), np.array([1, 2, 3])) == pytest.approx(math.sqrt(3) / 2)
    assert math.isnan(spearman(np.array([1, 1]), np.array([1, 2])))
