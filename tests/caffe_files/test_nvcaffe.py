import numpy as np
import pytest

from jaxcaffe.caffe_files import nvcaffe
from jaxcaffe.caffe_files.weights import copy_weights, read_weights
from jaxcaffe.errors import SnapshotError
from jaxcaffe.net import graph, translate
from jaxcaffe.proto import binary, caffe_pb2, text

X = """layer { name: "x" type: "Input" top: "x"
  input_param { shape { dim: 4 dim: 2 dim: 3 dim: 3 } } }
"""
BN = 'layer { name: "bn" type: "BatchNorm" bottom: "x" top: "y" }\n'
SCALE = """layer { name: "factors" type: "Scale" bottom: "y" top: "y"
  scale_param { bias_term: true } }
"""
RELU = 'layer { name: "relu" type: "ReLU" bottom: "y" top: "y" }\n'

MEAN, VARIANCE = np.array([1, -2], np.float32), np.array([4, 9], np.float32)
ONE, FACTOR, BIAS = np.ones(1, np.float32), np.array([3, 5.0]), np.array([7, -7.0])
TODAY = [MEAN, VARIANCE, ONE, FACTOR, BIAS]
OLD = [FACTOR, BIAS, MEAN, VARIANCE, ONE]


def build(source: str, phase=caffe_pb2.TEST):
    net, where = text.parse_net(source, "net.prototxt")
    built = graph.build_graph(net, caffe_pb2.NetState(phase=phase), where)
    return translate.build_net(built, {})


def nvcaffes(blobs, raw: str | None = None) -> caffe_pb2.NetParameter:
    net = text.parse_net(X + BN, "nv")[0]
    bn = net.layer[1]
    # scale_bias: true, which BVLC's schema does not have.
    bn.batch_norm_param.MergeFromString(bytes([7 << 3, 1]))
    for blob in blobs:
        bn.blobs.append(binary.array_to_blob(blob) if raw is None else raw_blob(blob))
    return net


def raw_blob(array, dtype="<f2", number=2):
    """Writes a blob as NVIDIA's Caffe does: bytes in field 12, their type in 10."""
    data = np.asarray(array, dtype).tobytes()
    blob = caffe_pb2.BlobProto()
    blob.shape.dim.extend(np.shape(array))
    blob.MergeFromString(bytes([10 << 3, number, 12 << 3 | 2, len(data)]) + data)
    return blob


def expected(x):
    centred = x - MEAN.reshape(1, 2, 1, 1)
    y = centred / np.sqrt(VARIANCE + 1e-5).reshape(1, 2, 1, 1)
    return y * FACTOR.reshape(1, 2, 1, 1) + BIAS.reshape(1, 2, 1, 1)


def run(net, params, stats, key, blob="y"):
    x = np.random.default_rng(0).normal(size=(4, 2, 3, 3)).astype(np.float32)
    return x, net.apply(params, stats, {"x": x}, key).blobs[blob]


@pytest.mark.parametrize("blobs", [TODAY, OLD], ids=["today", "digits"])
@pytest.mark.parametrize("raw", [None, "half"])
def test_five_blobs_go_to_batch_norm_and_the_scale_behind_it(tmp_path, blobs, raw, key):
    path = str(tmp_path / "nv.caffemodel")
    binary.write_caffemodel(path, nvcaffes(blobs, raw))
    net = build(X + BN + SCALE + RELU)
    params, stats, report = copy_weights(net, *net.init(key), path)
    assert (report.ignored, report.missing) == ((), ())
    x, y = run(net, params, stats, key)
    np.testing.assert_allclose(y, np.maximum(expected(x), 0), rtol=1e-5, atol=1e-5)


def test_five_blobs_without_effect_need_no_scale(tmp_path, key):
    path = str(tmp_path / "nv.caffemodel")
    blobs = [MEAN, VARIANCE, ONE, np.ones(2), np.zeros(2)]
    binary.write_caffemodel(path, nvcaffes(blobs))
    net = build(X + BN)
    _, stats, _ = copy_weights(net, *net.init(key), path)
    np.testing.assert_array_equal(stats["bn"]["variance"], VARIANCE)
    np.testing.assert_array_equal(stats["bn"]["scale_factor"], [1])


@pytest.mark.parametrize(
    "rest", ["", RELU, SCALE.replace("bias_term: true", ""), RELU + SCALE]
)
def test_five_blobs_that_no_layer_takes_are_refused(tmp_path, key, rest):
    path = str(tmp_path / "nv.caffemodel")
    binary.write_caffemodel(path, nvcaffes(TODAY))
    net = build(X + BN + rest)
    with pytest.raises(
        SnapshotError, match=r'nv\.caffemodel: layer "bn": holds the scale and bias of'
    ):
        copy_weights(net, *net.init(key), path)


def test_to_bvlc_makes_a_net_of_the_same_values(tmp_path, key):
    path = str(tmp_path / "bvlc.caffemodel")
    converted = nvcaffe.to_bvlc(nvcaffes(TODAY))
    assert [layer.name for layer in converted.layer] == ["x", "bn", "bn_scale"]
    assert not converted.layer[1].batch_norm_param.ListFields()[1:]
    binary.write_caffemodel(path, converted)
    for layer in converted.layer:
        layer.ClearField("blobs")
    source = text.format_message(converted)
    net = build(source)
    params, stats, report = copy_weights(net, *net.init(key), path)
    assert report.missing == ()
    x, y = run(net, params, stats, key)
    np.testing.assert_allclose(y, expected(x), rtol=1e-5, atol=1e-5)


def test_to_bvlc_and_to_nvcaffe_undo_each_other():
    before = nvcaffes(TODAY)
    after = nvcaffe.to_nvcaffe(nvcaffe.to_bvlc(before))
    assert [layer.name for layer in after.layer] == ["x", "bn"]
    after.layer[1].batch_norm_param.ClearField("eps")
    assert after.SerializeToString() == before.SerializeToString()


def test_to_nvcaffe_divides_statistics_by_their_factor():
    net = text.parse_net(X + BN + RELU + SCALE, "n")[0]
    for blob in (MEAN * 4, VARIANCE * 4, ONE * 4):
        net.layer[1].blobs.append(binary.array_to_blob(blob))
    for blob in (FACTOR, BIAS):
        net.layer[3].blobs.append(binary.array_to_blob(blob))
    converted = nvcaffe.to_nvcaffe(net)
    # The ReLU comes first, so the Scale is not the BatchNorm's.
    assert [layer.name for layer in converted.layer] == ["x", "bn", "relu", "factors"]
    arrays = [binary.blob_to_array(blob) for blob in converted.layer[1].blobs]
    for ours, theirs in zip(arrays, (MEAN, VARIANCE, ONE), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_to_bvlc_with_the_new_layers_name_taken_is_refused():
    net = nvcaffes(TODAY)
    net.layer.add(name="bn_scale", type="ReLU")
    with pytest.raises(SnapshotError, match='layer "bn_scale" exists already'):
        nvcaffe.to_bvlc(net)


@pytest.mark.parametrize(("dtype", "number"), [("<f8", 0), ("<f4", 1), ("<f2", 2)])
def test_raw_data_of_each_float_type_is_read(dtype, number):
    array = np.array([[0.5, -2, 65504], [1, 2, 3]])
    blob = raw_blob(array, dtype, number)
    found = binary.blob_to_array(blob)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, array)
    # Values in the fields that BVLC knows come first.
    blob.data.extend(range(6))
    np.testing.assert_array_equal(binary.blob_to_array(blob).ravel(), range(6))


@pytest.mark.parametrize(
    ("dtype", "number", "shape", "message"),
    [
        ("<i4", 3, (2,), "8 raw bytes of NVIDIA's type 3"),
        ("<f4", 1, (3,), r"has 2 values for shape \(3,\)"),
        ("<f2", 0, (2,), "4 raw bytes of NVIDIA's type 0"),
    ],
)
def test_raw_data_of_other_types_or_sizes_is_refused(dtype, number, shape, message):
    blob = raw_blob(np.zeros(2), dtype, number)
    blob.shape.dim[:] = shape
    with pytest.raises(SnapshotError, match=message):
        binary.blob_to_array(blob, "x")


def test_raw_diff_is_read_and_a_blob_without_has_none():
    blob = raw_blob(np.zeros(2))
    assert binary.blob_to_diff(blob) is None
    data = np.array([1.5, -2], "<f2").tobytes()
    blob.MergeFromString(bytes([11 << 3, 2, 13 << 3 | 2, len(data)]) + data)
    np.testing.assert_array_equal(binary.blob_to_diff(blob), [1.5, -2])


def test_read_weights_of_solver_state_says_so(tmp_path):
    state = caffe_pb2.SolverState(iter=3, learned_net="x_iter_3.caffemodel")
    state.history.append(binary.array_to_blob(MEAN))
    (tmp_path / "x").write_bytes(state.SerializeToString())
    with pytest.raises(
        SnapshotError, match=r"solver's state.*Accepted: x_iter_3\.caffemodel, which"
    ):
        read_weights(tmp_path / "x")
