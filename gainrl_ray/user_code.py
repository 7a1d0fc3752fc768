"""Objects and settings that users bring along: imported by path, checked as this program's own are."""

import importlib
import sys
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from gainrl_ray.config_node import Node
from gainrl_ray.environment import Environment
from gainrl_ray.errors import ConfigError


def import_object(key: str, path: str) -> Any:
    """What `module:name` names; `key` is the setting that holds the path.

    Modules are looked for as Python does, and after that in the folder that the job was started from, like reward
    functions. Raises: ConfigError with whatever the import raised.
    """
    module, _, name = path.partition(":")
    folder = str(Environment().caller_dir)
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (Exception, SystemExit) as error:  # a user's module may raise anything
        raise ConfigError(
            f"{key}: received {path!r}, which cannot be imported: {type(error).__name__}: {error}; "
            f"accepted: module:name of something in a module on Python's path or in {folder}"
        ) from error
    return found


def checked_section(key: str, kind: type[Node], values: Mapping[str, Any]) -> Node:
    """A section of the user's own from its values. Raises: ConfigError with every key that does not fit."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = [(".".join(map(str, (key, *each["loc"]))), each) for each in error.errors(include_url=False)]
    lines = [f"{name}: received {each['input']!r}: {each['msg']}" for name, each in problems]
    keys = ", ".join(kind.model_fields) or "none"
    raise ConfigError("\n".join([*lines, f"the keys of {key} are: {keys}"]))
