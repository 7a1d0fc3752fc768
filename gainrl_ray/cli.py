"""The command line of every job: `--config NAME_OR_FILE`, `--section.key=value` and `--help` to one Config."""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from gainrl_ray.config import Config
from gainrl_ray.config_curricula import ExternalConfig
from gainrl_ray.config_fields import all_fields, help_text, nearest_key, render, sections
from gainrl_ray.config_layers import Layer, did_you_mean, flatten, merge, resolve, yaml_layer, yaml_text, yaml_value
from gainrl_ray.errors import ConfigError

DEFAULT_PRESET = "demo"
BUILT_IN = ("arithmetic", "tiny", "smollm2-135m")


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """A parsed command line; `help` is the asked topic, "" for the whole page, None when not asked."""

    configs: tuple[str, ...]
    overrides: tuple[tuple[str, str | None], ...]
    help: str | None


class Named(NamedTuple):
    """Dotted keys of settings that somebody gave a value."""

    anywhere: frozenset[str]
    by_user: frozenset[str]  # on the command line, or in a file that is no preset


def named_settings(argv: Sequence[str], *, presets: Path, base: Path | None = None) -> Named:
    """What the command line of `load_config` names, its presets and files included; a job's own options count too."""
    arguments = parse_arguments(argv)
    given: set[str] = set()
    for key, text in arguments.overrides:
        given.update(name for name, _ in flatten({key: yaml_value(text) if text and text[0] == "{" else None}))
    shipped: set[str] = set()
    for file in (_config_file(name, presets, base or Path.cwd()) for name in arguments.configs):
        keys = {key for key, _ in flatten(yaml_layer(file.read_bytes(), origin=file.name).tree)}
        (shipped if file.is_relative_to(presets) else given).update(keys)
    return Named(anywhere=frozenset(given | shipped), by_user=frozenset(given))


def load_config(argv: Sequence[str], *, presets: Path, base: Path | None = None) -> Config:
    """The validated settings of a command line: presets and files left to right, then the dotted overrides.

    argv: the arguments after the program's name. presets: folder of NAME.yaml. base: where relative paths start, of
    files and in settings (the working directory when None). `--help` prints the fields and raises SystemExit(0).
    Raises ConfigError naming the key, the value, what is accepted and the nearest valid key.
    """
    arguments = parse_arguments(argv)
    base = base or Path.cwd()
    files = [_config_file(name, presets, base) for name in arguments.configs]
    layers = [yaml_layer(file.read_bytes(), origin=file.name) for file in files]
    if arguments.help is not None:
        page = help_text(
            resolve(layers), presets=_preset_names(presets), chosen=preset_name(argv), topic=arguments.help
        )
        print(page)
        sys.exit(0)
    config = resolve([*layers, Layer("on the command line", _override_tree(arguments.overrides))])
    return with_absolute_paths(config, base)


def with_absolute_paths(config: Config, base: Path) -> Config:
    """The settings with each path that names something local made absolute, from `base`; a template becomes its text.

    Raises ConfigError for a template file that cannot be read.
    """
    paths: dict[str, Any] = {
        "run": {"storage": _local(config.run.storage, base, always=True)},
        "model": {"path": _local(config.model.path, base)},
        "data": {name: {"path": _local(getattr(config.data, name).path, base)} for name in ("train", "heldout")}
        | {"prompt": {"template": _template_text(config.data.prompt.template, base)}},
        "signals": {"warm_model": config.signals.warm_model and _local(config.signals.warm_model, base)},
    }
    if isinstance(config.curriculum, ExternalConfig):
        paths["curriculum"] = {"path": _local(config.curriculum.path, base, always=True)}
    return resolve([Layer("", config.model_dump(mode="json")), Layer("", paths)])


def config_from_yaml(text: str, *, origin: str) -> Config:
    """The settings in a YAML text, for example a run's stored config.yaml; a ConfigError names `origin`."""
    return resolve([yaml_layer(text.encode(), origin=origin)])


def preset_name(argv: Sequence[str]) -> str:
    """A name for the chosen settings: the file names without suffix, joined by "-"; "demo" when none is given."""
    return "-".join(re.sub(r"\.ya?ml$", "", Path(name).name) for name in parse_arguments(argv).configs)


def to_yaml(config: Config) -> str:
    """All settings as YAML in the order of declaration; `config_from_yaml` reads it back unchanged."""
    return yaml_text(config.model_dump(mode="json"))


def diff_configs(old: Config, new: Config) -> list[str]:
    """One "key: old -> new" for every setting that differs; "(absent)" where a curriculum lacks the key."""
    before, after = (dict(flatten(config.model_dump(mode="json"))) for config in (old, new))
    was, now = ({key: render(tree[key]) for key in tree} for tree in (before, after))
    pairs = {key: (was.get(key, "(absent)"), now.get(key, "(absent)")) for key in before | after}
    return [f"{key}: {left} -> {right}" for key, (left, right) in pairs.items() if left != right]


def changed_settings(stored: Config, config: Config) -> list[str]:
    """One "key: old -> new" for every setting that has to stay the same when a run is continued, and did not."""
    free = ("run.steps:", "run.name:", "run.allow_changed:", "run.storage:", "ray.", "report.")
    return [change for change in diff_configs(stored, config) if not change.startswith(free)]


def parse_arguments(argv: Sequence[str]) -> Arguments:
    """The command line in its parts, nothing looked up yet; raises ConfigError on what is no option."""
    configs: list[str] = []
    overrides: list[tuple[str, str | None]] = []
    topic: str | None = None
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if not re.match(r"--[A-Za-z_]|-h$", word):
            raise ConfigError(f"received {word!r}; accepted are --config NAME, --section.key=value and --help")
        name, equals, text = word.lstrip("-").partition("=")
        value = text if equals else rest.pop(0) if rest and not rest[0].startswith("--") else None
        if name in ("help", "h"):
            topic = value or ""
        elif name != "config":
            overrides.append((name, value))
        elif value:
            configs.append(value)
        else:
            raise ConfigError("--config: no value; give the name of a preset or a YAML file")
    return Arguments(configs=tuple(configs) or (DEFAULT_PRESET,), overrides=tuple(overrides), help=topic)


def _override_tree(overrides: Sequence[tuple[str, str | None]]) -> dict[str, Any]:
    takes = {field.key: field.accepted for field in all_fields()}
    tree: dict[str, Any] = {}
    for key, text in overrides:
        value = _override_value(key, text, takes.get(key, ""))
        for name in reversed(key.split(".")):
            value = {name: value}
        tree = merge(tree, value, None)
    return tree


def _override_value(key: str, text: str | None, takes: str) -> Any:
    """The value of an override; a text field takes it literally (a revision such as 1e10), but for null."""
    if text is None and takes == "true | false":
        return True
    if text is None:
        known = takes or any(section.key == key for section in sections())
        near = None if known else nearest_key(key)
        raise ConfigError(
            f"--{key}: no value; write --{key}=VALUE"
            + (f", accepted: {takes}" if takes else "")
            + (f"; did you mean {near}?" if near else "")
        )
    if takes.startswith("text") and not re.fullmatch(r"""(?s)null|~|".*"|'.*'""", text):
        return text
    try:
        return yaml_value(text)
    except (yaml.YAMLError, ValueError) as error:
        reason = getattr(error, "problem", error)
        raise ConfigError(f"--{key}: received {text!r}, which is not a YAML value: {reason}") from None


def _local(path: str, base: Path, *, always: bool = False) -> str:
    """`path` made absolute where it names something local: what exists below `base`, or any path but a URI."""
    if path in BUILT_IN or "://" in path:
        return path
    found = base / Path(path).expanduser()
    return str(found.absolute()) if always or path.startswith((".", "~", "/")) or found.exists() else path


def _template_text(template: str | None, base: Path) -> str | None:
    """The text of a template's file; `plain` and what is a Jinja text itself stay as they are."""
    if template in (None, "plain") or re.search(r"\{[{%]", template or ""):
        return template
    file = base / Path(str(template)).expanduser()
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"data.prompt.template: received {template!r}; accepted: plain, a Jinja file, or null for the tokenizer's "
            f"own template ({file}: {getattr(error, 'strerror', None) or error})"
        ) from None


def _config_file(name: str, presets: Path, base: Path) -> Path:
    candidates = [presets / f"{name}.yaml", presets / name, base / Path(name).expanduser()]
    for file in candidates:
        if file.is_file():
            return file
    names = _preset_names(presets)
    raise ConfigError(
        f"--config {name}: neither a preset nor a file{did_you_mean(name, names)}; presets: {', '.join(names)}"
    )


def _preset_names(presets: Path) -> list[str]:
    return sorted(str(file.relative_to(presets).with_suffix("")) for file in presets.rglob("*.yaml"))
