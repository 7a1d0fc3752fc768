"""Curricula by the name in the config."""

from gainrl_ray.config_curricula import CurriculumConfig, CustomConfig
from gainrl_ray.curricula.adarft import AdarftStrategy
from gainrl_ray.curricula.bandit import BanditStrategy
from gainrl_ray.curricula.base import NO_COLUMNS, Columns, Order, Strategy
from gainrl_ray.curricula.custom import load_options, load_strategy
from gainrl_ray.curricula.dots import DotsStrategy
from gainrl_ray.curricula.dps import DpsStrategy
from gainrl_ray.curricula.external import ExternalStrategy
from gainrl_ray.curricula.gain import GainStrategy
from gainrl_ray.curricula.length import LengthStrategy
from gainrl_ray.curricula.pass_rate import PassRateStrategy
from gainrl_ray.curricula.sequential import SequentialStrategy
from gainrl_ray.curricula.uniform import UniformStrategy
from gainrl_ray.errors import ConfigError

_BUILT_IN: tuple[type[Strategy], ...] = (
    *(GainStrategy, LengthStrategy, PassRateStrategy, ExternalStrategy, UniformStrategy, SequentialStrategy),
    *(AdarftStrategy, BanditStrategy, DpsStrategy, DotsStrategy),
)
_STRATEGIES = {strategy.name: strategy for strategy in _BUILT_IN}


def strategy_class(config: CurriculumConfig) -> type[Strategy]:
    """The strategy that `config` asks for: its `signal` and `needs` say what to prepare, before it is built.

    Raises: ConfigError when a user's own cannot be imported or used.
    """
    if isinstance(config, CustomConfig):
        return load_strategy(config)
    return _STRATEGIES[config.name].variant(config)


def build_strategy(config: CurriculumConfig, *, order: Order, seed: int, columns: Columns = NO_COLUMNS) -> Strategy:
    """The strategy that `config` asks for, over `order[rank] = row`, sorted by its signal, with what it needs by row.

    Raises: ConfigError for an order of no rows, columns that are missing or of another length, wrong options.
    """
    kind, size = strategy_class(config), len(order)
    if not size:
        raise ConfigError(f"curriculum {kind.name!r} has an order of no problems: give a dataset that has some")
    for name in kind.needs:
        length = len(columns[name]) if name in columns else None
        if length != size:
            raise ConfigError(
                f"curriculum {kind.name!r} needs the column {name!r} of {size} problems, received "
                f"{'none' if length is None else length}: measure or compute it for this dataset"
            )
    return kind(load_options(config) if isinstance(config, CustomConfig) else config, order, seed, columns)
