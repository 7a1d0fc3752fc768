"""Drawn lengths, and the work of ranks against the batches that are really built."""

import numpy as np
import pytest

from gainrl_ray.algo.batching import build_rank_batches
from gainrl_ray.config import Config
from gainrl_ray.planning.workload import Lengths, Window, draw_window, rank_work
from gainrl_ray.types import Completion, Grade, GradedGroup, MicroBatch, Outcome, Problem, Prompt, RolloutGroup, Span

ASSUMED = Lengths(prompt=40, shared=0, informative=0.5, mean=60, spread=0.8)


def config(**sections: dict) -> Config:
    return Config.model_validate({"rollout": {"problems_per_step": 12, "group_size": 4}} | sections)


def graded(slot: int, lengths: list[int], prompt_tokens: int, trained: bool) -> GradedGroup:
    spans = {"prefix": Span(0, 1), "question": Span(1, prompt_tokens), "suffix": Span(prompt_tokens, prompt_tokens)}
    prompt = Prompt(problem_id=str(slot), token_ids=tuple(range(1, prompt_tokens + 1)), **spans)
    completions = tuple(
        Completion(token_ids=(1,) * count, logprobs=(0.0,) * count, finish_reason="stop", text="") for count in lengths
    )
    grades = tuple(
        Grade(outcome=Outcome.CORRECT, reward=float(number % 2 if trained else 1)) for number in range(len(lengths))
    )
    problem = Problem(id=str(slot), question="", answer="", source="")
    group = RolloutGroup(slot=slot, row=slot, problem=problem, prompt=prompt, completions=completions, policy_version=0)
    return GradedGroup(group=group, grades=grades)


def lines(batch: MicroBatch) -> int:
    """Padded tokens through the model when rows of a pack are one line."""
    prompts = batch.lengths - batch.response_mask.sum(axis=1)
    widths = [
        int(prompts[batch.packs == pack][0] + (batch.lengths - prompts)[batch.packs == pack].sum())
        for pack in np.unique(batch.packs)
    ]
    return len(widths) * max(widths)


@pytest.mark.parametrize(("ranks", "updates", "pack"), [(1, 1, 0), (1, 1, 300), (3, 2, 200), (2, 3, 0)])
def test_the_work_is_that_of_the_batches_that_are_built(ranks: int, updates: int, pack: int) -> None:
    settings = config(learner={"updates_per_step": updates, "pack_tokens": pack, "microbatch_tokens": 700})
    window = draw_window(ASSUMED, settings, 3)
    groups = [
        graded(slot, lengths, window.prompt, bool(trained))
        for slot, (lengths, trained) in enumerate(zip(window.completions.tolist(), window.trained, strict=True))
    ]
    batches = build_rank_batches(
        groups,
        step=3,
        policy_version=0,
        loss=settings.loss,
        ranks=ranks,
        microbatch_tokens=700,
        updates_per_step=updates,
        max_new_tokens=512,
        measure_all=True,
        pad_id=0,
        pack_tokens=pack,
    )
    work = rank_work(window, settings, ranks=ranks, packs=True, measures=True)
    assert work.updates == updates
    assert work.passes == sum(len(update) for update in batches[0].updates)
    heaviest = sum(
        max(sum(lines(batch) for batch in rank.updates[part] if batch.token_weights.any()) for rank in batches)
        for part in range(updates)
    )
    assert work.lines == heaviest
    response = sum(int(batch.response_mask.sum()) for rank in batches for update in rank.updates for batch in update)
    assert work.head == pytest.approx(response / ranks)


def test_draws_are_equal_for_equal_seeds_and_within_limits() -> None:
    first, again, other = (draw_window(ASSUMED, config(run={"seed": seed}), 5) for seed in (1, 1, 2))
    assert (first.completions == again.completions).all()
    assert (first.completions != other.completions).any()
    assert first.completions.shape == (12, 4)
    assert first.completions.min() >= 1
    assert first.completions.max() <= 512
    assert first.trained.sum() == 6


def test_drawn_lengths_have_the_mean_and_spread_asked_for() -> None:
    lengths = ASSUMED.draw(4000, 8, 10**6, np.random.default_rng(0))
    assert lengths.mean() == pytest.approx(60, rel=0.03)
    assert lengths.std() / lengths.mean() == pytest.approx(0.8, rel=0.1)
    alike = Lengths(prompt=1, shared=0, informative=1, mean=7, spread=0)
    assert (alike.draw(3, 2, 100, np.random.default_rng(0)) == 7).all()


def test_measured_groups_are_drawn_whole() -> None:
    lengths = Lengths(prompt=1, shared=0, informative=1, mean=0, spread=0, groups=((1, 2), (50, 60)))
    drawn = lengths.draw(200, 4, 55, np.random.default_rng(0))
    assert all(set(group) <= {1, 2} or set(group) <= {50, 55} for group in drawn.tolist())


def test_a_window_counts_its_tokens() -> None:
    assert Window(3, np.asarray([[1, 2], [3, 4]]), np.asarray([True, False])).tokens == 10


@pytest.mark.parametrize(
    ("loss", "trained"),
    [({}, 6), ({"uninformative": "keep"}, 6), ({"kl_coef": 0.1}, 6), ({"uninformative": "keep", "kl_coef": 0.1}, 12)],
)
def test_groups_that_are_kept_for_their_kl_term_are_work(loss: dict, trained: int) -> None:
    assert draw_window(ASSUMED, config(loss=loss), 0).trained.sum() == trained
