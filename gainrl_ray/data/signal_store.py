"""Static signals of problems on disk: an array by row beside a manifest of all that it depends on."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from gainrl_ray.data.scored_index import Fingerprint
from gainrl_ray.data.stored_array import StoredArray
from gainrl_ray.errors import DataError
from gainrl_ray.storage import Storage

SIGNALS = "signals"
"""Folder below `run.storage`."""
MANIFEST_FILE = "manifest.json"
DIAGNOSTICS_FILE = "diagnostics.json"
"""What signals have to do with length, labels, pass rates and gradients."""

_FORMAT = 1
_SHOWN_IDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """All that a signal depends on; two are equal when the same values come out."""

    signal: str
    fingerprint: Fingerprint
    settings: Mapping[str, Any]  # JSON values, such as the number of samples

    @property
    def digest(self) -> str:
        """Hex sha256 of the whole."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def folder(self, storage: Storage) -> Storage:
        """Where the signal is kept below `run.storage`: signals/<digest>."""
        return storage.child(SIGNALS, self.digest)


def find_signal(storage: Storage, origin: Origin, size: int) -> StoredArray | None:
    """The values of `size` problems kept under `run.storage`, or None.

    Raises: DataError when what is there is not of that many problems.
    """
    folder = origin.folder(storage)
    if not folder.exists(MANIFEST_FILE):
        return None
    stored = StoredArray(folder=folder, name=f"{origin.signal}.npy")
    if len(values := stored.open()) != size:
        raise DataError(
            f"{folder.child(stored.name).uri} holds values of {len(values)} problems, expected {size}: delete that "
            "folder and compute the signal again"
        )
    return stored


def keep_signal(
    storage: Storage, origin: Origin, values: np.ndarray, ids: Sequence[str], seconds: float
) -> StoredArray:
    """Write `values` by row ([N] as float64, [N, size] as float32) and, last, manifest.json with what made them.

    ids: [N] problem ids; seconds: that computing took.
    Raises: DataError for values that are not finite, with their problem ids, or for another number of rows.
    """
    if len(values) != len(ids):
        raise DataError(f"signal {origin.signal}: {len(values)} values for {len(ids)} problems")
    wrong = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))
    if len(wrong):
        shown = ", ".join(ids[int(row)] for row in wrong[:_SHOWN_IDS]) + (", ..." if len(wrong) > _SHOWN_IDS else "")
        raise DataError(
            f"{len(wrong)} of {len(ids)} problems have a {origin.signal} that is not finite: check the model's weights "
            f"and dtype; ids: {shown}"
        )
    folder, name = origin.folder(storage), f"{origin.signal}.npy"
    with folder.create(name) as path:
        np.save(path, values.astype(np.float64 if values.ndim == 1 else np.float32), allow_pickle=False)
    manifest = {"format": _FORMAT, **asdict(origin), "problems": len(ids), "seconds": seconds}
    folder.write_text(MANIFEST_FILE, json.dumps(manifest, indent=1))
    return StoredArray(folder=folder, name=name)


def seconds_of(stored: StoredArray) -> float:
    """Seconds that computing a signal took, whenever it was."""
    return float(json.loads(stored.folder.read_text(MANIFEST_FILE))["seconds"])
