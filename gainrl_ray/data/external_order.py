"""Orders that somebody else made: row numbers or problem ids in a file to rows, each problem's once.

GAIN-RL's released orders are such files (`torch.load(..., weights_only=True)` reads the .pt ones); they hold row
numbers and were applied to other rows than they were made for (304 of 7,474 agreed), so size and ids are checked.
"""

import io
import json
import pickle
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from gainrl_ray.data.problem_table import ProblemTable
from gainrl_ray.errors import DataError
from gainrl_ray.storage import Storage

SUFFIXES = (".parquet", ".json", ".npy", ".pt")
_SHOWN = 5
_ACCEPTED = "accepted are row numbers (integers from 0) or problem ids (text), one of each problem, the first to train"


def read_order(path: str, key: str | None, table: ProblemTable) -> np.ndarray:
    """[N] int64 rows of the whole dataset behind `table`, in the order that a file gives.

    path: a path or URI that ends in one of SUFFIXES. A .parquet file has a column `key` (none: its only one); .json
    and .pt files a list, or a mapping whose `key` is one; .pt and .npy files integer arrays too. Integers are row
    numbers of the prepared dataset, bad rows left out; text is problem ids.

    Raises:
        DataError: an unreadable file, an unknown key, another number of entries than problems, entries that are no
            problem's or come twice.
    """
    values = _values(path, key)
    size = table.report.kept
    if len(values) != size:
        left_out = sum(table.report.bad.values())
        hint = f" ({left_out} rows of it were left out: give problem ids or an order of those kept)" if left_out else ""
        raise DataError(
            f"the order {path} has {len(values)} entries and data.train has {size} problems{hint}: use the order of "
            f"this very dataset; {_ACCEPTED}"
        )
    if pa.types.is_integer(values.type):
        rows = values.to_numpy(zero_copy_only=False).astype(np.int64)
        known = (rows >= 0) & (rows < size)
    else:
        ids = table.whole.columns["problem_id"]
        found = pc.call_function("index_in", [values.cast(ids.type)], pc.SetLookupOptions(value_set=ids))
        known = found.is_valid().to_numpy(zero_copy_only=False)
        rows = found.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    _refuse(path, values, ~known, f"that are no rows 0..{size - 1} or problem ids of data.train")
    _, first = np.unique(rows, return_index=True)
    repeated = np.ones(size, dtype=bool)
    repeated[first] = False
    _refuse(path, values, repeated, "that come twice")
    return rows


def _values(path: str, key: str | None) -> pa.Array:
    """The entries of a file, integers or text."""
    storage, name = _opened(path)
    suffix = PurePosixPath(name).suffix
    if suffix == ".parquet":
        return _checked(path, _column(path, key, storage.read_table(name)))
    if suffix == ".npy":
        return _checked(path, storage.map_array(name))
    if suffix == ".json":
        return _checked(path, _entry(path, key, _json(path, storage.read_text(name))))
    if suffix == ".pt":
        return _checked(path, _entry(path, key, _tensors(path, storage.read_bytes(name))))
    raise DataError(f"the order {path} is of no known kind: accepted are {', '.join(SUFFIXES)}")


def _opened(path: str) -> tuple[Storage, str]:
    """The folder and the name of a file."""
    place, mark, query = path.partition("?") if "://" in path else (path, "", "")
    folder, slash, name = place.rpartition("/")
    return Storage((f"{folder}/" if slash else ".") + mark + query), name


def _column(path: str, key: str | None, table: pa.Table) -> pa.ChunkedArray:
    names = table.column_names
    wanted = names[0] if key is None and len(names) == 1 else key
    if wanted not in names:
        raise DataError(
            f"the order {path} has the columns {', '.join(map(repr, names))}, curriculum.key is {key!r}: set it to the "
            "column of row numbers or problem ids"
        )
    return table[wanted]


def _entry(path: str, key: str | None, content: Any) -> Any:
    """The list or array in a file's content."""
    if key is None:
        if not isinstance(content, dict):
            return content
    elif isinstance(content, dict) and key in content:
        return content[key]
    found = f"a mapping with the keys {list(content)[:_SHOWN]}" if isinstance(content, dict) else "a list or an array"
    raise DataError(
        f"the order {path} holds {found}, curriculum.key is {key!r}: name the key of the list, or leave it out for a "
        "file that is a list"
    )


def _json(path: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"the order {path} is not JSON ({error}): mend the file") from error


def _tensors(path: str, content: bytes) -> Any:
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise DataError(
            f"the order {path} cannot be loaded ({type(error).__name__}): accepted are tensors, lists and mappings as "
            "torch.load(weights_only=True) reads them; save the order anew as one of these"
        ) from error


def _checked(path: str, values: Any) -> pa.Array:
    """The values as one array. Raises DataError for what is neither integers nor text, or has several dimensions."""
    try:
        if isinstance(values, pa.ChunkedArray):
            array = values.combine_chunks()
        else:
            array = pa.array(values.numpy() if isinstance(values, torch.Tensor) else values)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise DataError(f"the order {path} is no plain list ({error}): {_ACCEPTED}") from error
    array = array if len(array) else pa.array([], pa.int64())
    text = pa.types.is_string(array.type) or pa.types.is_large_string(array.type)
    if not (text or pa.types.is_integer(array.type)) or array.null_count:
        nulls = f" with {array.null_count} missing" if array.null_count else ""
        raise DataError(f"the order {path} holds values of type {array.type}{nulls}: {_ACCEPTED}")
    return array


def _refuse(path: str, values: pa.Array, wrong: np.ndarray, what: str) -> None:
    places = np.flatnonzero(wrong)
    if len(places):
        shown = ", ".join(map(repr, values.take(pa.array(places[:_SHOWN])).to_pylist()))
        more = ", ..." if len(places) > _SHOWN else ""
        raise DataError(f"the order {path} has {len(places)} entries {what}: {shown}{more}; {_ACCEPTED}")
