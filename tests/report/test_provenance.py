"""What training notes for its report, and what is read back."""

from pathlib import Path

import numpy as np
import pytest

from gainrl_ray.data.orders import keep_order
from gainrl_ray.errors import DataError
from gainrl_ray.report.provenance import environment, read_order, write_order
from gainrl_ray.storage import Storage


def test_ranks_are_places_in_the_run_s_order(tmp_path: Path) -> None:
    run, index = Storage(str(tmp_path / "run")), Storage(str(tmp_path / "index"))
    write_order(run, keep_order(index, "order.npy", 4, lambda: np.array([2, 0, 3, 1])), "angle")
    ordering = read_order(run)
    assert ordering is not None and not ordering.lost
    assert (ordering.problems, ordering.signal) == (4, "angle")
    assert ordering.ranks(np.array([1, 2, 1, 3])).tolist() == [3, 0, 3, 2]


def test_without_an_order_a_rank_is_a_row(tmp_path: Path) -> None:
    run = Storage(str(tmp_path))
    assert read_order(run) is None
    write_order(run, range(10**8), "none")
    ordering = read_order(run)
    assert ordering is not None and not ordering.lost and ordering.problems == 10**8
    assert ordering.ranks(np.array([7, 99_999_999])).tolist() == [7, 99_999_999]


def test_an_order_that_is_gone_is_said_to_be(tmp_path: Path) -> None:
    run, index = Storage(str(tmp_path / "run")), Storage(str(tmp_path / "index"))
    write_order(run, keep_order(index, "order.npy", 3, lambda: np.array([2, 1, 0])), "length")
    index.delete("order.npy")
    ordering = read_order(run)
    assert ordering is not None and ordering.lost
    assert ordering.ranks(np.array([2])).tolist() == [2]


def test_a_damaged_note_is_named(tmp_path: Path) -> None:
    (tmp_path / "order.json").write_text("{")
    with pytest.raises(DataError, match=r"order\.json is no JSON"):
        read_order(Storage(str(tmp_path)))


def test_the_environment_names_software_and_machine() -> None:
    found = environment({"CPU": 2.0, "GPU": 1.0, "accelerator_type:H100": 1.0, "memory": 2.0**33, "node:10.0.0.1": 1.0})
    assert found["cluster GPU"] == "1" and found["cluster accelerator_type:H100"] == "1"
    assert found["cluster memory"] == "8.0 GiB"
    assert not any("10.0.0.1" in name for name in found), "addresses are nobody's business"
    assert found["processor"] and found["instructions"]
    assert found["ray"] == "2.60.0" and found["python"].startswith("3.") and int(found["cores"]) > 0
