"""Layers of settings (YAML texts, overrides) to one validated Config, with errors that name key, value and remedy."""

import difflib
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from gainrl_ray.config import Config
from gainrl_ray.config_fields import ROOT, Section, accepted, nearest_key, render, subsection
from gainrl_ray.errors import ConfigError


class Layer(NamedTuple):
    """A mapping of settings with where it came from ("in demo.yaml", "on the command line")."""

    origin: str
    tree: dict[str, Any]


class _Loader(yaml.SafeLoader):
    """The core scalars of YAML 1.2 (1e-6 is a number; `on` and 2026-01-01 are text); a repeated key is an error."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}  # pyright: ignore[reportIncompatibleVariableOverride]

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """The mapping of a node; raises ConstructorError on a repeated key."""
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} is repeated", key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes text that either YAML 1.1 or `_Loader` would read as something else."""


def _int(loader: _Loader, node: Any) -> int:
    return int(loader.construct_scalar(node))


def _float(loader: _Loader, node: Any) -> float:
    return float(loader.construct_scalar(node).lower().replace(".inf", "inf").replace(".nan", "nan"))


_NUMBER = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", [*"tTfF"]),
    ("int", r"[-+]?[0-9]+", [*"-+0123456789"]),
    ("float", _NUMBER, [*"-+.0123456789"]),
    ("null", r"~|null|Null|NULL|", [*"~nN", ""]),
    ("merge", r"<<", ["<"]),
):
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), _first)
_Loader.add_constructor("tag:yaml.org,2002:int", _int)
_Loader.add_constructor("tag:yaml.org,2002:float", _float)


def yaml_value(text: str) -> Any:
    """The value of a YAML text. Raises yaml.YAMLError, or ValueError on a number that is none."""
    return yaml.load(text, Loader=_Loader)


def yaml_text(tree: dict[str, Any]) -> str:
    """The tree as YAML in its own order; `yaml_value` reads it back unchanged."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def yaml_layer(content: bytes, *, origin: str) -> Layer:
    """The settings in a YAML file, {} when it is empty. Raises ConfigError naming `origin` and the line."""
    try:
        tree = yaml_value(content.decode())
    except UnicodeDecodeError as error:
        raise ConfigError(f"{origin}: not UTF-8 text (byte {error.start}); save the file as UTF-8") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{origin}: not valid YAML: {error}") from None
    if tree is not None and not isinstance(tree, dict):
        raise ConfigError(f"{origin}: received {_quote(tree)}; accepted is a mapping of sections such as `run:`")
    return Layer(f"in {origin}", tree or {})


def merge(lower: dict[str, Any], upper: dict[str, Any], section: Section | None) -> dict[str, Any]:
    """`lower` with `upper` over it, mapping by mapping; neither is changed. `section` is what they describe.

    Where `upper` names another member of a union (a curriculum), keys that this member lacks are left behind.
    """
    merged = dict(lower)
    if section and section.discriminator and str(upper.get(section.discriminator)) in section.variants:
        known = section.model(upper).model_fields
        merged = {key: value for key, value in lower.items() if key in known or key not in section.keys}
    for key, value in upper.items():
        child = _child(section, lower | upper, key)
        if value is None and child:
            continue
        below = merged.get(key, {})
        merged[key] = merge(below, value, child) if isinstance(value, dict) and isinstance(below, dict) else value
    return merged


def resolve(layers: Sequence[Layer]) -> Config:
    """The validated Config of the layers, merged left to right over the defaults.

    Raises ConfigError with one line per problem.
    """
    tree = Config().model_dump(mode="json")
    origins: dict[str, str] = {}
    for layer in layers:
        tree = merge(tree, layer.tree, ROOT)
        origins |= dict.fromkeys((key for key, _ in flatten(layer.tree)), layer.origin)
    try:
        text = json.dumps(tree)
    except (TypeError, ValueError) as error:
        where = ", ".join(layer.origin for layer in layers)
        raise ConfigError(f"{where}: only mappings, lists, text, numbers, true/false and null: {error}") from None
    try:
        return Config.model_validate_json(text, strict=True)
    except ValidationError as error:
        problems = [_explain(detail, tree, origins) for detail in error.errors(include_url=False)]
    raise ConfigError("\n".join(problems))


def flatten(tree: dict[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The (dotted key, value) pairs of a nested mapping; an empty mapping is a value."""
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _child(section: Section | None, tree: Any, name: Any) -> Section | None:
    field = section.model(tree).model_fields.get(str(name)) if section else None
    return subsection(f"{section.key}.{name}".lstrip("."), field) if section and field else None


def _explain(detail: ErrorDetails, tree: dict[str, Any], origins: dict[str, str]) -> str:
    """One pydantic error in the user's words: dotted key, received value, where it was set, what is accepted."""
    key, holder, section, takes = _locate(detail["loc"], tree)
    value, kind = detail["input"], detail["type"]
    if kind == "value_error":
        return f"{key}: {detail['ctx']['error']}".removeprefix(": ")  # pyright: ignore[reportTypedDictNotRequiredAccess]
    if section and kind == "union_tag_invalid":
        key, value, takes = f"{key}.{section.discriminator}", value[section.discriminator], " | ".join(section.variants)
        section = None
    inside = (name for name in origins if name.startswith(f"{key}.") or key.startswith(f"{name}."))
    where = origins.get(key) or next((origins[name] for name in inside), "")
    received = f"{key}: received {_quote(value)}" + (f" ({where})" if where else "")
    if kind == "extra_forbidden":
        return f"{received}, but there is no such key; {_remedy(key, holder)}"
    if section:
        return f"{received}; accepted is a section with the keys {', '.join(section.keys)}"
    hint = "; write it in quotes" if takes.startswith("text") and isinstance(value, (int, float)) else ""
    return f"{received}; accepted: {takes}{did_you_mean(value, takes.split(' | '))}{hint}"


def _locate(loc: Sequence[int | str], tree: Any) -> tuple[str, Section, Section | None, str]:
    """(dotted key, section that holds it, section that it is or None, what it accepts) of a pydantic location."""
    holder, section, names, takes = ROOT, ROOT, [], ""
    for part in loc:
        if section and section.discriminator and section is not holder and part in section.variants:
            holder = section
            continue
        names.append(str(part))
        if section:
            field = section.model(tree).model_fields.get(str(part))
            takes = accepted(field.annotation, field.metadata) if field else ""
            holder, section = section, _child(section, tree, part)
            tree = tree.get(part) if section and isinstance(tree, dict) else tree
    return ".".join(names), holder, section, takes


def _remedy(key: str, holder: Section) -> str:
    name = key.rpartition(".")[2]
    others = [variant for variant, model in holder.variants.items() if name in model.model_fields]
    if others:
        return f"only {holder.key}.{holder.discriminator}={' or '.join(others)} has it: choose that, or leave it out"
    near = nearest_key(key)
    return f"did you mean {near}?" if near else f"the keys here are {', '.join(holder.keys)}"


def did_you_mean(value: Any, choices: Sequence[str]) -> str:
    """ "; did you mean X?" for the choice closest to `value`, "" when none is close."""
    folded = {choice.casefold(): choice for choice in choices}
    close = difflib.get_close_matches(str(value).casefold(), folded, n=1, cutoff=0.6)
    return f"; did you mean {folded[close[0]]}?" if close and len(choices) > 1 else ""


def _quote(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else render(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
