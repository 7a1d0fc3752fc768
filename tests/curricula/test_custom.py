"""A user's own strategy by import path: the example of the manual, and everything that may be wrong with one."""

from pathlib import Path

import numpy as np
import pytest
import strategy_example
from every_strategy import build, config, outcome
from pydantic import ValidationError

from gainrl_ray.cli import load_config
from gainrl_ray.config_curricula import CustomConfig
from gainrl_ray.curricula.registry import strategy_class
from gainrl_ray.errors import ConfigError

MODULE = """
from gainrl_ray.curricula.base import FixedStrategy, Strategy
class Half(Strategy):
    name, signal = "half", "none"
    def metrics(self): return {}
class Nameless(FixedStrategy):
    def _draw(self, *_): ...
    def _ranks(self, *_): ...
class Sideways(Nameless):
    name, signal = "sideways", "sideway"
class Greedy(Nameless):
    name, needs = "greedy", ("colour",)
class Optional(Nameless):
    name, options = "optional", {"a": 1}
class Outer:
    class Inner(Nameless):
        name = "inner"
def function(): ...
"""


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the job was started from, with a module `mine` in it."""
    monkeypatch.setenv("GAINRL_CALLER_DIR", str(tmp_path))
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    monkeypatch.delitem(__import__("sys").modules, "mine", raising=False)
    (tmp_path / "mine.py").write_text(MODULE)
    (tmp_path / "broken_mine.py").write_text("raise SystemExit(3)")
    return tmp_path


def test_the_example_repeats_what_was_partly_solved() -> None:
    strategy = build("custom", size=100)  # a quarter of each window
    rows = strategy.select(0, 16)
    strategy.observe(outcome(0, rows, np.arange(16) % 3 / 2))
    again = strategy.select(1, 16)
    assert again[:4].tolist() == rows[1::3][:4].tolist()
    assert strategy.metrics() == {"partly_solved": 5}
    assert len(Path(strategy_example.__file__).read_text().splitlines()) <= 40


def test_it_is_chosen_on_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "demo.yaml").write_text("curriculum: {name: gain, sigma: 0.15}")
    argv = ["--curriculum.name=custom", "--curriculum.strategy=strategy_example:RetryStrategy"]
    for options in (["--curriculum.options={retried: 0.3}"], ["--curriculum.options.retried=0.3"]):
        chosen = load_config([*argv, *options], presets=tmp_path).curriculum
        assert chosen == CustomConfig(strategy="strategy_example:RetryStrategy", options={"retried": 0.3})
    with pytest.raises(ConfigError, match=r"curriculum\.strategy: received ''; accepted: module:Class"):
        load_config(argv[:1], presets=tmp_path)


def test_modules_are_found_beside_the_job(beside: Path) -> None:
    kind = strategy_class(config("custom", strategy="mine:Outer.Inner", options={}))
    assert (kind.name, kind.signal, kind.__module__) == ("inner", "none", "mine")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_such_module:Half", "cannot be imported: ModuleNotFoundError"),
        ("mine:Whole", "cannot be imported: AttributeError: .*Whole"),
        ("broken_mine:Half", "cannot be imported: SystemExit: 3"),
        ("mine:function", "is <function function .*, no subclass of Strategy"),
        ("strategy_example:RetryOptions", "no subclass of Strategy"),
        ("mine:Half", "lacks the methods _draw, _restore, _state, observe"),
        ("mine:Nameless", "has the name None"),
        ("mine:Sideways", "has the signal 'sideway', expected one of none, angle"),
        ("mine:Greedy", r"needs the columns \('colour',\), there are difficulty, embedding"),
        ("mine:Optional", "has the options .*, expected a subclass of gainrl_ray.config_node.Node"),
    ],
)
def test_what_cannot_be_used_is_named(beside: Path, path: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"(?s)curriculum\.strategy: .*{path}.* {message}.*accepted"):
        strategy_class(config("custom", strategy=path))


@pytest.mark.parametrize("path", ["", "mine", "mine:", ":Half", "mine.Half"])
def test_what_is_no_path_is_named(path: str) -> None:
    with pytest.raises(ValidationError, match="accepted: module:Class"):
        config("custom", strategy=path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"retried": 2}, r"curriculum\.options\.retried: received 2: .*less than or equal to 1"),
        (
            {"retired": 0.5},
            r"curriculum\.options\.retired: received 0\.5: .*\n.*keys of curriculum\.options are: retried",
        ),
    ],
)
def test_options_are_checked(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build("custom", options=options)


def test_a_strategy_without_options_takes_none(beside: Path) -> None:
    with pytest.raises(ConfigError, match=r"options\.a: received 1.*\n.*options are: none"):
        build("custom", strategy="mine:Outer.Inner", options={"a": 1})
