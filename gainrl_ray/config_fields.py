"""The fields of the configuration tree as a user meets them: key, meaning, what is accepted, nearest key, help."""

import difflib
import textwrap
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from gainrl_ray.config import Config
from gainrl_ray.errors import ConfigError

HELP_WIDTH = 98


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigField:
    """One leaf of the tree: `key` is dotted, `variant` the union member that has it ("" = every one)."""

    key: str
    variant: str
    meaning: str
    accepted: str
    default: Any
    annotation: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One section of the tree; several `variants` (name -> model) where a discriminated union stands."""

    key: str
    variants: dict[str, type[BaseModel]]
    discriminator: str = ""

    @property
    def keys(self) -> list[str]:
        """The names below this section, over all variants, in the order of declaration."""
        return list(dict.fromkeys(name for model in self.variants.values() for name in model.model_fields))

    def model(self, tree: Any) -> type[BaseModel]:
        """The model that the mapping `tree` asks for; the first variant where its name is absent or unknown."""
        name = tree.get(self.discriminator) if self.discriminator and isinstance(tree, dict) else None
        return self.variants.get(str(name), next(iter(self.variants.values())))


def subsection(key: str, field: FieldInfo) -> Section | None:
    """The section that a field opens, or None for a leaf."""
    members = [member for member in _members(field.annotation) if isinstance(member, type)]
    models = [member for member in members if issubclass(member, BaseModel)]
    if not models:
        return None
    if not field.discriminator:
        return Section(key=key, variants={"": models[0]})
    tag = str(field.discriminator)
    return Section(key=key, variants={str(m.model_fields[tag].default): m for m in models}, discriminator=tag)


ROOT = Section(key="", variants={"": Config})


def sections(root: Section = ROOT) -> Iterator[Section]:
    """Every section below `root`, itself first, in the order of declaration."""
    yield root
    for model in root.variants.values():
        for name, field in model.model_fields.items():
            child = subsection(_join(root.key, name), field)
            if child is not None:
                yield from sections(child)


def fields(section: Section) -> Iterator[ConfigField]:
    """The leaves of one section; a leaf that all variants share comes once."""
    seen: set[str] = set()
    for model in section.variants.values():
        for name, field in model.model_fields.items():
            if name in seen or subsection("", field) is not None:
                continue
            seen.add(name)
            key = _join(section.key, name)
            if name == section.discriminator:
                choices = " | ".join(section.variants)
                meaning = f"Which {section.key}; the keys that the others do not have are marked."
                yield ConfigField(
                    key=key, variant="", meaning=meaning, accepted=choices, default=field.default, annotation=str
                )
                continue
            holders = [other for other, its in section.variants.items() if name in its.model_fields]
            yield ConfigField(
                key=key,
                variant="" if len(holders) == len(section.variants) else ", ".join(holders),
                meaning=field.description or "",
                accepted=accepted(field.annotation, field.metadata),
                default=field.default,
                annotation=field.annotation,
            )


def all_fields() -> list[ConfigField]:
    """Every leaf of the tree, in the order of declaration."""
    return [field for section in sections() for field in fields(section)]


def accepted(annotation: Any, metadata: Any = ()) -> str:
    """What a field of this type takes, in words: "integer, at least 1", "float32 | bfloat16", "text or null"."""
    if get_origin(annotation) is Annotated:
        inner, *extra = get_args(annotation)
        flat = [m for item in extra for m in (item.metadata if isinstance(item, FieldInfo) else [item])]
        return accepted(inner, [*metadata, *flat])
    if get_origin(annotation) in (Union, types.UnionType):
        parts = [accepted(arg, metadata) for arg in get_args(annotation) if arg is not type(None)]
        return " or ".join(parts) + (" or null" if type(None) in get_args(annotation) else "")
    if get_origin(annotation) is Literal:
        return " | ".join(str(value) for value in get_args(annotation))
    if get_origin(annotation) in (tuple, list):
        args = [arg for arg in get_args(annotation) if arg is not Ellipsis]
        count = "list" if len(args) < len(get_args(annotation)) or len(args) == 1 else f"list of {len(args)}"
        return f"{count}, each: {accepted(args[0])}"
    words = {int: "integer", float: "number", str: "text", bool: "true | false", dict: "mapping"}
    kind = get_origin(annotation) or annotation
    return " ".join([words.get(kind, str(annotation)), *_bounds(metadata, whole=kind is int)])


def nearest_key(key: str, section: Section | None = None) -> str | None:
    """The valid dotted key that `key` most likely means: a sibling, the same name elsewhere, or a close one."""
    parent, _, leaf = key.rpartition(".")
    names = list(dict.fromkeys([s.key for s in sections() if s.key] + [f.key for f in all_fields()]))
    siblings = section.keys if section else [n.rpartition(".")[2] for n in names if n.rpartition(".")[0] == parent]
    elsewhere = [name for name in names if name.rpartition(".")[2] == leaf]
    close = difflib.get_close_matches(leaf, siblings, n=1, cutoff=0.6)
    # A short name is close to many: `lr` to `lora`, while optimizer.lr is meant.
    if close and not (elsewhere and not parent):
        return _join(parent, close[0])
    if elsewhere:
        return max(elsewhere, key=lambda name: difflib.SequenceMatcher(None, key, name).ratio())
    close = difflib.get_close_matches(key, names, n=1, cutoff=0.6) if parent not in names else []
    if close:
        return close[0]
    leaves = {name.rpartition(".")[2]: name for name in reversed(names)}
    close = difflib.get_close_matches(leaf, leaves, n=1, cutoff=0.75)
    return leaves[close[0]] if close else None


def help_text(config: Config, *, presets: list[str], chosen: str, topic: str = "") -> str:
    """The help page: every field of the tree, or those under the dotted `topic`, with meaning, unit and default.

    `config` is what the `chosen` presets resolve to; its value is shown where it differs from the default.
    """
    shown = [s for s in sections() if not topic or _join(s.key, "").startswith(f"{topic}.") or _is_field(topic, s)]
    if not shown:
        near = nearest_key(topic)
        raise ConfigError(
            f"--help {topic}: no such section or key"
            + (f"; did you mean {near}?" if near else "")
            + f" Sections: {', '.join(s.key for s in sections() if s.key)}"
        )
    lines = [] if topic else _usage(presets)
    for section in shown:
        entries = [f for f in fields(section) if not _is_field(topic, section) or f.key == topic]
        if not entries:
            continue
        lines += ["", section.key.upper(), *_wrap(_about(section), "  "), ""]
        for entry in entries:
            lines += _entry(entry, config, chosen)
    return "\n".join(lines).strip("\n")


def render(value: Any) -> str:
    """A value as it is written on the command line: null, true, 0.001, [a, b], text as it is."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(render(item) for item in value) + "]"
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value) or "''"


def _usage(presets: list[str]) -> list[str]:
    intro = (
        "Settings come from `--config NAME_OR_FILE` (repeatable, merged left to right, `demo` when absent) and "
        "then from `--section.key=value`. Values are YAML: 1e-6, true, null, [0.9, 0.99]. "
        "`--help SECTION` shows one section."
    )
    return [*_wrap(intro, ""), "", *_wrap("Presets: " + ", ".join(presets), "")]


def _entry(entry: ConfigField, config: Config, chosen: str) -> list[str]:
    default, value = _value(Config(), entry), _value(config, entry)
    head = f"  --{entry.key}={_short(default)}"
    only = f"   only: {entry.variant}" if entry.variant else ""
    here = "" if value == default else f"   in {chosen}: {_short(value)}"
    body = f"{entry.meaning} ({entry.accepted})"
    return [head + only + here, *_wrap(body, "        ")]


def _value(config: Config, entry: ConfigField) -> Any:
    value: Any = config
    for name in entry.key.split("."):
        value = getattr(value, name, entry.default)
    return value


def _about(section: Section) -> str:
    if not section.discriminator:
        return next(iter(section.variants.values())).__doc__ or ""
    return " ".join(f"{name}: {model.__doc__}" for name, model in section.variants.items())


def _short(value: Any) -> str:
    text = render(value).replace("\n", "\\n")
    return text if len(text) <= 48 else f"{text[:45]}..."


def _wrap(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, HELP_WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)


def _is_field(topic: str, section: Section) -> bool:
    return any(field.key == topic for field in fields(section))


def _members(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [member for arg in get_args(annotation) for member in _members(arg)]
    return [annotation]


def _bounds(metadata: Any, *, whole: bool) -> list[str]:
    words = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
    limits = {name: getattr(item, name) for item in metadata for name in words if hasattr(item, name)}
    if whole and "gt" in limits:
        limits = {"ge": limits.pop("gt") + 1} | limits
    return [" and ".join(f"{words[name]} {limit:g}" for name, limit in limits.items())] if limits else []


def _join(parent: str, name: str) -> str:
    return f"{parent}.{name}" if parent else name
