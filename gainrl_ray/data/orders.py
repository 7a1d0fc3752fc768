"""Orders of a dataset's rows on disk: made and checked once, then mapped wherever they are needed."""

import hashlib
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gainrl_ray.data.stored_array import StoredArray
from gainrl_ray.errors import DataError
from gainrl_ray.storage import Storage

_CHUNK = 1 << 22  # ranks looked at together


def keep_order(folder: Storage, name: str, size: int, make: Callable[[], np.ndarray]) -> StoredArray:
    """The order `name` of `size` rows in a folder, from `make` when it is not there yet.

    Raises: DataError when it is no order of the rows.
    """
    stored = StoredArray(folder=folder, name=name)
    if folder.exists(name):
        check_order(stored.open(), size, f"the order {folder.child(name).uri}")
        return stored
    order = make()
    check_order(order, size, "the order that was made")
    _save(folder, name, order, size)
    return stored


def keep_rows(folder: Storage, rows: np.ndarray, size: int) -> StoredArray:
    """Some of the rows 0..size-1, in a file whose name tells other rows apart.

    rows: [M] integers, rising, at least one.
    """
    assert len(rows) and rows[0] >= 0 and rows[-1] < size and (np.diff(rows) > 0).all()
    name = f"rows-{hashlib.sha256(rows.astype('<i8').tobytes()).hexdigest()[:16]}.npy"
    if not folder.exists(name):
        _save(folder, name, rows, size)
    return StoredArray(folder=folder, name=name)


def order_within(order: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """[M] places 0..M-1 in `rows`, in the order in which their rows come in `order`.

    order: [N] each row of 0..N-1 once; rows: [M] distinct ones of them.
    """
    places = np.full(len(order), -1, dtype=np.int64)
    places[rows] = np.arange(len(rows))
    ranked = places[order]
    return ranked[ranked >= 0]


def _save(folder: Storage, name: str, rows: np.ndarray, size: int) -> None:
    with folder.create(name) as path:
        np.save(path, rows.astype(np.int32 if size < 2**31 else np.int64), allow_pickle=False)


def check_order(order: np.ndarray, size: int, what: str) -> None:
    """Refuse what does not hold each row of 0..size-1 once; takes a byte of memory a row.

    Raises: DataError.
    """
    valid = order.shape == (size,) and order.dtype.kind in "iu"
    present = np.zeros(size if valid else 0, dtype=bool)
    for start in range(0, size if valid else 0, _CHUNK):
        rows = order[start : start + _CHUNK]
        if rows.min() < 0 or rows.max() >= size:
            valid = False
            break
        present[rows] = True
    if not valid or not present.all():
        raise DataError(
            f"{what}, {order.dtype} of shape {order.shape}, does not hold each row of 0..{size - 1} once: it was made "
            "for another dataset, or is damaged; delete it and score this dataset"
        )


def ranks_of(rows: np.ndarray, order: np.ndarray) -> np.ndarray:
    """[M] int64 places in `order` of M distinct rows that rise; reads the order by parts, so memory stays small.

    Raises: DataError when a row is not in the order.
    """
    ranks = np.full(len(rows), -1, dtype=np.int64)
    for start in range(0, len(order) if len(rows) else 0, _CHUNK):
        part = order[start : start + _CHUNK]
        places = np.minimum(np.searchsorted(rows, part), len(rows) - 1)
        found = rows[places] == part
        ranks[places[found]] = start + np.flatnonzero(found)
    if (ranks < 0).any():
        raise DataError(
            f"row {rows[ranks < 0][0]} is not in the order of {len(order)} rows: the order is of another dataset"
        )
    return ranks


def sorted_places(
    values: np.ndarray | pa.ChunkedArray, ids: pa.Array | pa.ChunkedArray, *, descending: bool
) -> np.ndarray:
    """[N] uint64 places of `values` in rising (or falling) order; equal ones in the order of their ids."""
    table = pa.table({"value": values, "id": ids})
    keys = [("value", "descending" if descending else "ascending"), ("id", "ascending")]
    return pc.call_function("sort_indices", [table], pc.SortOptions(sort_keys=keys)).to_numpy()
