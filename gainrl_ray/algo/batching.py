"""Graded groups to the micro-batches of every learner rank."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from gainrl_ray.algo.advantages import group_advantages, is_informative
from gainrl_ray.config import LossConfig
from gainrl_ray.types import Completion, GradedGroup, MicroBatch, Prompt, RankBatch

DUMMY_TOKENS = 2
"""Length of a dummy: one token of prefix, one of question."""


@dataclass(frozen=True, slots=True)
class _Row:
    """One sequence of a micro-batch; `completion` None makes a prompt-only row, `slot` -1 a sibling."""

    prompt: Prompt
    completion: Completion | None
    slot: int
    order: tuple[int, int]  # (slot, sample): breaks ties between equal lengths
    advantage: float = 0.0
    token_weight: float = 0.0
    is_idle: bool = False  # it counts in the normalisation, and has no gradient of its own

    @property
    def prompt_tokens(self) -> int:
        # Attention is causal: tokens after the question have no part in its angle.
        return len(self.prompt.token_ids) if self.completion else self.prompt.question.stop

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + (len(self.completion.token_ids) if self.completion else 0)


@dataclass(frozen=True, slots=True)
class _Pack:
    """Rows of one problem that go through the model as one line: their prompt once, then their completions."""

    rows: tuple[_Row, ...]
    tokens: int  # of the line


def build_rank_batches(
    groups: Sequence[GradedGroup],
    *,
    step: int,
    policy_version: int,
    loss: LossConfig,
    ranks: int,
    microbatch_tokens: int,
    updates_per_step: int,
    max_new_tokens: int,
    measure_all: bool,
    pad_id: int,
    pack_tokens: int = 0,
    padded: bool = True,
) -> tuple[RankBatch, ...]:
    """What each rank trains in this step, one RankBatch per rank.

    Groups are split, in order, into `updates_per_step` near-equal optimizer updates (fewer when there are fewer
    groups): those whose rewards differ, or all with loss.uninformative "keep". The others then count in the
    normalisation, and are trained where loss.kl_coef gives them a gradient; an update of idle groups alone is left out.
    With `measure_all` each group that is not trained has a prompt-only row in `measure`. Completions cut at
    max_new_tokens are left out when loss.truncated is "mask", though their rewards stay in their group's mean; so are
    completions of no tokens.

    The token weights of an update, those of idle groups among them, sum to 1 over all ranks (normalisation "token" and
    "sequence"), or to tokens / (sequences * max_new_tokens) ("constant"); they, and the set of sequences, do not depend
    on `ranks`, `microbatch_tokens` or `pack_tokens`. Completions of a problem are packed behind their common prompt as
    long as prompt and completions together are at most `pack_tokens`. A micro-batch has at most `microbatch_tokens`
    tokens, the prompt of a pack counted once and padding included where lines are `padded` to the longest, unless one
    pack alone is longer. Each slot has its angle measured on exactly one row.
    """
    counted = [rows for group in groups if (rows := _counted_rows(group, loss))]
    weighted = [_weighted(rows, loss, max_new_tokens) for rows in _split(counted, updates_per_step)]
    trained = [rows for part in weighted if (rows := [row for row in part if not row.is_idle])]
    updates = [_schedule(_packs(rows, pack_tokens), ranks, microbatch_tokens, padded) for rows in trained]
    left_out = _packs(_left_out(groups, trained) if measure_all else [], 0)
    measured = _schedule(left_out, ranks, microbatch_tokens, padded)
    return tuple(
        RankBatch(
            step=step,
            policy_version=policy_version,
            updates=tuple(tuple(_micro_batch(packs, pad_id) for packs in update[rank]) for update in updates),
            measure=tuple(_micro_batch(packs, pad_id) for packs in measured[rank]),
        )
        for rank in range(ranks)
    )


def probe_batch(token_ids: Sequence[int]) -> MicroBatch:
    """One sequence whose every token but the first counts as response."""
    shape = (1, len(token_ids))
    mask = np.ones(shape, dtype=bool)
    mask[0, 0] = False
    return MicroBatch(
        token_ids=np.asarray([token_ids], dtype=np.int64),
        lengths=np.asarray([len(token_ids)], dtype=np.int64),
        response_mask=mask,
        token_weights=np.zeros(shape, dtype=np.float32),
        advantages=np.zeros(1, dtype=np.float32),
        generator_logprobs=np.zeros(shape, dtype=np.float32),
        prefix_stop=np.asarray([0], dtype=np.int64),
        question_stop=np.asarray([1], dtype=np.int64),
        slots=np.asarray([-1], dtype=np.int64),
        packs=np.asarray([0], dtype=np.int64),
    )


def _counted_rows(graded: GradedGroup, loss: LossConfig) -> list[_Row]:
    """The rows of a group that count in an update, the first of them carrying the slot."""
    has_signal = is_informative(graded.rewards)
    if not has_signal and loss.uninformative == "leave_out":
        return []
    group = graded.group
    advantages = group_advantages(graded.rewards, loss.advantage_std)
    kept = [
        sample
        for sample, completion in enumerate(group.completions)
        if completion.token_ids and not (loss.truncated == "mask" and completion.finish_reason == "length")
    ]
    return [
        _Row(
            prompt=group.prompt,
            completion=group.completions[sample],
            slot=group.slot if sample == kept[0] else -1,
            order=(group.slot, sample),
            advantage=float(advantages[sample]),
            is_idle=not has_signal and not loss.kl_coef,
        )
        for sample in kept
    ]


def _left_out(groups: Sequence[GradedGroup], trained: list[list[_Row]]) -> list[_Row]:
    """A prompt-only row of every group of which nothing is trained; trained: the rows of each update."""
    slots = {row.slot for rows in trained for row in rows}
    return [
        _Row(prompt=graded.group.prompt, completion=None, slot=graded.group.slot, order=(graded.group.slot, 0))
        for graded in groups
        if graded.group.slot not in slots
    ]


def _split(counted: list[list[_Row]], parts: int) -> list[list[_Row]]:
    """The rows of each optimizer update: whole groups, in order; as many parts as asked for, or one per group."""
    parts = min(parts, len(counted))
    bounds = [len(counted) * part // parts for part in range(parts + 1)] if parts else []
    return [[row for rows in counted[a:b] for row in rows] for a, b in pairwise(bounds)]


def _weighted(rows: list[_Row], loss: LossConfig, max_new_tokens: int) -> list[_Row]:
    """The rows of one update with the update's normalisation in their token weight."""
    lengths = [row.tokens - row.prompt_tokens for row in rows]
    if loss.normalisation == "token":
        weights = [1.0 / sum(lengths)] * len(rows)
    elif loss.normalisation == "sequence":
        weights = [1.0 / (length * len(rows)) for length in lengths]
    else:
        weights = [1.0 / (max_new_tokens * len(rows))] * len(rows)
    return [replace(row, token_weight=weight) for row, weight in zip(rows, weights, strict=True)]


def _packs(rows: list[_Row], pack_tokens: int) -> list[_Pack]:
    """The rows of each problem, by falling length, in packs of at most `pack_tokens`; a longer row goes alone."""
    packs: list[_Pack] = []
    for row in sorted(rows, key=lambda row: (row.order[0], -row.tokens, row.order)):
        last = packs[-1] if packs else None
        added = row.tokens - row.prompt_tokens
        if last and last.rows[0].order[0] == row.order[0] and last.tokens + added <= pack_tokens:
            packs[-1] = _Pack(rows=(*last.rows, row), tokens=last.tokens + added)
        else:
            packs.append(_Pack(rows=(row,), tokens=row.tokens))
    return packs


def _schedule(packs: list[_Pack], ranks: int, microbatch_tokens: int, padded: bool) -> list[list[list[_Pack]]]:
    """Packs of each micro-batch of each rank, [rank][micro-batch][pack]; an empty micro-batch stands for a dummy.

    Packs are dealt by falling length, there and back, so that ranks have alike work, then joined in that order.
    """
    ordered = sorted(packs, key=lambda pack: (-pack.tokens, pack.rows[0].order))
    dealt: list[list[_Pack]] = [[] for _ in range(ranks)]
    for position, pack in enumerate(ordered):
        lap, place = divmod(position, ranks)
        dealt[place if lap % 2 == 0 else ranks - 1 - place].append(pack)
    joined = [_joined(share, microbatch_tokens, padded) for share in dealt]
    count = max(map(len, joined))
    return [batches + [[]] * (count - len(batches)) for batches in joined]


def _joined(packs: list[_Pack], microbatch_tokens: int, padded: bool) -> list[list[_Pack]]:
    """Packs by falling length, cut into micro-batches that each fit the budget; their first pack is their longest."""
    batches: list[list[_Pack]] = []
    for pack in packs:
        joined = [*batches[-1], pack] if batches else [pack]
        tokens = len(joined) * joined[0].tokens if padded else sum(each.tokens for each in joined)
        if batches and tokens <= microbatch_tokens:
            batches[-1].append(pack)
        else:
            batches.append([pack])
    return batches


def _micro_batch(packs: list[_Pack], pad_id: int) -> MicroBatch:
    """The rows right-padded to the longest; a dummy without weight for no packs."""
    rows = [row for pack in packs for row in pack.rows]
    width = max((row.tokens for row in rows), default=0)
    shape = (len(rows), width) if rows else (1, DUMMY_TOKENS)
    token_ids = np.full(shape, pad_id, dtype=np.int64)
    mask = np.zeros(shape, dtype=bool)
    weights, logprobs = np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.float32)
    for place, row in enumerate(rows):
        start, stop = row.prompt_tokens, row.tokens
        token_ids[place, :start] = row.prompt.token_ids[:start]
        if row.completion:
            token_ids[place, start:stop] = row.completion.token_ids
            logprobs[place, start:stop] = row.completion.logprobs
            weights[place, start:stop] = row.token_weight
            mask[place, start:stop] = True
    return MicroBatch(
        token_ids=token_ids,
        lengths=_int64([row.tokens for row in rows] or [DUMMY_TOKENS]),
        response_mask=mask,
        token_weights=weights,
        advantages=np.asarray([row.advantage for row in rows] or [0.0], dtype=np.float32),
        generator_logprobs=logprobs,
        prefix_stop=_int64([row.prompt.question.start for row in rows] or [DUMMY_TOKENS - 1]),
        question_stop=_int64([row.prompt.question.stop for row in rows] or [DUMMY_TOKENS]),
        slots=_int64([row.slot for row in rows] or [-1]),
        packs=_int64([number for number, pack in enumerate(packs) for _ in pack.rows] or [0]),
    )


def _int64(values: list[int]) -> np.ndarray:
    return np.asarray(values, dtype=np.int64)
