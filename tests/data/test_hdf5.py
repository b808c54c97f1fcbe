import pickle

import h5py
import numpy as np
import pytest

from jaxcaffe.data import hdf5
from jaxcaffe.data.hdf5 import Hdf5Source, read_hdf5_list
from jaxcaffe.errors import DataError


@pytest.fixture
def write(tmp_path):
    def make(name, **datasets):
        path = str(tmp_path / name)
        with h5py.File(path, "w") as file:
            for key, value in datasets.items():
                file[key] = value
        return path

    return make


@pytest.fixture
def files(write):
    """Files of 3, 0, 1 and 4 rows; row k of all has the label k."""
    paths, start = [], 0
    for number, rows in enumerate((3, 0, 1, 4)):
        label = np.arange(start, start + rows)
        data = np.stack([label, -label], axis=1).astype(np.float64)
        paths.append(write(f"{number}.h5", label=label, data=data))
        start += rows
    return paths


def check_rows(source):
    assert len(source) == 8
    for index in (7, 0, 3, 2, 4, 6, 1, 5):
        row = source[index]
        assert row["label"].dtype == row["data"].dtype == np.float32
        assert row["label"] == index
        np.testing.assert_array_equal(row["data"], [index, -index])


def test_hdf5_source_counts_rows_through_files(files):
    source = Hdf5Source(files, ["data", "label"])
    check_rows(source)
    assert source.groups == (3, 1, 4)
    assert source.key(3) == f"{files[2]} row 0"
    assert source.key(7) == f"{files[3]} row 3"
    assert "4 files (8 rows)" in repr(source)


def test_hdf5_source_pickled_reads_the_same(files):
    source = Hdf5Source(files, ["data", "label"])
    check_rows(source)
    state = pickle.dumps(source)
    assert len(state) < 2000
    check_rows(pickle.loads(state))


def test_hdf5_source_file_larger_than_block_is_read_in_blocks(files, monkeypatch):
    monkeypatch.setattr(hdf5, "BLOCK_BYTES", 24)
    monkeypatch.setattr(hdf5, "CACHED_BYTES", 30)
    source = Hdf5Source(files, ["data", "label"])
    assert source.groups == (2, 1, 1, 2, 2)
    check_rows(source)
    assert source.key(7) == f"{files[3]} row 3"
    # Two blocks, whatever the bound: two batches may be in the making.
    assert len(source._cache) == 2


def test_hdf5_source_cache_holds_what_fits(files):
    source = Hdf5Source(files, ["label"])
    for index in range(8):
        source[index]
    assert len(source._cache) == 3


@pytest.mark.parametrize("dtype", ["u1", "i8", ">i4", "f2", ">f8", "u8"])
def test_hdf5_source_any_number_becomes_float32(write, dtype):
    values = np.array([0, 1, 100], dtype)
    row = Hdf5Source([write("a.h5", x=values)], ["x"])[2]["x"]
    assert row.dtype == np.float32
    assert row == 100


def test_hdf5_source_large_integers_round_to_nearest(write):
    values = np.array([2**24 + 1, 2**24 + 3], np.int64)
    source = Hdf5Source([write("a.h5", x=values)], ["x"])
    assert [source[i]["x"].item() for i in range(2)] == [2**24, 2**24 + 4]


@pytest.mark.parametrize(
    ("datasets", "message"),
    [
        ({"labels": [1.0]}, 'no dataset named "label", a top. Accepted: labels'),
        ({"label": ["a", "b"]}, 'dataset "label" holds text'),
        ({"label": [True]}, 'dataset "label" holds values of type bool'),
        ({"label": [1j]}, 'dataset "label" holds values of type complex128'),
        ({"label": 3.0}, 'dataset "label" is a single value'),
        ({"label": np.zeros(0)}, "the files hold no row"),
    ],
)
def test_hdf5_source_wrong_dataset_raises(write, datasets, message):
    path = write("a.h5", **datasets)
    with pytest.raises(DataError, match=message) as caught:
        Hdf5Source([path], ["label"])
    assert str(caught.value).startswith(path)


def test_hdf5_source_row_counts_that_differ_raise(write):
    path = write("a.h5", data=np.zeros((3, 2)), label=np.zeros(4))
    with pytest.raises(DataError, match='"label" has 4 rows, "data" has 3'):
        Hdf5Source([path], ["data", "label"])


def test_hdf5_source_row_shapes_that_differ_raise(write):
    paths = [write("a.h5", x=np.zeros((3, 2))), write("b.h5", x=np.zeros((3, 4)))]
    with pytest.raises(DataError, match=r"b.h5: rows .* shape \(4,\).*\(2,\)"):
        Hdf5Source(paths, ["x"])


def test_hdf5_source_file_of_another_kind_raises(tmp_path):
    path = tmp_path / "a.h5"
    path.write_text("no HDF5")
    with pytest.raises(DataError, match="cannot be opened as an HDF5 file"):
        Hdf5Source([str(path)], ["x"])
    with pytest.raises(DataError, match="no such HDF5 file"):
        Hdf5Source([str(path) + "5"], ["x"])


def test_read_hdf5_list_takes_any_blanks(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("  a.h5  b.h5\n\n\tc.h5")
    assert read_hdf5_list(str(path)) == ["a.h5", "b.h5", "c.h5"]


@pytest.mark.parametrize(
    ("text", "message"), [(None, "cannot be read"), (" \n", "names no HDF5 file")]
)
def test_read_hdf5_list_missing_or_empty_raises(tmp_path, text, message):
    path = tmp_path / "list.txt"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_hdf5_list(str(path))
