"""Both sides of the step benchmark do the same work."""

from pathlib import Path

from gainrl_ray.benchmarks.stepping import StepCost, StepWork, counted, our_arguments, prompts_by_text
from gainrl_ray.benchmarks.trl_peer import spread
from gainrl_ray.cli import load_config
from gainrl_ray.config import ModelConfig
from gainrl_ray.model.loading import check_model
from gainrl_ray.rewards.runner import RewardRunner

PRESETS = Path(__file__).parents[2] / "jobs" / "configs"


def test_our_run_has_the_work_that_is_asked(tmp_path: Path) -> None:
    work = StepWork(problems=5, group_size=3, max_new_tokens=17, threads=1, steps=4)
    config = load_config(our_arguments(work, "arithmetic", tmp_path), presets=PRESETS)
    rollout = config.rollout
    assert (rollout.problems_per_step, rollout.group_size, rollout.max_new_tokens) == (5, 3, 17)
    assert (rollout.threads_per_engine, config.learner.threads_per_worker, config.run.steps) == (1, 1, 4)
    assert config.loss.kl_coef == 0.0 and config.learner.updates_per_step == 1  # as the peer's settings


def test_the_peer_reads_our_prompts_as_the_same_tokens(tmp_path: Path) -> None:
    prompts = prompts_by_text(StepWork(), "arithmetic", tmp_path)
    tokenizer = check_model(ModelConfig(path="tiny"))
    assert len(prompts) > 1900
    assert all(tuple(tokenizer(text)["input_ids"]) == ids for text, ids in prompts.items())


def test_rewards_are_spread_and_ours_to_use(tmp_path: Path) -> None:
    arguments = our_arguments(StepWork(), "arithmetic", tmp_path)
    runner = RewardRunner(load_config(arguments, presets=PRESETS).reward)
    try:
        texts = [f"the answer is {number}" for number in range(50)]
        rewards = [grade.reward for grade in runner.grade([(text, "1") for text in texts])]
    finally:
        runner.close()
    assert rewards == [spread(text) for text in texts]
    assert len(set(rewards)) > 40 and all(0 <= reward < 1 for reward in rewards)


def test_warm_up_and_evaluation_are_not_counted() -> None:
    records = [{"step": 0, "eval/accuracy": 0.1}] + [
        {"step": step, "seconds/total": 10.0 + step, "seconds/evaluate": 4.0, "trained_tokens": 100 * step}
        for step in (1, 2, 3, 4)
    ]
    assert counted(records) == [StepCost(9.0, 300), StepCost(10.0, 400)]
