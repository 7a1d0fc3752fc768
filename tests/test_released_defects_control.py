"""The released GAIN-RL code's defects in data, controller, sampler and loop, by their number in the defect list.

One test per defect that fails when it is repeated; the signal's defects are in `test_released_defects.py`. More of
21 is in tests/curricula/test_gain.py (10,000 steps), of 23 and 24 in tests/curricula/test_registry.py (every
strategy resumes) and tests/actors/test_pipeline.py (the loop does, to its last step), of 28 in
tests/rewards/test_reward_math.py.
"""

import ast
import json
from math import nan
from pathlib import Path

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from gainrl_ray.algo.advantages import group_advantages
from gainrl_ray.algo.windows import draw_window
from gainrl_ray.config import Config, OptimizerConfig, SourceConfig
from gainrl_ray.config_curricula import CurriculumConfig, GainConfig
from gainrl_ray.curricula.gain import GainStrategy
from gainrl_ray.curricula.registry import build_strategy
from gainrl_ray.errors import DataError, IndexMismatchError
from gainrl_ray.types import Grade, GradedGroup, Outcome, Problem, Prompt, RolloutGroup, SlotOutcome, Span, StepOutcome

ROOT = Path(__file__).parents[1]
NAMES = ("gain", "length", "uniform", "sequential")


def _gain(size: int = 7473, **settings) -> GainStrategy:
    return GainStrategy(GainConfig(**settings), np.arange(size), seed=0)


def _observe(strategy: GainStrategy, accuracy: float, angle: float = 0.4) -> float:
    """Ranks that mu moved."""
    before = strategy.metrics()["mu"]
    slot = SlotOutcome(slot=0, row=0, completions=8, accuracy=accuracy, angle=angle)
    strategy.observe(StepOutcome(step=0, slots=(slot,)))
    return strategy.metrics()["mu"] - before


def _group(grades: list[Grade]) -> GradedGroup:
    problem = Problem(id="a", question="q", answer="1", source="test")
    prompt = Prompt(problem_id="a", token_ids=(1, 2), prefix=Span(0, 1), question=Span(1, 2), suffix=Span(2, 2))
    group = RolloutGroup(slot=0, row=0, problem=problem, prompt=prompt, completions=(), policy_version=0)
    return GradedGroup(group=group, grades=tuple(grades))


def test_09_an_order_is_checked_against_the_data_it_is_used_on() -> None:
    from dataclasses import replace

    from gainrl_ray.data.orders import check_order
    from gainrl_ray.data.scored_index import Fingerprint, ScoredIndex

    fingerprint = Fingerprint(
        model_digest="m", tokenizer_digest="t", template_digest="c", dataset_digest="d", signal_version="s"
    )
    index = ScoredIndex(
        rows=np.arange(3),
        problem_ids=["a", "b", "c"],
        c_intra=np.array([0.1, 0.2, 0.3]),
        c_inter=np.zeros(3),
        prompt_tokens=np.full(3, 9),
        question_tokens=np.full(3, 5),
        fingerprint=fingerprint,
    )
    index.manifest.check(fingerprint, 3)
    with pytest.raises(IndexMismatchError, match="4"):
        index.manifest.check(fingerprint, 4)
    with pytest.raises(IndexMismatchError, match="dataset"):
        index.manifest.check(replace(fingerprint, dataset_digest="e"), 3)
    for order in ([0, 1, 7474], [0, 0, 1]):
        with pytest.raises(DataError):
            check_order(np.array(order), 3, "an order")


def test_10_one_place_writes_prompts() -> None:
    # Scoring, training and evaluation get theirs from data/chat_template.py, since nothing else applies the template.
    writers = {
        path.relative_to(ROOT / "gainrl_ray").as_posix()
        for path in (ROOT / "gainrl_ray").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr == "apply_chat_template"
    }
    assert writers == {"data/chat_template.py"}


def test_11_rows_without_an_answer_are_not_trained_on(tmp_path: Path) -> None:
    from gainrl_ray.config import ModelConfig, PromptConfig
    from gainrl_ray.data.problems import prepare_problems
    from gainrl_ray.data.prompts import PromptBuilder
    from gainrl_ray.model.loading import load_tokenizer
    from gainrl_ray.storage import Storage

    rows = [{"problem": "1+1?", "answer": "2"}, {"problem": "2+2?", "answer": " "}, {"problem": "3+3?", "answer": None}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    builder = PromptBuilder(load_tokenizer(ModelConfig()), PromptConfig())
    source, storage = SourceConfig(path=str(path)), Storage(str(tmp_path / "store"))
    with pytest.raises(DataError, match=r"rows\.jsonl"):
        prepare_problems(source, prompts=builder, on_bad_row="error", storage=storage)
    table = prepare_problems(source, prompts=builder, on_bad_row="skip", storage=storage)
    assert len(table) == 1
    assert table.problem(0).answer == "2"
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(DataError):
        prepare_problems(SourceConfig(path=str(empty)), prompts=builder, on_bad_row="skip", storage=storage)


def test_18_accuracy_does_not_depend_on_the_reward_scale() -> None:
    for scale in (1.0, 2.0, 0.1):
        grades = [Grade(outcome=Outcome.CORRECT, reward=scale)] * 3 + [Grade(outcome=Outcome.WRONG, reward=-scale)]
        assert _group(grades).accuracy == 0.75
    strategy = _gain(mu_start=3000.0, angle_sensitivity=0.0)
    assert _observe(strategy, 0.75) > 0 > _observe(strategy, 0.25)


def test_19_the_next_window_is_drawn_around_the_new_mean() -> None:
    strategy = _gain(sigma=10.0, mu_step_scale=4000.0)
    assert strategy.select(0, 8).max() < 100
    moved = _observe(strategy, 1.0)
    assert moved > 1000
    assert abs(strategy.select(1, 8).mean() - moved) < 20


def test_20_each_term_has_its_own_sensitivity() -> None:
    moves = [_observe(_gain(mu_start=3000.0, angle_sensitivity=slope), 0.5) for slope in (0.1, 0.5)]
    assert moves[0] != pytest.approx(moves[1], rel=0.5)
    moves = [_observe(_gain(mu_start=3000.0, accuracy_sensitivity=slope), 0.9, angle=0.0) for slope in (0.5, 2.0)]
    assert moves[0] != pytest.approx(moves[1], rel=0.5)


@pytest.mark.parametrize("count", [256, 1024])
def test_21_mu_is_bounded_and_far_weights_do_not_underflow(count: int) -> None:
    strategy = _gain()
    for _ in range(200):
        _observe(strategy, 1.0)
    assert strategy.metrics()["mu"] == 7472
    assert len(set(strategy.select(200, count).tolist())) == count
    # The released sampler raises here.
    ranks = draw_window(np.random.default_rng(0), mu=46_000.0, sigma=1000.0, size=7473, count=count)
    assert len(set(ranks.tolist())) == count


def test_22_widths_and_steps_can_be_shares_of_the_dataset() -> None:
    moves = {size: _observe(_gain(size, mu_start=0.5, mu_step_scale=0.1, sigma=0.1), 0.8) for size in (1000, 40_000)}
    assert moves[40_000] == pytest.approx(40 * moves[1000])
    spreads = {size: np.std(_gain(size, mu_start=0.5, sigma=0.1).select(0, 200)) for size in (1000, 40_000)}
    assert spreads[40_000] == pytest.approx(40 * spreads[1000], rel=0.2)


def test_23_the_controller_is_in_the_checkpoint(tmp_path: Path) -> None:
    from gainrl_ray.checkpoint import RunState

    strategy = _gain()
    for accuracy in (0.9, 0.4, 1.0):
        _observe(strategy, accuracy)
    RunState(step=3, attempt=1, curriculum=strategy.state_dict(), group_policy={}, windows=()).save(tmp_path)
    np.random.seed(1)
    resumed = _gain()
    resumed.load_state_dict(RunState.load(tmp_path).curriculum or {})
    assert resumed.metrics() == strategy.metrics()
    expected = strategy.select(3, 64)
    np.random.seed(2)
    assert np.array_equal(resumed.select(3, 64), expected)


@pytest.mark.parametrize("name", NAMES)
def test_24_every_curriculum_knows_where_it_is(name: str) -> None:
    config = TypeAdapter(CurriculumConfig).validate_python({"name": name})
    strategy, resumed = (build_strategy(config, order=np.arange(50), seed=0) for _ in range(2))
    strategy.observe(StepOutcome(step=0, slots=(SlotOutcome(slot=0, row=0, completions=8, accuracy=0.7, angle=nan),)))
    resumed.load_state_dict(json.loads(json.dumps(strategy.state_dict())))
    assert np.array_equal(resumed.select(1, 20), strategy.select(1, 20))


def test_25_the_schedule_ends_with_the_run() -> None:
    from gainrl_ray.actors.deepspeed_config import learning_rate
    from gainrl_ray.checkpoint import RunState, commit_due

    config = OptimizerConfig(lr=1.0, schedule="linear")
    rates = [learning_rate(update, config, 200) for update in range(200)]
    assert rates[0] == 1.0
    assert rates[199] == 0.0
    assert rates[100] == pytest.approx(0.5, abs=0.01)
    settings = Config.model_validate({"run": {"steps": 201}, "checkpoint": {"every": 50}})
    assert commit_due(RunState(step=201, attempt=1, curriculum={}, group_policy={}, windows=()), settings)


def test_26_accuracy_counts_answers_and_not_shaped_rewards() -> None:
    grades = [Grade(outcome=Outcome.CORRECT, reward=-0.3), Grade(outcome=Outcome.WRONG, reward=0.2)]
    assert _group(grades).accuracy == 0.5


@pytest.mark.parametrize(
    "values",
    [
        {"run": {"allow_changed": "Ture"}},
        {"curriculum": {"name": "gian"}},
        {"curriculum": {"name": "gain", "form": "enable"}},
        {"curriculum": {"name": "gain", "sigam": 10}},
        {"enable": True},
    ],
)
def test_27_configuration_is_checked(values: dict) -> None:
    with pytest.raises(ValidationError):
        Config.model_validate(values)


def test_28_whole_groups_are_compared_and_nothing_is_not_an_answer() -> None:
    from gainrl_ray.rewards.math import grade_math

    # Eight rewards whose two halves of four are each without spread: together they have one.
    advantages = group_advantages([1.0] * 4 + [0.0] * 4, divide_by_std=False)
    assert advantages.tolist() == [0.5] * 4 + [-0.5] * 4
    assert grade_math("I do not know.", "4") is not Outcome.CORRECT
    assert grade_math("I do not know.", "") is not Outcome.CORRECT
