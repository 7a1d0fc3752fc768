"""The scored index: angle concentrations of a dataset's problems on disk, with what they were computed from."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from gainrl_ray.algo.angles import length_residual, spearman, without_diagonal
from gainrl_ray.config import ScoringConfig
from gainrl_ray.data.orders import sorted_places
from gainrl_ray.errors import DataError, IndexMismatchError
from gainrl_ray.storage import Storage

SCORES_FILE = "scores.parquet"
MANIFEST_FILE = "manifest.json"

AngleSignal = Literal["angle", "angle_residual", "c_intra", "c_inter"]

_FORMAT = 2
_ORDER = "order-"
_SHOWN_IDS = 5
_ARRAYS = ("c_intra", "c_inter", "prompt_tokens", "question_tokens")
_COLUMNS = ("problem_id", "row", *_ARRAYS)
_REMEDIES = {
    "model_digest": "it was made by another model",
    "tokenizer_digest": "its prompts were made by another tokenizer",
    "template_digest": "its prompts had another chat template, system prompt, example or instruction",
    "dataset_digest": "it was made from other problems, or from the same ones in another order",
    "signal_version": "it was made by another definition of the signal",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """All that scores depend on; two fingerprints are equal when the same scores come out."""

    model_digest: str
    tokenizer_digest: str
    template_digest: str
    dataset_digest: str
    signal_version: str

    @property
    def digest(self) -> str:
        """Hex sha256 of the whole."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def differences(self, other: "Fingerprint") -> list[str]:
        """One line for each field in which the other one differs, with both values."""
        pairs = [(field.name, getattr(self, field.name), getattr(other, field.name)) for field in fields(self)]
        return [f"{name}: {mine} here, {theirs} there" for name, mine, theirs in pairs if mine != theirs]


@dataclass(frozen=True, slots=True)
class Manifest:
    """What tells one index from another; enough to know that an index belongs to a run, without reading its scores."""

    fingerprint: Fingerprint
    problems: int
    length_correlation: float  # see ScoredIndex
    scoring_seconds: float = 0.0

    def check(self, fingerprint: Fingerprint, size: int) -> None:
        """Refuse an index of other inputs.

        Args:
            fingerprint: of the run at hand.
            size: its number of problems.

        Raises:
            IndexMismatchError: names each input that differs, with both values.
        """
        lines = self.fingerprint.differences(fingerprint)
        found = [f"{line} ({_REMEDIES[line.partition(':')[0]]})" for line in lines]
        if size != self.problems:
            found.append(f"problems: {self.problems} here, {size} there (rows were added or left out)")
        if found:
            raise IndexMismatchError(
                "the scored index ('here') does not belong to this run ('there'):\n  "
                + "\n  ".join(found)
                + "\nscore again with jobs/score.py, or delete the index, or use the inputs it was made from"
            )

    def as_json(self) -> str:
        """The text of manifest.json."""
        correlation = self.length_correlation if np.isfinite(self.length_correlation) else None
        return json.dumps({"format": _FORMAT} | asdict(self) | {"length_correlation": correlation}, indent=1)

    @classmethod
    def read(cls, storage: Storage) -> "Manifest":
        """The manifest of an index's folder.

        Raises:
            DataError: there is none, or it is of another version.
        """
        if not storage.exists(MANIFEST_FILE):
            raise DataError(f"{storage.uri} holds no scored index (no {MANIFEST_FILE}): make one with jobs/score.py")
        try:
            values = json.loads(storage.read_text(MANIFEST_FILE))
            if values["format"] != _FORMAT:
                raise ValueError(f"format {values['format']}")
            correlation = values["length_correlation"]
            return cls(
                Fingerprint(**values["fingerprint"]),
                int(values["problems"]),
                float("nan") if correlation is None else float(correlation),
                float(values["scoring_seconds"]),
            )
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(
                f"{storage.child(MANIFEST_FILE).uri} is no manifest of this version ({type(error).__name__}: {error}): "
                "delete the folder and score again"
            ) from error


class ScoredIndex:
    """The scores of all N problems of a dataset; arrays of length N, in the order in which they were scored."""

    def __init__(
        self,
        *,
        rows: np.ndarray,
        problem_ids: Sequence[str] | pa.Array | pa.ChunkedArray,
        c_intra: np.ndarray,
        c_inter: np.ndarray,
        prompt_tokens: np.ndarray,
        question_tokens: np.ndarray,
        fingerprint: Fingerprint,
        scoring_seconds: float = 0.0,
    ) -> None:
        """Check and take the scores.

        Args:
            rows: [N] dataset row of each score, 0..N-1 in any order.
            problem_ids: [N] the rows' problem ids.
            c_intra, c_inter: [N] angle concentration within the question, diagonal included, and to the prefix.
            prompt_tokens, question_tokens: [N] lengths.
            fingerprint: what the scores were computed from.
            scoring_seconds: that computing them took.

        Raises:
            DataError: scores that are not finite, with their problem ids; rows that are missing or double; arrays of
                different lengths; impossible lengths.
        """
        self.rows = np.asarray(rows, dtype=np.int64)
        self.problem_ids = _strings(problem_ids)
        self.c_intra = np.asarray(c_intra, dtype=np.float64)
        self.c_inter = np.asarray(c_inter, dtype=np.float64)
        self.prompt_tokens = np.asarray(prompt_tokens, dtype=np.int64)
        self.question_tokens = np.asarray(question_tokens, dtype=np.int64)
        self.fingerprint = fingerprint
        self.scoring_seconds = scoring_seconds
        self._check_shapes()
        self._check_values()

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def score(self) -> np.ndarray:
        """[N] angle concentration as the paper has it: c_intra + c_inter."""
        return self.c_intra + self.c_inter

    @cached_property
    def length_correlation(self) -> float:
        """Spearman's rank correlation of score and prompt tokens, in [-1, 1]; near -1 the order is a length sort."""
        return spearman(self.score, self.prompt_tokens)

    @staticmethod
    def order_name(config: ScoringConfig, signal: AngleSignal = "angle") -> str:
        """Name of the file, in the index's folder, in which the order under these settings is kept."""
        return (
            f"{_ORDER}{'descending' if config.descending else 'ascending'}"
            f"{'' if config.diagonal else '-without-diagonal'}{'' if signal == 'angle' else f'-{signal}'}.npy"
        )

    def order(self, config: ScoringConfig, signal: AngleSignal = "angle") -> np.ndarray:
        """[N] int64 dataset rows, the first to be trained first; equal values in the order of their problem ids.

        Sorted by `values`, ascending where the config says so.
        Source: GAIN-RL, arXiv 2506.02281: `angle` with its diagonal, descending.
        """
        return self.rows[sorted_places(self.values(config, signal), self.problem_ids, descending=config.descending)]

    def values(self, config: ScoringConfig, signal: AngleSignal = "angle") -> np.ndarray:
        """[N] `c_intra`, `c_inter`, their sum `angle`, or `angle_residual`, what of it log prompt tokens leave.

        c_intra is without its diagonal where the config says so.
        """
        c_intra = self.c_intra if config.diagonal else without_diagonal(self.c_intra, self.question_tokens)
        if signal == "c_intra":
            return c_intra
        if signal == "c_inter":
            return self.c_inter
        score = c_intra + self.c_inter
        return length_residual(score, self.prompt_tokens) if signal == "angle_residual" else score

    @property
    def manifest(self) -> "Manifest":
        """What tells this index from others."""
        return Manifest(self.fingerprint, len(self), self.length_correlation, self.scoring_seconds)

    def save(self, storage: Storage) -> None:
        """Write scores.parquet and, last, manifest.json into a folder; orders of earlier scores there go."""
        for name in storage.list():
            if name.startswith(_ORDER):
                storage.delete(name)
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        table = pa.table({"problem_id": self.problem_ids, "row": self.rows, **arrays, "score": self.score})
        storage.write_table(SCORES_FILE, table)
        storage.write_text(MANIFEST_FILE, self.manifest.as_json())

    @classmethod
    def load(cls, storage: Storage) -> "ScoredIndex":
        """The index that `save` wrote into a folder.

        Raises:
            DataError: there is none, it is of another version, or scores and manifest do not fit each other.
        """
        manifest = Manifest.read(storage)
        table = storage.read_table(SCORES_FILE, _COLUMNS)
        if table.num_rows != manifest.problems or table.column_names != list(_COLUMNS):
            raise DataError(
                f"{storage.child(SCORES_FILE).uri} has {table.num_rows} rows and the columns {table.column_names}, its "
                f"manifest speaks of {manifest.problems} problems: delete the folder and score again"
            )
        arrays = {name: table[name].to_numpy() for name in _ARRAYS}
        return cls(
            rows=table["row"].to_numpy(),
            problem_ids=table["problem_id"],
            fingerprint=manifest.fingerprint,
            scoring_seconds=manifest.scoring_seconds,
            **arrays,
        )

    def _check_shapes(self) -> None:
        lengths = {name: len(getattr(self, name)) for name in ("rows", "problem_ids", *_ARRAYS)}
        if len(set(lengths.values())) != 1:
            raise DataError(f"a scored index needs arrays of one length, received {lengths}")
        if len(self) == 0:
            raise DataError("a scored index needs at least one problem: check the dataset")
        present = np.zeros(len(self), dtype=bool)
        within = self.rows[(self.rows >= 0) & (self.rows < len(self))]
        present[within] = True
        if not present.all():
            missing = np.flatnonzero(~present)
            raise DataError(
                f"a scored index of {len(self)} problems needs each row 0..{len(self) - 1} once; {len(missing)} are "
                f"missing (the first: {missing[:_SHOWN_IDS].tolist()}): score again"
            )

    def _check_values(self) -> None:
        finite = np.isfinite(self.c_intra) & np.isfinite(self.c_inter)
        self._refuse(~finite, "a score that is not finite: check the model's weights and dtype")
        fitting = (self.question_tokens >= 1) & (self.question_tokens <= self.prompt_tokens)
        self._refuse(~fitting, "question tokens outside 1..prompt tokens: check the prompt's spans")

    def _refuse(self, wrong: np.ndarray, what: str) -> None:
        places = np.flatnonzero(wrong)
        if len(places):
            ids = self.problem_ids.take(pa.array(places[:_SHOWN_IDS])).to_pylist()
            more = ", ..." if len(places) > _SHOWN_IDS else ""
            raise DataError(f"{len(places)} of {len(self)} problems have {what}; ids: {', '.join(ids)}{more}")


def _strings(ids: Sequence[str] | pa.Array | pa.ChunkedArray) -> pa.Array:
    """The ids as one Arrow array with 64-bit offsets."""
    column: Any = ids
    if isinstance(column, pa.ChunkedArray):
        return column.cast(pa.large_string()).combine_chunks()
    return column.cast(pa.large_string()) if isinstance(column, pa.Array) else pa.array(list(ids), pa.large_string())
