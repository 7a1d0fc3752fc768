"""Grids from files and options: what they resolve to, what is refused, and how."""

from pathlib import Path

import pytest

from gainrl_ray.comparing.command import Comparison, parse
from gainrl_ray.comparing.grid import arms_text, changes, read_arms
from gainrl_ray.errors import ConfigError

PRESETS = Path(__file__).parents[2] / "jobs" / "configs"


@pytest.fixture
def ask(tmp_path: Path):
    """A comparison from options, and a grid file's text where there is one."""

    def parsed(*options: str, grid: str | None = None) -> Comparison:
        if grid is not None:
            (tmp_path / "grid.yaml").write_text(grid)
            options = ("--grid", "grid.yaml", *options)
        return parse(["--name", "c", *options], presets=PRESETS, folder=tmp_path)

    return parsed


GRID = """
seeds: [4, 2]
target_accuracy: 0.5
arms:
  - {name: wide, overrides: {curriculum: {name: gain, sigma: 0.5}}}
  - {name: narrow, overrides: {curriculum.name: gain, curriculum.sigma: 0.05, data.train.path: ./own.jsonl}}
  - {name: uniform, overrides: {curriculum: {name: uniform}, loss: {kl_coef: 0.1}}, seeds: 5}
"""


def test_strategies_are_arms_that_differ_in_the_curriculum_alone(ask) -> None:
    asked = ask("--strategies", "gain,uniform", "--seeds", "2", "--run.steps=7", "--parallel", "3")
    cells = asked.grid.cells
    assert [cell.run_name for cell in cells] == ["c.gain.0", "c.uniform.0", "c.gain.1", "c.uniform.1"]
    assert asked.parallel == 3 and asked.grid.target_accuracy is None
    for cell in cells:
        run = asked.base.run.model_copy(update={"name": cell.run_name, "seed": cell.seed})
        expected = asked.base.model_copy(update={"run": run, "curriculum": cell.config.curriculum})
        assert cell.config == expected and cell.config.run.steps == 7 and cell.config.curriculum.name == cell.arm


def test_a_grid_file_names_arms_with_any_settings_and_their_own_seeds(ask, tmp_path: Path) -> None:
    grid = ask(grid=GRID).grid
    assert grid.target_accuracy == 0.5
    assert {arm.name: arm.seeds for arm in grid.arms} == {
        "wide": (4, 2),
        "narrow": (4, 2),
        "uniform": (0, 1, 2, 3, 4),
    }
    wide, narrow, uniform = (arm.config for arm in grid.arms)
    assert (wide.curriculum.sigma, narrow.curriculum.sigma, uniform.loss.kl_coef) == (0.5, 0.05, 0.1)
    assert narrow.data.train.path == str(tmp_path / "own.jsonl"), "lanes run in another working directory"
    assert [cell.run_name for cell in grid.cells][:2] == ["c.uniform.0", "c.uniform.1"]
    assert ask("--seeds", "3,9", "--target-accuracy", "0.7", grid=GRID).grid.arms[0].seeds == (3, 9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--strategies", "gain,unform"], "curriculum.name: received 'unform' .*did you mean uniform"),
        (["--strategies", "gain", "--seeds", "0"], "seeds: received 0; accepted: a number of seeds from 1"),
        (["--strategies", "gain", "--seeds", "3,3"], r"seeds: received \(3, 3\)"),
        (["--strategies", "gain", "--seeds", "two"], "--seeds two: accepted is a number"),
        (["--strategies", "gain", "--target-accuracy", "1.2"], "target_accuracy: received 1.2; accepted: an accuracy"),
        (["--strategies", "gain", "--target-accuracy", "0"], "target_accuracy: received 0"),
        (["--strategies", "gain,gain"], "two arms are named gain"),
        (["--strategies", "my.module:Mine"], "arm 'my.module:Mine': accepted is a name"),
        (["--strategies", "gain", "--parallel", "0"], "--parallel 0: accepted is a number from 1"),
        (["--strategies", "gain", "--name", "indexes"], "--name: .*received 'indexes'"),
        (["--strategies", "gain", "--grid", "no.yaml"], "--grid no.yaml: there is no such file"),
        (["--strategies", "gain", "--run.steps=0"], "run.steps: received 0"),
        ([], "a comparison needs an arm"),
    ],
)
def test_options_that_cannot_be_used_are_refused(ask, options: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ask(*options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("arms: [{nam: a}]", r"grid.yaml: arms.0.name: Field required(.|\n)*of an arm: name, overrides, seeds"),
        ("arm: []", "grid.yaml: arm: Extra inputs"),
        ("arms: [{name: a, seeds: -1}]", "arms.0.seeds: received -1"),
        ("arms: [{name: a, seeds: []}]", r"arms.0.seeds: received \(\)"),
        ("arms: [{name: a, overrides: {loss: {klcoef: 1}}}]", "loss.klcoef: received 1 .in arm a.*loss.kl_coef"),
    ],
)
def test_a_grid_file_that_cannot_be_used_is_refused(ask, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ask(grid=text)


@pytest.mark.parametrize(
    "overrides",
    [
        "model.path: other",
        "data.heldout.limit: 9",
        "evaluation.every: 3",
        "run.steps: 5",
        "run.seed: 5",
        "rollout.problems_per_step: 5",
        "reward.function: 'a:b'",
    ],
)
def test_an_arm_cannot_change_what_makes_runs_comparable(ask, overrides: str) -> None:
    key = overrides.partition(":")[0]
    with pytest.raises(ConfigError, match=rf"arm a changes what all arms .* in common:\n  {key}: .* -> "):
        ask(grid=f"arms: [{{name: a, overrides: {{{overrides}}}}}]")


def test_arms_read_back_are_unchanged_and_tell_what_changed(ask, tmp_path: Path) -> None:
    grid = ask(grid=GRID).grid
    stored = read_arms(arms_text(grid), "comparison.yaml")
    assert list(stored.values()) == list(grid.arms) and changes(stored, grid) == []
    more = ask("--run.steps=99", grid=GRID.replace("[4, 2]", "[4, 2, 1]") + "  - {name: added}\n").grid
    assert changes(stored, more) == [], "arms, seeds and steps may be added"
    other = ask(grid=GRID.replace("sigma: 0.5}", "sigma: 0.6}").replace("seeds: 5", "seeds: 4")).grid
    assert changes(stored, other) == [
        "arm wide: curriculum.sigma: 0.5 -> 0.6",
        "arm uniform: seeds 4 were there, are missing",
    ]
    assert changes(stored, ask("--strategies", "uniform").grid)[:2] == [
        "arm wide: was there, is missing",
        "arm narrow: was there, is missing",
    ]


@pytest.mark.parametrize("file", sorted((PRESETS.parent / "grids").glob("*.yaml")), ids=lambda file: file.stem)
def test_shipped_grids_load_over_the_preset_that_they_are_for(ask, file: Path) -> None:
    grid = ask("--config", "ladder", "--grid", str(file)).grid
    assert {"uniform", "length", "gain"} <= {arm.name for arm in grid.arms}
    assert all(len(arm.seeds) >= 2 for arm in grid.arms)


def test_published_claims_are_about_the_largest_signal_first_on_all_data(ask) -> None:
    arms = """
arms:
  - {name: gain, overrides: {curriculum: {name: gain}}}
  - {name: smallest-first, overrides: {curriculum: {name: gain}, scoring: {descending: false}}}
  - {name: length, overrides: {curriculum: {name: length}}}
"""
    asked = ask("--half-data", grid=arms).grid.arms
    assert [arm.name for arm in asked if arm.is_gain_rl] == ["gain"] and len(asked) == 6
