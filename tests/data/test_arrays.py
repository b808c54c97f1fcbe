import pickle

import numpy as np
import pytest

from jaxcaffe.data.arrays import ArraySource
from jaxcaffe.errors import DataError

DATA = np.arange(24, dtype=np.float32).reshape(4, 1, 2, 3)
LABELS = np.array([3, 1, 4, 1])


@pytest.mark.parametrize("labels", [LABELS, LABELS.reshape(4, 1, 1, 1) * 1.0])
def test_array_source_gives_rows(labels):
    source = pickle.loads(pickle.dumps(ArraySource(DATA, labels)))
    assert len(source) == 4
    np.testing.assert_array_equal(source[2]["data"], DATA[2])
    # Caffe's MemoryData has a label blob of four axes.
    assert source[2]["label"].shape == (1, 1, 1)
    assert source[2]["label"].dtype == np.float32
    assert source[2]["label"].item() == 4
    assert source.key(2) == "row 2"


def test_array_source_bytes_stay_bytes():
    assert ArraySource(DATA.astype(np.uint8), LABELS)[0]["data"].dtype == np.uint8


@pytest.mark.parametrize(
    ("data", "labels", "message"),
    [
        (DATA.astype(np.float64), LABELS, "data is float64.*float32, or uint8"),
        (DATA[0], LABELS, r"data has shape \(1, 2, 3\).*four axes"),
        (DATA, LABELS[:3], r"labels have shape \(3,\) beside 4 rows"),
        (DATA, LABELS.astype(str), "labels are <U"),
        (DATA[:0], LABELS[:0], "data has no row"),
    ],
)
def test_array_source_wrong_arrays_raise(data, labels, message):
    with pytest.raises(DataError, match=message):
        ArraySource(data, labels)
