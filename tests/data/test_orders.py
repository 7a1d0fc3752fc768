"""Orders on disk: made once, checked, and mapped."""

import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from gainrl_ray.data import orders
from gainrl_ray.data.orders import check_order, keep_order, ranks_of, sorted_places
from gainrl_ray.data.stored_array import StoredArray
from gainrl_ray.errors import DataError
from gainrl_ray.storage import Storage


def test_an_order_is_made_once_and_mapped(tmp_path: Path) -> None:
    folder, made = Storage(str(tmp_path)), []

    def make() -> np.ndarray:
        made.append(np.random.default_rng(0).permutation(500))
        return made[-1]

    kept = [keep_order(folder, "order-a.npy", 500, make) for _ in range(2)]
    assert len(made) == 1
    for stored in (*kept, pickle.loads(pickle.dumps(kept[0]))):
        mapped = stored.open()
        assert np.array_equal(mapped, made[0])
        assert mapped.dtype == np.int32 and not mapped.flags.owndata and not mapped.flags.writeable
    assert len(pickle.dumps(kept[0])) < 500


@pytest.mark.parametrize(
    "order", [[], [0, 0, 1], [0, 1, 3], [-1, 0, 1], [[0, 1, 2]], [0, 1], [0, 1, 2, 3], [0.0, 1, 2]]
)
def test_what_is_no_order_of_the_rows_is_refused(order: list, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"each row of 0\.\.2 once: it was made for another dataset"):
        keep_order(Storage(str(tmp_path)), "order.npy", 3, lambda: np.array(order))
    assert Storage(str(tmp_path)).list() == []
    np.save(tmp_path / "order.npy", np.array(order))
    with pytest.raises(DataError, match=r"order\.npy.* each row of 0\.\.2 once"):
        keep_order(Storage(str(tmp_path)), "order.npy", 3, lambda: np.arange(3))


def test_every_rank_is_looked_at_across_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders, "_CHUNK", 7)
    for size in (1, 6, 7, 8, 50):
        order = np.random.default_rng(size).permutation(size)
        check_order(order, size, "it")
        for rank in range(size if size > 1 else 0):
            wrong = order.copy()
            wrong[rank] = order[rank - 1]
            with pytest.raises(DataError, match="it, int64"):
                check_order(wrong, size, "it")


def test_a_cut_off_file_is_refused(tmp_path: Path) -> None:
    folder = Storage(str(tmp_path))
    stored = keep_order(folder, "order.npy", 1000, lambda: np.arange(1000))
    (tmp_path / "order.npy").write_bytes((tmp_path / "order.npy").read_bytes()[:-4])
    with pytest.raises(DataError, match=r"order\.npy cannot be read"):
        stored.open()
    (tmp_path / "order.npy").unlink()
    with pytest.raises(DataError, match=r"order\.npy does not exist"):
        StoredArray(folder=folder, name="order.npy").open()


def test_places_by_value_and_then_by_id() -> None:
    values, ids = np.array([0.5, 0.9, 0.5, 0.1]), pa.array(["é", "b", "z", "a"])
    assert sorted_places(values, ids, descending=True).tolist() == [1, 2, 0, 3]
    assert sorted_places(values, ids, descending=False).tolist() == [3, 2, 0, 1]


def test_ranks_are_found_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    order = np.array([4, 2, 0, 1, 3], dtype=np.int32)
    for chunk in (1, 2, 5, 100):
        monkeypatch.setattr(orders, "_CHUNK", chunk)
        assert ranks_of(np.array([0, 3, 4]), order).tolist() == [2, 4, 0]
        assert ranks_of(np.array([], dtype=np.int64), order).tolist() == []
    with pytest.raises(DataError, match="row 7 is not in the order of 5 rows"):
        ranks_of(np.array([2, 7]), order)
