"""Curricula by the name in the config."""

from gainrl_ray.config_curricula import CurriculumConfig
from gainrl_ray.curricula.base import NO_COLUMNS, Columns, Order, Strategy
from gainrl_ray.curricula.gain import GainStrategy
from gainrl_ray.curricula.length import LengthStrategy
from gainrl_ray.curricula.sequential import SequentialStrategy
from gainrl_ray.curricula.uniform import UniformStrategy

_STRATEGIES: dict[str, type[Strategy]] = {
    strategy.name: strategy for strategy in (GainStrategy, LengthStrategy, UniformStrategy, SequentialStrategy)
}


def strategy_class(config: CurriculumConfig) -> type[Strategy]:
    """The strategy that `config` names: its `signal` says what to sort by, before it is built."""
    return _STRATEGIES[config.name]


def build_strategy(config: CurriculumConfig, *, order: Order, seed: int, columns: Columns = NO_COLUMNS) -> Strategy:
    """The strategy that `config` names, over `order[rank] = row`, sorted by its signal, with what it needs by row."""
    return strategy_class(config)(config, order, seed, columns)
