import json
import pickle

import numpy as np
import pytest

from gainrl_ray.data.scored_index import Fingerprint
from gainrl_ray.data.signal_store import MANIFEST_FILE, Origin, find_signal, keep_signal
from gainrl_ray.errors import DataError
from gainrl_ray.storage import Storage

FINGERPRINT = Fingerprint(
    model_digest="m", tokenizer_digest="t", template_digest="p", dataset_digest="d", signal_version="pass_rate/1"
)
IDS = [f"problem-{row}" for row in range(8)]


def origin(**settings):
    return Origin(signal="pass_rate", fingerprint=FINGERPRINT, settings={"samples": 8} | settings)


@pytest.fixture
def storage(tmp_path):
    return Storage(str(tmp_path))


@pytest.mark.parametrize(("shape", "dtype"), [((8,), np.float64), ((8, 3), np.float32)])
def test_values_come_back_by_row_with_what_made_them(storage, shape, dtype):
    values = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
    assert find_signal(storage, origin(), 8) is None
    kept = keep_signal(storage, origin(), values, IDS, seconds=1.5)
    found = pickle.loads(pickle.dumps(find_signal(storage, origin(), 8)))
    assert found.folder.uri == kept.folder.uri
    assert found.open().dtype == dtype
    assert not found.open().flags.writeable
    np.testing.assert_array_equal(found.open(), values)
    manifest = json.loads(found.folder.read_text(MANIFEST_FILE))
    assert manifest["settings"] == {"samples": 8}
    assert manifest["fingerprint"]["dataset_digest"] == "d"
    assert (manifest["signal"], manifest["problems"], manifest["seconds"]) == ("pass_rate", 8, 1.5)


def test_another_setting_is_another_signal(storage):
    keep_signal(storage, origin(), np.zeros(8), IDS, seconds=0.0)
    assert find_signal(storage, origin(samples=16), 8) is None


def test_values_that_are_not_finite_are_refused_with_their_problems(storage):
    values = np.ones((8, 2))
    values[1, 0], values[6, 1] = np.nan, np.inf
    with pytest.raises(DataError, match=r"2 of 8 problems have a pass_rate that is not finite.*problem-1, problem-6"):
        keep_signal(storage, origin(), values, IDS, seconds=0.0)
    assert find_signal(storage, origin(), 8) is None


def test_other_numbers_of_rows_are_refused(storage):
    with pytest.raises(DataError, match=r"7 values for 8 problems"):
        keep_signal(storage, origin(), np.zeros(7), IDS, seconds=0.0)
    keep_signal(storage, origin(), np.zeros(8), IDS, seconds=0.0)
    with pytest.raises(DataError, match=r"holds values of 8 problems, expected 9: delete"):
        find_signal(storage, origin(), 9)
