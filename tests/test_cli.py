"""The command line: layers, override values, errors with a remedy, and the help page."""

import subprocess
import sys
from pathlib import Path

import pytest

from gainrl_ray.cli import config_from_yaml, diff_configs, load_config, parse_arguments, preset_name, to_yaml
from gainrl_ray.config import Config
from gainrl_ray.config_curricula import GainConfig, LengthConfig, UniformConfig
from gainrl_ray.config_fields import all_fields
from gainrl_ray.errors import ConfigError


@pytest.fixture
def presets(tmp_path: Path) -> Path:
    folder = tmp_path / "presets"
    (folder / "loss").mkdir(parents=True)
    (folder / "demo.yaml").write_text(
        "run: {steps: 20}\nmodel:\n  dtype: float32\ncurriculum: {name: gain, sigma: 0.15}\n"
    )
    (folder / "big.yaml").write_text("run: {steps: 200, storage: s3://bucket/runs}\noptimizer: {lr: 1e-6}\nrollout:\n")
    (folder / "loss" / "gspo.yaml").write_text("loss: {clip_low: 3e-4, ratio: sequence}\n")
    return folder


def _error(argv: list[str], presets: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(argv, presets=presets)
    return str(caught.value)


def test_the_default_preset_is_demo(presets: Path) -> None:
    config = load_config([], presets=presets)
    assert (config.run.steps, config.model.dtype, preset_name([])) == (20, "float32", "demo")


def test_a_template_s_file_becomes_its_text(presets: Path, tmp_path: Path) -> None:
    text = "{% for m in messages %}{{ m.content }}\n{% endfor %}: é"
    (tmp_path / "own.jinja").write_text(text, encoding="utf-8")
    config = load_config(["--data.prompt.template=own.jinja"], presets=presets, base=tmp_path)
    assert config.data.prompt.template == text
    assert config_from_yaml(to_yaml(config), origin="stored") == config
    again = load_config([f"--data.prompt.template={text}"], presets=presets, base=tmp_path)
    assert again == config, "what is a template already stays as it is"
    assert load_config(["--data.prompt.template=plain"], presets=presets).data.prompt.template == "plain"
    with pytest.raises(
        ConfigError, match=r"received 'no\.jinja'; accepted: plain, a Jinja file, or null .*No such file"
    ):
        load_config(["--data.prompt.template=no.jinja"], presets=presets, base=tmp_path)


def test_template_arguments_are_a_mapping_of_scalars(presets: Path) -> None:
    key = "data.prompt.template_arguments"
    one = load_config([f"--{key}.enable_thinking=false", f"--{key}.date_string=2025"], presets=presets)
    assert one.data.prompt.template_arguments == {"enable_thinking": False, "date_string": 2025}
    assert load_config([f"--{key}={{enable_thinking: false, date_string: 2025}}"], presets=presets) == one
    assert config_from_yaml(to_yaml(one), origin="stored") == one
    assert "received [1] for a; accepted for each variable: true, false, a number" in _error(
        [f"--{key}.a=[1]"], presets
    )


def test_configs_are_merged_left_to_right_then_overridden(presets: Path) -> None:
    argv = ["--config", "demo", "--config=big", "--config", "loss/gspo", "--run.steps=7", "--loss.clip_high", "4e-4"]
    config = load_config(argv, presets=presets)
    assert (config.run.steps, config.run.storage, config.model.dtype) == (7, "s3://bucket/runs", "float32")
    assert (config.optimizer.lr, config.loss.clip_low, config.loss.clip_high) == (1e-6, 3e-4, 4e-4)
    assert preset_name(argv) == "demo-big-gspo"


def test_a_file_is_found_from_the_base_folder(presets: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("run: {steps: 3}")
    assert load_config(["--config", "mine.yaml"], presets=presets, base=tmp_path).run.steps == 3
    assert load_config(["--config", str(tmp_path / "mine.yaml")], presets=presets).run.steps == 3


def test_relative_paths_start_at_the_base_folder(presets: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "rows.jsonl").touch()
    argv = ["--model.path=model", "--data.train.path=rows.jsonl", "--data.heldout.path=./absent.jsonl"]
    config = load_config([*argv, "--run.storage=out"], presets=presets, base=tmp_path)
    assert config.run.storage == str(tmp_path / "out")
    assert config.model.path == str(tmp_path / "model")
    assert config.data.train.path == str(tmp_path / "rows.jsonl")
    assert config.data.heldout.path == str(tmp_path / "absent.jsonl")
    order = ["--curriculum.name=external", "--curriculum.path=order.json"]
    config = load_config(order, presets=presets, base=tmp_path)
    assert getattr(config.curriculum, "path", "") == str(tmp_path / "order.json")


def test_names_and_uris_are_no_local_paths(presets: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    argv = ["--run.storage=s3://bucket/runs", "--data.train.path=openai/gsm8k"]
    config = load_config(argv, presets=presets, base=tmp_path)
    assert (config.run.storage, config.model.path) == ("s3://bucket/runs", "tiny")
    assert (config.data.train.path, config.data.heldout.path) == ("openai/gsm8k", "arithmetic")


@pytest.mark.parametrize(
    ("argument", "section", "name", "value"),
    [
        ("--optimizer.lr=1e-6", "optimizer", "lr", 1e-6),
        ("--optimizer.lr=.001", "optimizer", "lr", 1e-3),
        ("--optimizer.lr=1", "optimizer", "lr", 1.0),
        ("--optimizer.betas=[0.9, 0.99]", "optimizer", "betas", (0.9, 0.99)),
        ("--loss.importance_cap=null", "loss", "importance_cap", None),
        ("--run.allow_changed", "run", "allow_changed", True),
        ("--run.allow_changed=true", "run", "allow_changed", True),
        ("--run.name=2026", "run", "name", "2026"),
        ("--run.name=null", "run", "name", None),
        ("--model.revision=a: b # c", "model", "revision", "a: b # c"),
        ("--model.revision=1e10", "model", "revision", "1e10"),
        ("--model.path='null'", "model", "path", "null"),
        ("--reward.wrong=-1", "reward", "wrong", -1.0),
        ("--rollout.stop=[</answer>, on]", "rollout", "stop", ("</answer>", "on")),
        ("--learner.deepspeed.a.b=2", "learner", "deepspeed", {"a": {"b": 2}}),
        ("--learner.deepspeed={a: {b: 2}}", "learner", "deepspeed", {"a": {"b": 2}}),
    ],
)
def test_override_values(presets: Path, argument: str, section: str, name: str, value: object) -> None:
    assert getattr(getattr(load_config([argument], presets=presets), section), name) == value


def test_a_value_may_follow_as_its_own_word(presets: Path) -> None:
    config = load_config(["--reward.wrong", "-1", "--run.allow_changed", "--run.steps", "5"], presets=presets)
    assert (config.reward.wrong, config.run.allow_changed, config.run.steps) == (-1.0, True, 5)


def test_the_last_of_two_overrides_counts(presets: Path) -> None:
    assert load_config(["--run.steps=5", "--run.steps=6"], presets=presets).run.steps == 6


def test_overriding_part_of_a_section_keeps_its_other_defaults(presets: Path) -> None:
    heldout = load_config(["--data.heldout.split=test"], presets=presets).data.heldout
    assert (heldout.split, heldout.limit) == ("test", 200)


def test_changing_the_curriculum_leaves_keys_it_lacks_behind(presets: Path) -> None:
    assert load_config(["--curriculum.name=uniform"], presets=presets).curriculum == UniformConfig()
    assert load_config(["--curriculum.name=length"], presets=presets).curriculum == LengthConfig(sigma=0.15)
    both = ["--curriculum.sigma=7", "--curriculum.name=length", "--curriculum.descending"]
    assert load_config(both, presets=presets).curriculum == LengthConfig(sigma=7.0, descending=True)
    assert load_config(["--curriculum.sigma=7"], presets=presets).curriculum == GainConfig(sigma=7.0)


ERRORS = [
    (["--curriculum.sgima=5"], ["curriculum.sgima: received 5 (on the command line)", "mean curriculum.sigma?"]),
    (["--lr=3e-5"], ["lr: received 3e-05", "did you mean optimizer.lr?"]),
    (["--curiculum.sigma=5"], ["curiculum", "did you mean curriculum?"]),
    (["--rollout.max-new-tokens=9"], ["rollout.max-new-tokens", "did you mean rollout.max_new_tokens?"]),
    (["--rollout.qqq=9"], ["rollout.qqq", "the keys here are engines, problems_per_step"]),
    (["--run.stesp"], ["--run.stesp: no value", "did you mean run.steps?"]),
    (["--run.steps"], ["--run.steps: no value", "integer at least 1"]),
    (["--run.steps=ten"], ["run.steps: received 'ten'", "integer at least 1"]),
    (["--run.steps=0"], ["run.steps: received 0", "integer at least 1"]),
    (["--run.steps=2.5"], ["run.steps: received 2.5", "integer at least 1"]),
    (["--run.steps=true"], ["run.steps: received true", "integer at least 1"]),
    (["--run.steps='5'"], ["run.steps: received '5'", "integer at least 1"]),
    (["--run.allow_changed=Ture"], ["run.allow_changed: received 'Ture'", "true | false", "did you mean true?"]),
    (["--optimizer.lr=.inf"], ["optimizer.lr: received inf", "number above 0"]),
    (["--learner.max_kl=.nan"], ["learner.max_kl: received nan", "number above 0 or null"]),
    (["--rollout.top_p=1.5"], ["rollout.top_p: received 1.5", "number above 0 and at most 1"]),
    (["--rollout.group_size=1"], ["rollout.group_size: received 1", "integer at least 2"]),
    (["--model.dtype=bfloat61"], ["model.dtype: received 'bfloat61'", "float32 | bfloat16", "did you mean bfloat16?"]),
    (["--learner.zero_stage=5"], ["learner.zero_stage: received 5", "0 | 1 | 2 | 3"]),
    (["--optimizer.betas=[0.9]"], ["optimizer.betas", "list of 2, each: number at least 0 and at most 1"]),
    (["--optimizer.betas=[0.9, 2]"], ["optimizer.betas.1: received 2 (on the command line)", "at most 1"]),
    (["--rollout.stop=x"], ["rollout.stop: received 'x'", "list, each: text"]),
    (["--rollout.stop=[1]"], ["rollout.stop.0: received 1"]),
    (["--rollout=5"], ["rollout: received 5", "a section with the keys engines"]),
    (["--curriculum=uniform"], ["curriculum: received 'uniform'", "a section with the keys name"]),
    (["--curriculum.name=unifrom"], ["curriculum.name: received 'unifrom'", "gain | length", "mean uniform?"]),
    (["--curriculum.name=5"], ["curriculum.name: received 5", "gain | length"]),
    (["--curriculum.name=uniform", "--curriculum.sigma=5"], ["curriculum.sigma: received 5", "name=gain or length"]),
    (["--learner.zero_stage=1", "--learner.offload_params=cpu"], ["needs learner.zero_stage=3, received 1"]),
    (["--data.train.min_level=9"], ["data.train: min_level 9 is above max_level 6"]),
    (["--data.train.answer_pattern=("], ["data.train.answer_pattern: received '('", "regular expression with a group"]),
    (["--optimizer.lr=[1"], ["--optimizer.lr: received '[1'", "not a YAML value"]),
    (["--config=dmeo"], ["--config dmeo: neither a preset nor a file", "did you mean demo?", "big, demo, loss/gspo"]),
    (["--config"], ["--config: no value"]),
    (["train"], ["received 'train'", "--section.key=value"]),
    (["-x"], ["received '-x'"]),
    (["--help", "rolout"], ["--help rolout", "did you mean rollout?"]),
]  # fmt: skip


@pytest.mark.parametrize(("argv", "parts"), ERRORS, ids=lambda value: " ".join(value)[:40])
def test_errors_name_key_value_and_remedy(presets: Path, argv: list[str], parts: list[str]) -> None:
    message = _error(argv, presets)
    assert [part for part in parts if part not in message] == []
    assert "pydantic" not in message


def test_all_problems_are_told_at_once(presets: Path) -> None:
    message = _error(["--run.steps=0", "--optimizer.lr=-1", "--run.sede=1"], presets)
    assert [line.partition(":")[0] for line in message.splitlines()] == ["run.steps", "run.sede", "optimizer.lr"]


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("run: {stesp: 5}", ["run.stesp: received 5 (in bad.yaml)", "did you mean run.steps?"]),
        ("run:\n  steps: 5\n  steps: 6\n", ["bad.yaml: not valid YAML", "'steps' is repeated", "line 3"]),
        ("run: [1", ["bad.yaml: not valid YAML", "line 1"]),
        ("- run", ["bad.yaml: received [run]; accepted is a mapping"]),
        ("run: {name: 5}", ["run.name: received 5 (in bad.yaml)", "write it in quotes"]),
        ("run: {steps: !!python/name:os.system x}", ["bad.yaml: not valid YAML"]),
        (b"run: {name: \xff}", ["bad.yaml: not UTF-8 text"]),
    ],
)
def test_errors_in_files_name_the_file(presets: Path, content: str | bytes, parts: list[str]) -> None:
    (presets / "bad.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    message = _error(["--config", "bad"], presets)
    assert [part for part in parts if part not in message] == []


def test_the_environment_changes_nothing(presets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = load_config([], presets=presets)
    monkeypatch.setenv("RUN__STEPS", "99")
    monkeypatch.setenv("run", '{"steps": 99}')
    assert load_config([], presets=presets) == before


def test_yaml_comes_back_unchanged(presets: Path) -> None:
    argv = ["--run.name=1e10", "--model.revision=on", "--data.prompt.instruction= <<", "--optimizer.lr=1e-6"]
    for extra in ([], ["--curriculum.name=uniform"], ["--learner.deepspeed={a: [1, null, x]}"]):
        config = load_config([*argv, *extra], presets=presets)
        assert config_from_yaml(to_yaml(config), origin="config.yaml") == config


def test_differences_are_listed_key_by_key(presets: Path) -> None:
    old = load_config([], presets=presets)
    assert diff_configs(old, old) == []
    new = load_config(
        ["--run.steps=21", "--optimizer.betas=[0.9, 0.99]", "--curriculum.name=sequential"], presets=presets
    )
    assert diff_configs(old, new)[:3] == [
        "run.steps: 20 -> 21",
        "curriculum.name: gain -> sequential",
        "curriculum.form: paper -> (absent)",
    ]
    assert "optimizer.betas: [0.9, 0.999] -> [0.9, 0.99]" in diff_configs(old, new)
    assert diff_configs(Config(), load_config(["--learner.deepspeed.a=1"], presets=presets))[-1] == (
        "learner.deepspeed.a: (absent) -> 1"
    )


def test_help_prints_every_field_with_meaning_and_default(presets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        load_config(["--help"], presets=presets)
    page = capsys.readouterr().out
    assert caught.value.code == 0
    for field in all_fields():
        assert f"--{field.key}=" in page
    assert max(len(line) for line in page.splitlines()) <= 100
    lines = page.splitlines()
    steps = lines.index("  --run.steps=30   in demo: 20")
    assert " ".join(" ".join(lines[steps + 1 : steps + 3]).split()) == (
        "Training steps; a step is one window drawn, generated, graded and trained. (integer at least 1)"
    )
    assert "  --data.heldout.limit=200" in lines
    assert "Presets: big, demo, loss/gspo" in page


def test_help_of_a_section_or_a_key(presets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for topic, count in (("curriculum", 28), ("rollout.top_p", 1)):
        with pytest.raises(SystemExit):
            load_config(["--help", topic], presets=presets)
        page = capsys.readouterr().out
        assert sum(line.startswith("  --") for line in page.splitlines()) == count


def test_arguments_are_parsed_without_looking_anything_up() -> None:
    arguments = parse_arguments(["--config", "a", "--x.y=1=2", "--flag", "--help=run"])
    assert arguments.configs == ("a",)
    assert arguments.overrides == (("x.y", "1=2"), ("flag", None))
    assert arguments.help == "run"


def test_importing_the_command_line_is_cheap() -> None:
    program = "import sys, gainrl_ray.cli; print(sorted({'torch', 'ray', 'numpy', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=180, check=True)
    assert done.stdout.strip() == "[]"
