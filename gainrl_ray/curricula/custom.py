"""Strategies of the user's own, by import path."""

import inspect
from typing import get_args

from gainrl_ray.config_curricula import CustomConfig
from gainrl_ray.config_node import Node
from gainrl_ray.curricula.base import Column, Signal, Strategy
from gainrl_ray.errors import ConfigError
from gainrl_ray.user_code import checked_section, import_object


def load_strategy(config: CustomConfig) -> type[Strategy]:
    """The class at `config.strategy`. Raises: ConfigError when there is none, or one that cannot be used."""
    found = import_object("curriculum.strategy", config.strategy)
    wrong = _fault(found)
    if wrong:
        raise ConfigError(
            f"curriculum.strategy: {config.strategy} {wrong}; accepted: a subclass of "
            "gainrl_ray.curricula.base.Strategy with a name, a signal and all methods"
        )
    return found


def load_options(config: CustomConfig) -> Node:
    """`config.options` as the section that the class names. Raises: ConfigError naming the keys that do not fit."""
    return checked_section("curriculum.options", load_strategy(config).options, config.options)


def _fault(found: object) -> str:
    """What is wrong with a class, "" when nothing is."""
    if not isinstance(found, type) or not issubclass(found, Strategy):
        return f"is {found!r}, no subclass of Strategy"
    if inspect.isabstract(found):
        return f"lacks the methods {', '.join(sorted(found.__abstractmethods__))}"
    name, signal = getattr(found, "name", None), getattr(found, "signal", None)
    if not isinstance(name, str) or not name:
        return f"has the name {name!r}, expected a text"
    if signal not in get_args(Signal):
        return f"has the signal {signal!r}, expected one of {', '.join(get_args(Signal))}"
    if not set(found.needs) <= set(get_args(Column)):
        return f"needs the columns {found.needs!r}, there are {', '.join(get_args(Column))}"
    if not (isinstance(found.options, type) and issubclass(found.options, Node)):
        return f"has the options {found.options!r}, expected a subclass of gainrl_ray.config_node.Node"
    return ""
