import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxcaffe.caffe_files import caffemodel
from jaxcaffe.caffe_files.caffemodel import saved_layers, write_caffemodel
from jaxcaffe.errors import SnapshotError
from jaxcaffe.proto import binary, caffe_pb2

ARRAYS = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=3),
    elements=st.floats(width=32, allow_nan=False),
)

X = """layer { name: "x" type: "Input" top: "x" top: "label"
  input_param { shape { dim: 2 dim: 3 } shape { dim: 2 } } }
"""
TWO_READERS = (
    X
    + """layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y"
  inner_product_param { num_output: 3 } }
layer { name: "bn" type: "BatchNorm" bottom: "y" top: "y" param { lr_mult: 0 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "y" bottom: "label" top: "l" }
layer { name: "sum" type: "Reduction" bottom: "y" top: "s" loss_weight: 0.5 }
"""
)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.tuples(st.text(max_size=5), st.lists(ARRAYS, max_size=3)),
        max_size=4,
        unique_by=lambda pair: pair[0],
    ),
    st.booleans(),
)
def test_caffemodel_written_is_what_protobuf_writes(tmp_path_factory, content, slopes):
    path = tmp_path_factory.mktemp("x") / "x.caffemodel"
    layers, expected = [], caffe_pb2.NetParameter(name="n")
    for name, arrays in content:
        layer = caffe_pb2.LayerParameter(name=name, type="T", top=["t"], phase=1)
        layer.loss_weight.append(1)
        layer.relu_param.negative_slope = 0.5
        layers.append(layer)
        whole = expected.layer.add()
        whole.CopyFrom(layer)
        whole.blobs.extend(
            binary.array_to_blob(array, array * 0.5 if slopes else None)
            for array in arrays
        )
    for layer in expected.layer:
        for blob in layer.blobs:
            if not blob.shape.dim:
                blob.ClearField("shape")
    blobs = dict(content)
    diffs = {name: [array * 0.5 for array in arrays] for name, arrays in content}
    write_caffemodel(path, "n", layers, blobs, diffs if slopes else None)
    assert path.read_bytes() == expected.SerializeToString()
    if layers:
        found = binary.net_weights(binary.read_caffemodel(path))
        for name, arrays in content:
            for ours, theirs in zip(found[name], arrays, strict=True):
                np.testing.assert_array_equal(ours, theirs)


def test_saved_layers_have_splits_loss_weights_and_frozen_statistics(net_of):
    layers = {layer.name: layer for layer in saved_layers(net_of(TWO_READERS))}
    split = layers["y_bn_0_split"]
    assert list(split.top) == ["y_bn_0_split_0", "y_bn_0_split_1"]
    assert list(layers["loss"].bottom) == ["y_bn_0_split_0", "label"]
    assert list(layers["loss"].loss_weight) == [1]
    assert list(layers["sum"].loss_weight) == [0.5]
    assert [spec.lr_mult for spec in layers["bn"].param] == [0, 0, 0]
    assert {layer.phase for layer in layers.values()} == {caffe_pb2.TRAIN}


def test_write_caffemodel_over_protobufs_limit_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(caffemodel, "LONGEST_MESSAGE", 1000)
    layer = caffe_pb2.LayerParameter(name="ip")
    with pytest.raises(SnapshotError, match=r"over 2 GiB.*snapshot_format: HDF5"):
        write_caffemodel(
            tmp_path / "x", "n", [layer], {"ip": [np.zeros(250, np.float32)]}
        )
    assert list(tmp_path.iterdir()) == []


def test_write_caffemodel_of_array_that_is_not_in_order_writes_rows(tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    layer = caffe_pb2.LayerParameter(name="ip")
    write_caffemodel(tmp_path / "x", "n", [layer], {"ip": [array]})
    found = binary.net_weights(binary.read_caffemodel(tmp_path / "x"))["ip"]
    np.testing.assert_array_equal(found[0], array)
