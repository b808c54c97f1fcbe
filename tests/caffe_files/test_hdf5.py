import io

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxcaffe.caffe_files import hdf5
from jaxcaffe.errors import SnapshotError

ARRAYS = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=3),
    elements=st.floats(width=32),
)
NAMES = st.text("ab1_/-. ", min_size=1, max_size=6).filter(
    # What no path in HDF5 can be; a digit alone could be a blob of the layer around it.
    lambda name: all(p and set(p) != {"."} and p != "1" for p in name.split("/"))
)


@settings(deadline=None, max_examples=40)
@given(st.dictionaries(NAMES, st.lists(st.none() | ARRAYS, max_size=3), max_size=4))
def test_weights_written_and_read_are_the_same(tmp_path_factory, blobs):
    path = tmp_path_factory.mktemp("h5") / "x.caffemodel.h5"
    hdf5.write_weights(path, list(blobs), blobs, {})
    found = hdf5.read_weights(path)
    # A group that only holds other layers cannot be told from a layer without blobs.
    assert {name for name, arrays in blobs.items() if arrays} <= set(found) | {
        name for name, arrays in blobs.items() if all(a is None for a in arrays)
    }
    for name, arrays in found.items():
        for number, array in enumerate(arrays):
            expected = blobs[name][number]
            if expected is None:
                assert array is None
            else:
                np.testing.assert_array_equal(array, expected)
                assert array.dtype == np.float32


@settings(deadline=None, max_examples=25)
@given(
    st.integers(0, 2**31 - 1),
    st.text(min_size=0, max_size=9).filter(lambda t: "\0" not in t),
    st.lists(ARRAYS, max_size=12),
)
def test_state_written_and_read_is_the_same(
    tmp_path_factory, iteration, learned_net, history
):
    path = tmp_path_factory.mktemp("h5") / "x.solverstate.h5"
    try:
        learned_net.encode()
    except UnicodeEncodeError:
        learned_net = "lone"
    hdf5.write_state(path, iteration, learned_net, 3, history)
    found = hdf5.read_state(path)
    assert (found["iter"], found["current_step"]) == (iteration, 3)
    assert found["learned_net"] == learned_net
    assert len(found["history"]) == len(history)
    for ours, theirs in zip(found["history"], history, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_learned_net_has_fixed_length_and_a_zero_at_its_end(tmp_path):
    """Caffe reads into as many bytes as the type says, and stops at a zero."""
    hdf5.write_state(tmp_path / "x.h5", 1, "abc", 0, [])
    with h5py.File(tmp_path / "x.h5") as file:
        kind = file["learned_net"].id.get_type()
        assert (kind.get_size(), kind.get_strpad()) == (4, h5py.h5t.STR_NULLTERM)
        assert not kind.is_variable_str()


def test_read_weights_of_doubles_and_integers_gives_float32(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["data/ip/0"] = np.arange(3.0)
        file["data/ip/1"] = np.arange(3)
    blobs = hdf5.read_weights(tmp_path / "x.h5")["ip"]
    assert [blob.dtype for blob in blobs] == [np.float32, np.float32]
    np.testing.assert_array_equal(blobs[1], [0, 1, 2])


def test_write_weights_with_diffs_writes_shared_ones_too(tmp_path):
    one = np.ones((2, 1), np.float32)
    hdf5.write_weights(
        tmp_path / "x.h5",
        ["a", "b", "relu"],
        {"a": [one], "b": [None]},
        {"a": [one * 2], "b": [one * 2]},
    )
    with h5py.File(tmp_path / "x.h5") as file:
        assert sorted(file) == ["data", "diff"]
        assert list(file["data/b"]) == []
        assert sorted(file["diff"]) == sorted(file["data"]) == ["a", "b", "relu"]
        np.testing.assert_array_equal(file["diff/b/0"], one * 2)


def test_write_weights_of_layer_that_is_a_blobs_name_is_refused(tmp_path):
    one = np.ones(1, np.float32)
    with pytest.raises(SnapshotError, match="cannot be laid out in HDF5"):
        hdf5.write_weights(
            tmp_path / "x.h5", ["a", "a/0"], {"a": [one], "a/0": [one]}, {}
        )
    assert list(tmp_path.iterdir()) == []


def h5_bytes(fill) -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        fill(file)
    return buffer.getvalue()


def weights(file):
    file["data/ip/0"] = np.zeros(999, np.float32)


def state(file):
    for name in ("iter", "current_step"):
        file[name] = [1]
    file["history/0"] = np.zeros(3, np.float32)


def words(file):
    file["data/ip/0"] = np.array([b"a", b"b"])


def gap(file):
    state(file)
    file["history/2"] = np.zeros(3, np.float32)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (h5_bytes(weights)[:2500], "cut short or broken"),
        (b"no HDF5 at all", "cut short or broken"),
        (h5_bytes(lambda file: file.create_group("net")), 'has no group "data"'),
        (h5_bytes(state), "holds a solver's state, not weights"),
        (h5_bytes(words), '"/data/ip/0" holds |S1'),
    ],
)
def test_read_weights_of_wrong_file_is_refused(tmp_path, data, message):
    (tmp_path / "x.h5").write_bytes(data)
    with pytest.raises(SnapshotError, match=message):
        hdf5.read_weights(tmp_path / "x.h5")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (h5_bytes(state)[:900], "cut short or broken"),
        (h5_bytes(weights), "holds weights alone.* --weights="),
        (h5_bytes(lambda file: file.create_group("x")), "no solver's state"),
        (h5_bytes(gap), "history is not numbered from 0 to 1"),
    ],
)
def test_read_state_of_wrong_file_is_refused(tmp_path, data, message):
    (tmp_path / "x.h5").write_bytes(data)
    with pytest.raises(SnapshotError, match=message):
        hdf5.read_state(tmp_path / "x.h5")
