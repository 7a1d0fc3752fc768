"""Micro-batches: nothing lost, nothing twice, one normalisation whatever the ranks and the budget."""

from collections import Counter

import numpy as np
import pytest
import torch
from tolerances import assert_equal_but_for_rounding

from gainrl_ray.algo.batching import build_rank_batches
from gainrl_ray.algo.losses import policy_loss
from gainrl_ray.config import LossConfig
from gainrl_ray.types import (
    Completion,
    Grade,
    GradedGroup,
    MicroBatch,
    Outcome,
    Problem,
    Prompt,
    RankBatch,
    RolloutGroup,
    Span,
)

PAD = 99


def _group(slot: int, rewards: list[float], lengths: list[int], prompt: tuple[int, int, int] = (2, 3, 1), cut: int = 0):
    """A group whose token ids tell (slot, sample, position); its first `cut` completions were cut off."""
    prefix, question, _ = prompt
    tokens = tuple(10_000 * slot + position for position in range(sum(prompt)))
    spans = Span(0, prefix), Span(prefix, prefix + question), Span(prefix + question, sum(prompt))
    completions = tuple(
        Completion(
            token_ids=tuple(10_000 * slot + 1_000 * (sample + 1) + t for t in range(length)),
            logprobs=tuple(-0.001 * (sample + 1) - t for t in range(length)),
            finish_reason="length" if sample < cut else "stop",
            text="",
        )
        for sample, length in enumerate(lengths)
    )
    problem = Problem(id=f"p{slot}", question="q", answer="a", source="test")
    return GradedGroup(
        group=RolloutGroup(
            slot=slot,
            row=slot,
            problem=problem,
            prompt=Prompt(problem_id=problem.id, token_ids=tokens, prefix=spans[0], question=spans[1], suffix=spans[2]),
            completions=completions,
            policy_version=4,
        ),
        grades=tuple(Grade(outcome=Outcome.CORRECT if r > 0 else Outcome.WRONG, reward=r) for r in rewards),
    )


def _build(groups: list[GradedGroup], **changes) -> tuple[RankBatch, ...]:
    settings: dict = {
        "step": 5,
        "policy_version": 4,
        "loss": LossConfig(),
        "ranks": 1,
        "microbatch_tokens": 64,
        "updates_per_step": 1,
        "max_new_tokens": 10,
        "measure_all": True,
        "pad_id": PAD,
    }
    return build_rank_batches(groups, **{**settings, **changes})


def _random_groups(seed: int, count: int = 13, group_size: int = 4) -> list[GradedGroup]:
    rng = np.random.default_rng(seed)
    return [
        _group(
            slot,
            rng.integers(0, 2, group_size).astype(float).tolist(),
            rng.integers(1, 11, group_size).tolist(),
            prompt=(2, int(rng.integers(1, 9)), 1),
            cut=int(rng.integers(0, 2)),
        )
        for slot in range(count)
    ]


def _sequences(batch: MicroBatch) -> list[tuple]:
    """Every real sequence as a comparable value: its tokens identify (slot, sample)."""
    rows = []
    for b in range(len(batch.lengths)):
        length = int(batch.lengths[b])
        if not batch.response_mask[b].any():
            continue
        rows.append(
            (
                tuple(batch.token_ids[b, :length]),
                tuple(batch.response_mask[b, :length]),
                tuple(batch.token_weights[b, :length]),
                tuple(batch.generator_logprobs[b, :length]),
                float(batch.advantages[b]),
                int(batch.prefix_stop[b]),
                int(batch.question_stop[b]),
                int(batch.slots[b]),
            )
        )
    return rows


def _is_dummy(batch: MicroBatch) -> bool:
    return bool((batch.slots == -1).all()) and not batch.response_mask.any()


def test_one_group_worked_by_hand() -> None:
    (rank,) = _build([_group(0, [1.0, 0.0], [1, 2])], microbatch_tokens=16)
    assert (rank.step, rank.policy_version, rank.measure) == (5, 4, ())
    ((batch,),) = rank.updates
    # The longer sequence stands first; the slot is carried by the group's first sample.
    assert batch.token_ids.tolist() == [[0, 1, 2, 3, 4, 5, 2000, 2001], [0, 1, 2, 3, 4, 5, 1000, PAD]]
    assert batch.lengths.tolist() == [8, 7]
    assert batch.response_mask.tolist() == [[False] * 6 + [True, True], [False] * 6 + [True, False]]
    assert np.allclose(batch.token_weights, np.array([[0] * 6 + [1 / 3, 1 / 3], [0] * 6 + [1 / 3, 0]]))
    assert np.allclose(batch.generator_logprobs, [[0] * 6 + [-0.002, -1.002], [0] * 6 + [-0.001, 0]])
    assert np.allclose(batch.advantages, [-(0.5**0.5), 0.5**0.5])
    assert (batch.prefix_stop.tolist(), batch.question_stop.tolist()) == ([2, 2], [5, 5])
    assert batch.slots.tolist() == [-1, 0]


@pytest.mark.parametrize(
    ("normalisation", "long", "short"),
    [("token", 1 / 3, 1 / 3), ("sequence", 1 / 4, 1 / 2), ("constant", 1 / 20, 1 / 20)],
)
def test_each_normalisation(normalisation: str, long: float, short: float) -> None:
    loss = LossConfig(normalisation=normalisation)  # type: ignore[arg-type]
    ((batch,),) = _build([_group(0, [1.0, 0.0], [1, 2])], loss=loss)[0].updates
    assert np.allclose(batch.token_weights[0, 6:], long)
    assert np.allclose(batch.token_weights[1, 6], short)


@pytest.mark.parametrize("normalisation", ["token", "sequence", "constant"])
@pytest.mark.parametrize("truncated", ["count", "mask"])
def test_ranks_and_budget_change_nothing_that_is_trained(normalisation: str, truncated: str) -> None:
    loss = LossConfig(normalisation=normalisation, truncated=truncated)  # type: ignore[arg-type]
    for seed in range(5):
        groups = _random_groups(seed)
        expected = None
        for ranks, budget, updates in [(1, 10_000, 3), (1, 1, 3), (2, 60, 3), (3, 37, 3), (16, 100, 3)]:
            built = _build(groups, loss=loss, ranks=ranks, microbatch_tokens=budget, updates_per_step=updates)
            assert len(built) == ranks
            found = [
                Counter(row for rank in built for batch in rank.updates[update] for row in _sequences(batch))
                for update in range(updates)
            ]
            expected = expected or found
            assert found == expected
            for update in range(updates):
                batches = [batch for rank in built for batch in rank.updates[update]]
                _check_update(batches, built, update, budget, loss)


def _check_update(batches: list[MicroBatch], built: tuple[RankBatch, ...], update: int, budget: int, loss: LossConfig):
    assert len({len(rank.updates[update]) for rank in built}) == 1
    tokens = sum(int(batch.response_mask.sum()) for batch in batches)
    sequences = sum(len(_sequences(batch)) for batch in batches)
    total = sum(float(batch.token_weights.astype(np.float64).sum()) for batch in batches)
    expected = tokens / (sequences * 10) if loss.normalisation == "constant" else 1.0
    assert total == pytest.approx(expected, abs=1e-6)
    for batch in batches:
        rows, length = batch.token_ids.shape
        assert rows * length <= budget or rows == 1
        if _is_dummy(batch):
            assert (rows, length) == (1, 2)
            assert not batch.token_weights.any()
        assert length == batch.lengths.max()


def test_every_slot_is_measured_once_and_left_out_groups_by_their_prompt_alone() -> None:
    groups = [
        _group(0, [1.0, 0.0], [3, 3]),
        _group(1, [1.0, 1.0], [3, 3], prompt=(2, 4, 1)),
        _group(2, [0.0, 0.0], [3, 3]),
        _group(3, [0.0, 1.0], [3, 3]),
        _group(4, [0.0, 0.0], [3, 3]),
    ]
    built = _build(groups, ranks=2)
    slots = [int(s) for rank in built for part in (*rank.updates, rank.measure) for b in part for s in b.slots]
    assert sorted(slot for slot in slots if slot >= 0) == [0, 1, 2, 3, 4]
    assert len({len(rank.measure) for rank in built}) == 1
    measured = [batch for rank in built for batch in rank.measure]
    assert sorted(int(s) for batch in measured for s in batch.slots if s >= 0) == [1, 2, 4]
    for batch in measured:
        assert not batch.response_mask.any()
        assert not batch.token_weights.any()
        assert (batch.question_stop == batch.lengths).all()
    row = next((b, i) for b in measured for i, s in enumerate(b.slots) if s == 1)
    assert row[0].token_ids[row[1], : row[0].lengths[row[1]]].tolist() == [10_000 + t for t in range(6)]
    assert all(rank.measure == () for rank in _build(groups, ranks=2, measure_all=False))


def test_no_group_with_signal_makes_no_update() -> None:
    for rank in _build([_group(0, [1.0, 1.0], [3, 3]), _group(1, [0.0, 0.0], [1, 1])], ranks=2, updates_per_step=2):
        assert rank.updates == ()
        assert len(rank.measure) == 1


EQUAL, DIFFERENT = ([1.0, 1.0], [3, 4]), ([1.0, 0.0], [1, 2])


@pytest.mark.parametrize(
    ("normalisation", "weights"),
    [("token", [1 / 10, 1 / 10]), ("sequence", [1 / 4, 1 / 8]), ("constant", [1 / 40, 1 / 40])],
)
def test_groups_that_are_kept_count_in_the_normalisation(normalisation, weights: list[float]) -> None:
    """Four sequences of 1, 2, 3 and 4 tokens, of which the last two have equal rewards."""
    loss = LossConfig(uninformative="keep", normalisation=normalisation)
    (rank,) = _build([_group(0, *DIFFERENT), _group(1, *EQUAL)], loss=loss)
    ((batch,),) = rank.updates
    assert sorted(batch.lengths.tolist()) == [7, 8], "the others' gradient is zero: they need no pass"
    found = {int(length) - 6: float(row.max()) for length, row in zip(batch.lengths, batch.token_weights, strict=True)}
    assert [found[1], found[2]] == pytest.approx(weights, rel=1e-6)
    (measured,) = rank.measure
    assert measured.slots.tolist() == [1]


def test_groups_that_are_kept_have_their_kl_term() -> None:
    loss = LossConfig(uninformative="keep", kl_coef=0.1)
    (rank,) = _build([_group(0, *DIFFERENT), _group(1, *EQUAL)], loss=loss, microbatch_tokens=400)
    ((batch,),) = rank.updates
    assert batch.token_weights.sum() == pytest.approx(1.0)
    assert [batch.advantages[batch.lengths == length].item() for length in (9, 10)] == [0.0, 0.0]
    assert sorted(batch.slots[batch.slots >= 0].tolist()) == [0, 1]
    assert rank.measure == ()


def test_an_update_without_a_gradient_is_left_out() -> None:
    groups = [_group(0, *EQUAL), _group(1, *DIFFERENT)]
    assert len(_build(groups, loss=LossConfig(uninformative="keep"), updates_per_step=2)[0].updates) == 1
    kept = _build(groups, loss=LossConfig(uninformative="keep", kl_coef=0.1), updates_per_step=2)
    assert len(kept[0].updates) == 2


def test_updates_split_the_groups_in_order_into_near_equal_parts() -> None:
    groups = [_group(slot, [1.0, 0.0], [2, 2]) for slot in range(5)]
    (rank,) = _build(groups, updates_per_step=2)
    slots = [sorted(int(s) for batch in update for s in batch.slots if s >= 0) for update in rank.updates]
    assert slots == [[0, 1], [2, 3, 4]]
    (rank,) = _build(groups[:2], updates_per_step=4)
    assert len(rank.updates) == 2


def test_masked_truncation_leaves_the_completion_out_but_not_its_reward() -> None:
    group = _group(0, [0.0, 1.0, 0.0, 0.0], [5, 2, 2, 2], cut=1)
    ((batch,),) = _build([group], loss=LossConfig(truncated="mask", advantage_std=False))[0].updates
    assert sorted(batch.advantages.tolist()) == [-0.25, -0.25, 0.75]
    assert batch.response_mask.sum() == 6
    assert np.allclose(batch.token_weights[batch.response_mask], 1 / 6)
    assert sorted(batch.slots.tolist()) == [-1, -1, 0]


def test_a_group_with_every_completion_masked_is_measured_instead() -> None:
    (rank,) = _build([_group(0, [0.0, 1.0], [5, 5], cut=2)], loss=LossConfig(truncated="mask"))
    assert rank.updates == ()
    assert rank.measure[0].slots.tolist() == [0]


def test_a_sequence_longer_than_the_budget_has_its_own_micro_batch() -> None:
    (rank,) = _build([_group(0, [1.0, 0.0, 0.0], [60, 3, 2])], microbatch_tokens=20)
    assert [batch.token_ids.shape for batch in rank.updates[0]] == [(1, 66), (2, 9)]


def test_rows_without_padding_fill_the_budget_with_their_own_tokens() -> None:
    group = _group(0, [1.0, 0.0, 0.0, 0.0], [9, 1, 1, 1])  # prompts of 6: rows of 15, 7, 7 and 7
    for padded, lengths in ((True, [[15], [7, 7, 7]]), (False, [[15, 7, 7], [7]])):
        (rank,) = _build([group], microbatch_tokens=29, padded=padded)
        assert [batch.lengths.tolist() for batch in rank.updates[0]] == lengths


def test_packs_hold_a_problems_completions_up_to_their_limit() -> None:
    groups = [_group(0, [1.0, 0.0, 0.0], [4, 2, 3]), _group(1, [1.0, 0.0], [1, 1])]
    (rank,) = _build(groups, pack_tokens=13, microbatch_tokens=100)
    (batch,) = rank.updates[0]
    # Prompts of 6: the first problem's completions of 4 and 3 make 13, that of 2 stands alone.
    assert batch.lengths.tolist() == [10, 9, 8, 7, 7]
    assert batch.packs.tolist() == [0, 0, 1, 2, 2]
    assert [batch.packs.tolist() for batch in _build(groups, pack_tokens=13, microbatch_tokens=13)[0].updates[0]] == [
        [0, 0],
        [0],
        [0, 0],
    ]
    assert _build(groups)[0].updates[0][0].packs.tolist() == [0, 1, 2, 3, 4]


def test_packing_changes_nothing_that_is_trained() -> None:
    for seed in range(3):
        built = [_build(_random_groups(seed), ranks=2, pack_tokens=pack) for pack in (0, 20, 1000)]
        rows = [Counter(row for rank in b for batch in rank.updates[0] for row in _sequences(batch)) for b in built]
        assert rows[0] == rows[1] == rows[2]


def test_ranks_share_the_work_alike() -> None:
    groups = [_group(slot, [1.0, 0.0], [slot + 1, 2 * slot + 1]) for slot in range(20)]
    built = _build(groups, ranks=4, microbatch_tokens=10_000)
    tokens = [sum(int(batch.lengths.sum()) for batch in rank.updates[0]) for rank in built]
    assert max(tokens) / min(tokens) < 1.1
    assert not any(_is_dummy(batch) for rank in built for batch in rank.updates[0])


def test_the_gradient_does_not_depend_on_ranks_or_budget() -> None:
    """A model of one logit per token id stands in for the policy."""
    loss = LossConfig(normalisation="sequence", kl_coef=0.1)
    groups = _random_groups(3)

    def gradient(ranks: int, budget: int) -> torch.Tensor:
        torch.manual_seed(0)
        table = torch.randn(200_000).requires_grad_()
        for rank in _build(groups, loss=loss, ranks=ranks, microbatch_tokens=budget):
            for batch in rank.updates[0]:
                logprobs = torch.nn.functional.logsigmoid(table[torch.from_numpy(batch.token_ids)])
                policy_loss(
                    logprobs=logprobs,
                    old_logprobs=logprobs.detach() - 0.05,
                    generator_logprobs=torch.from_numpy(batch.generator_logprobs),
                    ref_logprobs=logprobs.detach() + 0.1,
                    advantages=torch.from_numpy(batch.advantages),
                    response_mask=torch.from_numpy(batch.response_mask),
                    token_weights=torch.from_numpy(batch.token_weights),
                    config=loss,
                ).loss.backward()
        assert table.grad is not None
        return table.grad

    whole = gradient(1, 10_000)
    assert whole.abs().sum() > 0
    for ranks, budget in [(1, 1), (2, 50), (3, 200)]:
        assert_equal_but_for_rounding(gradient(ranks, budget), whole, 16)
