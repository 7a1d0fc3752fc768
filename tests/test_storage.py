"""Storage: local folders and URIs behave alike, files appear whole or not at all."""

import os
import pickle
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.fs
import pytest

from gainrl_ray.errors import DataError
from gainrl_ray.storage import Storage

TABLE = pa.table({"row": [0, 1], "text": ["a", "ü"]})


def remote(uri: str = "mock:///bucket") -> Storage:
    """A folder on a file system that is not this machine's."""
    return Storage(uri)


@pytest.fixture(params=["path", "uri", "remote"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return {
        "path": lambda: Storage(str(tmp_path / "row=a b%20#c?d")),
        "uri": lambda: Storage(f"file://{tmp_path}/folder/"),
        "remote": remote,
    }[request.param]()


def test_text_is_written_replaced_and_read(storage: Storage) -> None:
    storage.write_text("sub/notes.txt", "one\r\ntwo")
    assert storage.read_text("sub/notes.txt") == "one\r\ntwo"
    storage.write_text("sub/notes.txt", "drei ü\n")
    assert storage.child("sub").read_text("notes.txt") == "drei ü\n"


def test_a_file_s_stamp_changes_with_it(storage: Storage) -> None:
    storage.write_text("a.txt", "one")
    first = storage.stamp("a.txt")
    assert storage.stamp("a.txt") == first
    storage.write_text("a.txt", "more")
    assert storage.stamp("a.txt") != first


def test_a_trial_of_writing_leaves_nothing(storage: Storage) -> None:
    there = storage.exists()
    storage.check_writable()
    assert storage.exists() == there or not storage.is_local
    assert storage.list() == []
    assert (storage.free_bytes or 0) > 0 or not storage.is_local


def test_where_nothing_can_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file/run/.* cannot be read or written .*the rights to it"):
        Storage(str(tmp_path / "file")).child("run").check_writable()


def test_tables_are_written_and_read_by_column(storage: Storage) -> None:
    storage.write_table("t.parquet", TABLE)
    assert storage.read_table("t.parquet") == TABLE
    assert storage.read_table("t.parquet", ["text"]).to_pydict() == {"text": ["a", "ü"]}
    with storage.open_parquet("t.parquet") as file:
        assert file.metadata.num_rows == 2


def test_arrays_and_arrow_files_are_mapped_and_outlive_their_copies(storage: Storage, tmp_path: Path) -> None:
    with storage.create("a.npy") as path:
        np.save(path, np.arange(1000, dtype=np.int32))
    with (
        storage.create("t.arrow") as path,
        pa.OSFile(str(path), "wb") as file,
        pa.ipc.new_file(file, TABLE.schema) as to,
    ):
        to.write_table(TABLE)
    pa_bytes = pa.total_allocated_bytes()
    array, table = storage.map_array("a.npy"), storage.map_table("t.arrow")
    assert pa.total_allocated_bytes() - pa_bytes < 4096
    if storage.is_local:  # the mapping is of the file itself, which may go
        storage.delete("a.npy")
    assert array.tolist() == list(range(1000)) and table == TABLE
    assert not array.flags.writeable and array.dtype == np.int32 and not array.flags.owndata
    assert not [path for path in Path(tempfile.gettempdir()).glob("gainrl-*") if (path / "t.arrow").exists()]


@pytest.mark.parametrize("name", ["no.npy", "broken.npy", "empty.npy", "no.arrow", "broken.arrow"])
def test_files_that_cannot_be_mapped_are_named(storage: Storage, name: str) -> None:
    storage.write_text("broken.npy", "no array, but long enough to look for one")
    storage.write_text("broken.arrow", "no table, but long enough to look for one")
    storage.write_text("empty.npy", "")
    with pytest.raises(DataError, match=name.replace(".", r"\.") + " (does not exist|cannot be read)"):
        storage.map_array(name) if name.endswith(".npy") else storage.map_table(name)


def test_folders_list_and_delete(storage: Storage) -> None:
    assert storage.list() == []
    assert not storage.exists()
    child = storage.child("runs", "one")
    child.write_text("b", "")
    child.write_text("a", "")
    assert child.list() == ["a", "b"]
    assert storage.list("runs") == ["one"]
    assert storage.exists("runs/one/a") and storage.exists()
    child.delete("a")
    child.delete("a")
    assert child.list() == ["b"]
    storage.delete("runs")
    assert not child.exists("b")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(storage: Storage) -> None:
    storage.write_text("state", "old")
    with pytest.raises(RuntimeError, match="half-way"), storage.create("state") as path:
        path.write_text("half")
        assert storage.read_text("state") == "old"
        assert storage.list() == ["state"]
        raise RuntimeError("half-way")
    assert storage.read_text("state") == "old"
    assert [info.base_name for info in storage.filesystem.get_file_info(pyarrow.fs.FileSelector(storage.path))] == [
        "state"
    ]


def test_missing_and_broken_files_are_named(storage: Storage) -> None:
    with pytest.raises(DataError, match=r"no\.txt does not exist"):
        storage.read_text("no.txt")
    with pytest.raises(DataError, match=r"no\.parquet does not exist"):
        storage.read_table("no.parquet")
    storage.write_text("broken.parquet", "not a table")
    with pytest.raises(DataError, match=r"broken\.parquet cannot be read .*ArrowInvalid"):
        storage.read_table("broken.parquet")


def test_a_relative_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    storage = Storage("runs/")
    assert storage.uri == storage.path == str(tmp_path / "runs")
    assert storage.is_local
    monkeypatch.chdir("/")
    storage.write_text("x", "here")
    assert (tmp_path / "runs" / "x").read_text() == "here"


def test_the_parts_of_a_uri() -> None:
    storage = remote("mock:///bucket/").child("runs").child("one")
    assert (storage.uri, storage.path, storage.is_local) == ("mock:///bucket/runs/one", "bucket/runs/one", False)


def test_the_query_of_a_uri_stays_at_its_end() -> None:
    storage = Storage("s3://key:secret@bucket/runs?endpoint_override=127.0.0.1:9&scheme=http").child("one", "two")
    assert storage.uri == "s3://key:secret@bucket/runs/one/two?endpoint_override=127.0.0.1:9&scheme=http"
    assert storage.path == "bucket/runs/one/two"


def test_a_folder_is_uploaded_with_all_below_it(storage: Storage, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "inner").mkdir(parents=True)
    (source / "a").write_text("1")
    (source / "inner" / "b").write_text("2")
    storage.upload(source, "copy/of")
    assert storage.read_text("copy/of/a") == "1" and storage.read_text("copy/of/inner/b") == "2"
    (source / "a").write_text("3")
    storage.upload(source, "copy/of")
    assert storage.read_text("copy/of/a") == "3"


def test_a_storage_crosses_processes(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path)).child("runs")
    storage.write_text("x", "here")
    copy = pickle.loads(pickle.dumps(storage))
    assert (copy.uri, copy.path) == (storage.uri, storage.path)
    assert copy.read_text("x") == "here"


@pytest.mark.parametrize("name", ["..", "a/../../b", "/etc/passwd", ""])
def test_names_that_leave_the_folder_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no name below a storage folder"):
        Storage(str(tmp_path)).child(name)
    if name:
        with pytest.raises(DataError, match="no name below a storage folder"):
            Storage(str(tmp_path)).write_text(name, "x")


@pytest.mark.parametrize("uri", ["", "nosuch://bucket/folder"])
def test_uris_that_cannot_be_opened(uri: str) -> None:
    with pytest.raises(DataError, match=r"storage .*s3://"):
        Storage(uri)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_rights(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(DataError, match="rights"):
        Storage(str(tmp_path)).write_text("x", "y")


def test_a_file_in_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be read or written"):
        Storage(str(tmp_path / "file")).write_text("x", "y")
