"""Which problems of a dataset a run is trained on: a random part of it, and of that the best by a signal or label."""

import numpy as np
import pyarrow as pa

from gainrl_ray.algo.permutation import Permutation
from gainrl_ray.algo.static_scores import likelihood_score
from gainrl_ray.config import DataConfig
from gainrl_ray.data.orders import sorted_places
from gainrl_ray.data.problem_table import ProblemTable
from gainrl_ray.errors import ConfigError, DataError

_SHOWN_IDS = 5


def part_size(config: DataConfig, size: int) -> int:
    """How many of `size` problems `fraction` and then `keep` leave, rounded to the nearest.

    Raises: ConfigError when that is none, or more than there are.
    """
    drawn = _drawn(config, size)
    if drawn == 0:
        raise ConfigError(
            f"data.fraction is {config.fraction:g}, of {size} problems that is none: raise it or give more problems"
        )
    kept = _kept(config, drawn)
    if not 1 <= kept <= drawn:
        raise ConfigError(
            f"data.keep is {config.keep}, which is {kept} of {drawn} problems: give 1 to {drawn}, or a fraction "
            "that is one problem at least"
        )
    return kept


def random_rows(config: DataConfig, size: int, seed: int) -> np.ndarray:
    """[drawn] int64 rows of 0..size-1, rising: the part that `fraction` and the seed choose."""
    drawn = _drawn(config, size)
    return np.arange(size) if drawn == size else np.sort(Permutation(size, seed, "part")(np.arange(drawn)))


def best_rows(config: DataConfig, rows: np.ndarray, values: np.ndarray, table: ProblemTable) -> np.ndarray:
    """[kept] int64 rows, rising: those of `rows` whose `keep_scores` are the highest (`top`) or lowest (`bottom`).

    rows: [drawn] of the whole dataset `table`; values: [drawn] what `keep_by` names, of each, finite. Equal scores in
    the order of their problem ids.
    """
    assert config.keep is not None and config.keep_by is not None
    scores = keep_scores(config.keep_by, values)
    ids = table.columns["problem_id"].take(pa.array(rows))
    places = sorted_places(scores, ids, descending=config.keep.startswith("top:"))
    return np.sort(rows[places[: _kept(config, len(rows))]])


def known_labels(table: ProblemTable, rows: np.ndarray | range) -> np.ndarray:
    """[len(rows)] float64 difficulty labels of rows of the table. Raises DataError, with ids, where one is missing."""
    labels = table.labels()
    found = np.full(len(rows), np.nan) if labels is None else labels[np.asarray(rows)]
    missing = np.flatnonzero(np.isnan(found))
    if len(missing):
        ids = ", ".join(table.ids[int(rows[int(place)])] for place in missing[:_SHOWN_IDS])
        raise DataError(
            f"{len(missing)} of {len(rows)} problems have no difficulty label: {ids}"
            f"{', ...' if len(missing) > _SHOWN_IDS else ''}; name the column that holds them with "
            "data.train.difficulty_column, fill it, or go by pass_rate instead of labels"
        )
    return found


def keep_scores(keep_by: str, values: np.ndarray) -> np.ndarray:
    """[N] float64, higher the better to train on.

    pass_rate p: p (1 - p), the variance of a 0/1 reward (LearnAlign, arXiv 2506.11480, V). gold_likelihood:
    `likelihood_score`, its mean that of `values`. All else: as it is.
    """
    values = np.asarray(values, dtype=np.float64)
    if keep_by == "pass_rate":
        return values * (1.0 - values)
    if keep_by == "gold_likelihood":
        return likelihood_score(values)
    return values


def describe(config: DataConfig, seed: int) -> str:
    """The choice in words, as in "a random 0.5 (run.seed 0), of these top:0.1 by pass_rate"."""
    drawn = f"a random {config.fraction:g} (run.seed {seed})" if config.fraction < 1 else ""
    kept = f"{config.keep} by {config.keep_by}" if config.keep else ""
    return ", of these ".join(filter(None, (drawn, kept)))


def _drawn(config: DataConfig, size: int) -> int:
    return round(config.fraction * size)


def _kept(config: DataConfig, drawn: int) -> int:
    """A whole number is a count, one with a point a fraction."""
    if config.keep is None:
        return drawn
    amount = config.keep.partition(":")[2]
    return round(float(amount) * drawn) if "." in amount else int(amount)
