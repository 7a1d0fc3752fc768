"""What of a dataset is needed for all rows at hand: ids, lengths and labels, in a file that is mapped, not read."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from gainrl_ray.data.stored_array import StoredArray
from gainrl_ray.storage import Storage

COLUMNS_FILE = "columns.arrow"

_SCHEMA = pa.schema([("problem_id", pa.string()), ("prompt_tokens", pa.int64()), ("difficulty", pa.float64())])
_BATCH_ROWS = 65_536  # so that even 10^8 rows are few batches to list


class ProblemIds(Sequence[str]):
    """Problem ids by row, of all problems or of chosen ones, memory-mapped; crosses processes as its folder."""

    def __init__(self, folder: Storage, chosen: StoredArray | None = None) -> None:
        """Raises: DataError when the folder has no such file, or it is not whole."""
        self._folder, self._chosen = folder, chosen
        self._column = open_columns(folder)["problem_id"]
        self._rows = range(len(self._column)) if chosen is None else chosen.open()

    def __reduce__(self) -> tuple[Any, ...]:
        return ProblemIds, (self._folder, self._chosen)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: Any) -> Any:
        if isinstance(row, slice):
            return [self[place] for place in range(*row.indices(len(self)))]
        return self._column[int(self._rows[row])].as_py()


def open_columns(folder: Storage) -> pa.Table:
    """The table problem_id, prompt_tokens, difficulty (NaN without a label) of all rows, memory-mapped.

    Raises: DataError when the folder has no such file, or it is not whole.
    """
    return folder.map_table(COLUMNS_FILE)


@contextmanager
def write_columns(folder: Storage) -> Iterator[Callable[[pa.Table], None]]:
    """A function that takes problems, table by table; the file is there when the block ends."""
    pending: list[pa.Table] = []

    def flush() -> None:
        writer.write_table(pa.concat_tables(pending).combine_chunks())
        pending.clear()

    def add(table: pa.Table) -> None:
        pending.append(table.select(_SCHEMA.names))
        if sum(part.num_rows for part in pending) >= _BATCH_ROWS:
            flush()

    with (
        folder.create(COLUMNS_FILE) as path,
        pa.OSFile(str(path), "wb") as file,
        pa.ipc.new_file(file, _SCHEMA) as writer,
    ):
        yield add
        if pending:
            flush()
