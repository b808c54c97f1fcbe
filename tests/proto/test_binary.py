import json

import h5py
import numpy as np
import pytest

from jaxcaffe.errors import DataError, SnapshotError
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.proto.binary import (
    array_to_blob,
    blob_to_array,
    is_hdf5,
    net_weights,
    read_blob,
    read_caffemodel,
    read_message,
    write_blob,
    write_caffemodel,
    write_message,
)


@pytest.mark.parametrize("name", ["v0", "v1", "v1_unpacked"])
def test_read_caffemodel_of_old_file_is_what_caffe_upgraded(golden, name):
    net = read_caffemodel(golden / f"{name}.caffemodel")
    expected = (golden / f"{name}_upgraded.caffemodel").read_bytes()
    assert net.SerializeToString() == expected


@pytest.mark.parametrize("name", ["v0", "v1", "v1_unpacked", "v2_double"])
def test_net_weights_of_any_age_are_what_caffe_loads(golden, name):
    told = json.loads((golden / "results.json").read_text())["binaries"]
    expected = np.load(golden / "binary_weights.npz")
    weights = net_weights(read_caffemodel(golden / f"{name}.caffemodel"))
    loads = told[f"{name}.caffemodel"]["loads"]
    assert len(loads) >= 4
    for key in loads:
        layer, index = key.split("/")
        found = weights[layer][int(index)]
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found.reshape(expected[key].shape), expected[key])


def test_net_weights_of_layer_without_blobs_is_empty(golden):
    weights = net_weights(read_caffemodel(golden / "v1.caffemodel"))
    assert weights["input"] == []


def test_write_caffemodel_read_back_is_equal_and_leaves_no_part(tmp_path):
    net = caffe_pb2.NetParameter()
    layer = net.layer.add(name="ip", type="InnerProduct")
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    layer.blobs.append(array_to_blob(weight))
    path = tmp_path / "w.caffemodel"
    write_caffemodel(path, net)
    write_caffemodel(path, net)
    found = net_weights(read_caffemodel(path))["ip"][0]
    np.testing.assert_array_equal(found, weight)
    assert found.flags.writeable
    assert [p.name for p in tmp_path.iterdir()] == ["w.caffemodel"]


@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 3, 4), (1, 2, 3, 4, 5)])
def test_array_to_blob_and_back_is_the_array(shape):
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    found = blob_to_array(array_to_blob(array))
    assert found.shape == shape
    np.testing.assert_array_equal(found, array)


def test_array_to_blob_of_transposed_array_is_row_major():
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    blob = array_to_blob(array, diff=2 * array)
    assert list(blob.data) == [0, 3, 1, 4, 2, 5]
    assert list(blob.diff) == [0, 6, 2, 8, 4, 10]
    assert list(blob.shape.dim) == [3, 2]


def test_array_to_blob_serializes_as_protobuf_itself_would():
    array = np.linspace(-1, 1, 300, dtype=np.float32)
    plain = caffe_pb2.BlobProto(data=array, shape=caffe_pb2.BlobShape(dim=[300]))
    assert array_to_blob(array).SerializeToString() == plain.SerializeToString()


def test_blob_to_array_with_both_shapes_takes_the_old_one():
    blob = caffe_pb2.BlobProto(num=1, channels=2, height=1, width=3, data=range(6))
    blob.shape.dim.extend([6])
    assert blob_to_array(blob).shape == (1, 2, 1, 3)


def test_blob_to_array_with_part_of_old_sizes_has_zeros():
    assert blob_to_array(caffe_pb2.BlobProto(num=2)).shape == (2, 0, 0, 0)


def test_blob_to_array_with_double_data_takes_it():
    blob = caffe_pb2.BlobProto(data=[1, 2], double_data=[0.1, 3])
    blob.shape.dim.append(2)
    np.testing.assert_array_equal(blob_to_array(blob), np.float32([0.1, 3]))


@pytest.mark.parametrize("dim", [[3], [], [-1], [2, 2]])
def test_blob_to_array_with_wrong_count_is_refused(dim):
    blob = caffe_pb2.BlobProto(data=[1, 2])
    blob.shape.dim.extend(dim)
    with pytest.raises(SnapshotError, match=r'layer "x" blob 0: has 2 values for sha'):
        blob_to_array(blob, 'layer "x" blob 0')


def test_read_blob_of_mean_by_caffe_is_its_array(golden):
    mean = read_blob(golden / "gray.binaryproto")
    np.testing.assert_array_equal(mean, np.load(golden / "gray.npy"))


def test_write_blob_of_mean_is_the_file_by_caffe(golden, tmp_path):
    write_blob(tmp_path / "m.binaryproto", np.load(golden / "gray.npy"))
    written = (tmp_path / "m.binaryproto").read_bytes()
    assert written == (golden / "gray.binaryproto").read_bytes()


def test_write_blob_of_three_axes_keeps_them(tmp_path):
    write_blob(tmp_path / "m.binaryproto", np.ones((3, 2, 2)))
    assert read_blob(tmp_path / "m.binaryproto").shape == (3, 2, 2)


def test_solver_state_written_and_read_is_equal(tmp_path):
    state = caffe_pb2.SolverState(iter=7, current_step=2, learned_net="a.caffemodel")
    state.history.append(array_to_blob(np.ones((2, 2))))
    write_message(tmp_path / "a.solverstate", state)
    found = read_message(tmp_path / "a.solverstate", caffe_pb2.SolverState())
    assert found == state


@pytest.mark.parametrize("name", ["cut", "text"])
def test_read_caffemodel_of_broken_file_is_refused(golden, name):
    with pytest.raises(SnapshotError, match=f"{name}.caffemodel: is no binary NetPara"):
        read_caffemodel(golden / f"{name}.caffemodel")


def test_read_caffemodel_of_mean_image_is_refused(golden):
    with pytest.raises(SnapshotError, match="holds no layer"):
        read_caffemodel(golden / "gray.binaryproto")


def test_read_blob_of_weights_is_refused(golden):
    with pytest.raises(DataError, match=r"v0\.caffemodel: holds no values"):
        read_blob(golden / "v0.caffemodel")


def test_read_caffemodel_of_hdf5_says_so(tmp_path):
    path = tmp_path / "w.caffemodel.h5"
    with h5py.File(path, "w") as file:
        file["x"] = 1
    assert is_hdf5(path)
    with pytest.raises(SnapshotError, match="is an HDF5 file, and a binary NetParamet"):
        read_caffemodel(path)


def test_is_hdf5_of_binary_file_is_false(golden):
    assert not is_hdf5(golden / "v1.caffemodel")


def test_read_caffemodel_of_missing_file_is_refused(tmp_path):
    with pytest.raises(SnapshotError, match=r"none\.caffemodel: no such file"):
        read_caffemodel(tmp_path / "none.caffemodel")


def test_read_blob_of_missing_file_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match=r"none\.binaryproto: no such file"):
        read_blob(tmp_path / "none.binaryproto")


def test_write_caffemodel_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "w.caffemodel"
    path.write_bytes(b"old")

    def fail(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("jaxcaffe.proto.files.os.fsync", fail)
    with pytest.raises(SnapshotError, match=r"cannot be written .No space left"):
        write_caffemodel(path, caffe_pb2.NetParameter(name="n"))
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["w.caffemodel"]


def test_write_caffemodel_onto_folder_is_refused(tmp_path):
    with pytest.raises(SnapshotError, match="is a folder"):
        write_caffemodel(tmp_path, caffe_pb2.NetParameter())
