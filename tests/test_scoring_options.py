from pathlib import Path

import pytest

from gainrl_ray.errors import ConfigError
from gainrl_ray.scoring_options import parse

PRESETS = Path(__file__).parents[1] / "jobs" / "configs"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], (True, (), False)),
        (["--diagnose"], (False, (), True)),
        (["--signal=embedding,pass_rate"], (False, ("pass_rate", "embedding"), False)),
        (["--signal", "angle, gold_likelihood", "--diagnose"], (True, ("gold_likelihood",), True)),
    ],
)
def test_what_is_asked(arguments, expected):
    options, config = parse([*arguments, "--signals.samples=3", "--config", "demo"], presets=PRESETS, base=Path.cwd())
    assert (options.angle, options.signals, options.diagnose) == expected
    assert config.signals.samples == 3


def test_an_unknown_signal_is_refused_with_those_there_are():
    with pytest.raises(ConfigError, match=r"received 'gold_like'; did you mean gold_likelihood\?; accepted: angle"):
        parse(["--signal=gold_like"], presets=PRESETS, base=Path.cwd())
    with pytest.raises(ConfigError, match=r"--signal: expected one argument; accepted: --signal=NAME"):
        parse(["--signal"], presets=PRESETS, base=Path.cwd())


def test_a_local_warm_model_starts_at_the_base_folder(tmp_path):
    (tmp_path / "warm").mkdir()
    _, config = parse(["--signals.warm_model=warm"], presets=PRESETS, base=tmp_path)
    assert config.signals.warm_model == str(tmp_path / "warm")
