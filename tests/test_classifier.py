"""Classifier against pycaffe's steps written out again in numpy."""

import subprocess
import sys

import cv2
import jax
import numpy as np
import optax
import pytest
from scipy import ndimage

from jaxcaffe import checkpoint, errors
from jaxcaffe.classifier import Classifier, load_image
from jaxcaffe.image_io import center_crop, oversample, resize_image
from jaxcaffe.net import graph, translate
from jaxcaffe.proto import binary, caffe_pb2, text
from jaxcaffe.state import init_state

# Sums of a few hundred products in float32, in another order.
TOLERANCE = 2e-5

NET = """
name: "tiny"
layer {
  name: "data" type: "Input" top: "data"
  input_param { shape { dim: 8 dim: 3 dim: 6 dim: 5 } }
}
layer {
  name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 4 weight_filler { type: "xavier" } }
}
layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" }
"""


def write_net(folder, net=NET, name="deploy.prototxt"):
    path = folder / name
    path.write_text(net)
    return str(path)


def write_weights(folder, weights, name="tiny.caffemodel"):
    net = caffe_pb2.NetParameter(name="tiny")
    for layer, blobs in weights.items():
        blobs = [binary.array_to_blob(blob) for blob in blobs]
        net.layer.add(name=layer, type="InnerProduct", blobs=blobs)
    path = str(folder / name)
    binary.write_caffemodel(path, net)
    return path


@pytest.fixture
def tiny(tmp_path):
    """Paths of the net and its weights; the weights."""
    rng = np.random.default_rng(3)
    weight = rng.normal(0, 0.01, (4, 90)).astype(np.float32)
    bias = rng.normal(0, 1, 4).astype(np.float32)
    weights = {"ip": [weight, bias]}
    return write_net(tmp_path), write_weights(tmp_path, weights), weights["ip"]


def images(*sizes, channels=3):
    rng = np.random.default_rng(9)
    return [rng.random((*size, channels), np.float32) for size in sizes]


def reference(inputs, ip, dims, mean, raw_scale, input_scale, swap, is_oversampled):
    """Does what pycaffe does, crop by crop."""
    height, width = 6, 5
    rows = []
    for image in inputs:
        least, most = image.min(), image.max()
        factors = (dims[0] / image.shape[0], dims[1] / image.shape[1], 1)
        image = ndimage.zoom(
            (image - least) / (most - least),
            factors,
            order=1,
            mode="grid-constant",
            grid_mode=True,
        )
        image = image * (most - least) + least
        down, right = dims[0] - height, dims[1] - width
        middle = (int(dims[0] / 2 - height / 2), int(dims[1] / 2 - width / 2))
        places = [middle]
        if is_oversampled:
            places = [(0, 0), (0, right), (down, 0), (down, right), middle]
        crops = [image[y : y + height, x : x + width] for y, x in places]
        if is_oversampled:
            crops += [crop[:, ::-1] for crop in crops]
        scores = []
        for crop in crops:
            data = crop.transpose(2, 0, 1)[list(swap)] * raw_scale
            data = (data - mean) * input_scale
            logits = ip[0] @ data.ravel() + ip[1]
            scores.append(np.exp(logits) / np.exp(logits).sum())
        rows.append(np.mean(scores, axis=0))
    return np.array(rows)


@pytest.mark.parametrize("is_oversampled", [True, False])
@pytest.mark.parametrize("dims", [(9, 8), (8, 9), (6, 5)])
def test_predict_does_what_pycaffe_does(tiny, dims, is_oversampled):
    model, weights, ip = tiny
    inputs = images((12, 17), (7, 30), dims, (3, 4))
    mean = np.array([104.0, 117.0, 123.0])
    classifier = Classifier(model, weights, dims, mean, 0.02, 255, (2, 1, 0))
    expected = reference(
        inputs, ip, dims, mean[:, None, None], 255, 0.02, (2, 1, 0), is_oversampled
    )
    scores = classifier.predict(inputs, is_oversampled)
    assert scores.dtype == np.float32
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(scores, expected, atol=TOLERANCE)


@pytest.mark.parametrize("count", [1, 2, 3, 8, 11])
def test_predict_of_any_number_of_images_equals_one_by_one(tiny, count):
    model, weights, _ = tiny
    classifier = Classifier(model, weights)
    inputs = images(*[(6, 5)] * count)
    one_by_one = [classifier.predict([image], oversample=False) for image in inputs]
    scores = classifier.predict(inputs, oversample=False)
    np.testing.assert_allclose(scores, np.concatenate(one_by_one), atol=TOLERANCE)


def test_predict_leaves_the_images_as_they_are(tiny):
    model, weights, _ = tiny
    classifier = Classifier(model, weights, raw_scale=255, mean=np.ones(3))
    inputs = images((6, 5))
    before = inputs[0].copy()
    classifier.predict(inputs)
    np.testing.assert_array_equal(inputs[0], before)


def test_batch_size_that_another_layer_fixes_is_kept(tmp_path, tiny):
    added = """
    layer {
      name: "zero" type: "DummyData" top: "zero"
      dummy_data_param { shape { dim: 8 dim: 3 dim: 6 dim: 5 } }
    }
    layer { name: "add" type: "Eltwise" bottom: "data" bottom: "zero" top: "sum" }
    """
    fixed = NET.replace('bottom: "data"', 'bottom: "sum"')
    first = fixed.index('layer {\n  name: "ip"')
    model = write_net(tmp_path, fixed[:first] + added + fixed[first:], "fixed.txt")
    inputs = images((6, 5), (6, 5), (6, 5))
    plain = Classifier(tiny[0], tiny[1]).predict(inputs, oversample=False)
    scores = Classifier(model, tiny[1]).predict(inputs, oversample=False)
    np.testing.assert_allclose(scores, plain, atol=TOLERANCE)


def test_mean_image_of_another_size_is_resized(tiny):
    model, weights, ip = tiny
    mean = np.random.default_rng(1).random((3, 12, 10)) * 100
    shrunk = mean.reshape(3, 6, 2, 5, 2).mean(axis=(2, 4))
    inputs = images((6, 5))
    scores = Classifier(model, weights, mean=mean, raw_scale=255).predict(inputs)
    expected = reference(inputs, ip, (6, 5), shrunk, 255, 1, (0, 1, 2), True)
    np.testing.assert_allclose(scores, expected, atol=TOLERANCE)


@pytest.mark.parametrize(("size", "dims"), [((5, 7), (11, 6)), ((9, 4), (3, 9))])
def test_resize_image_equals_scikit_images_and_scipys_way(size, dims):
    (three,) = images(size)
    (two,) = images(size, channels=2)
    factors = (dims[0] / size[0], dims[1] / size[1], 1)
    least = three.min()
    framed = ndimage.zoom(
        three - least, factors, order=1, mode="grid-constant", grid_mode=True
    )
    np.testing.assert_allclose(resize_image(three, dims), framed + least, atol=1e-6)
    np.testing.assert_allclose(
        resize_image(two, dims), ndimage.zoom(two, factors, order=1), atol=1e-6
    )


def test_resize_image_of_one_value_keeps_it():
    flat = np.full((3, 3, 1), 0.25, np.float32)
    np.testing.assert_array_equal(resize_image(flat, (5, 2)), np.full((5, 2, 1), 0.25))


def test_oversample_orders_corners_centre_and_mirrored():
    image = np.arange(12, dtype=np.float32).reshape(1, 3, 4, 1)
    crops = oversample(image, (1, 2))[..., 0]
    assert crops.tolist()[:5] == [[[0, 1]], [[2, 3]], [[8, 9]], [[10, 11]], [[5, 6]]]
    np.testing.assert_array_equal(crops[5:], crops[:5, :, ::-1])
    np.testing.assert_array_equal(center_crop(image, (1, 2))[0, ..., 0], [[5, 6]])


def test_load_image_gives_rgb_or_intensity_from_0_to_1(tmp_path):
    path = str(tmp_path / "a.png")
    cv2.imwrite(path, np.array([[[255, 0, 51], [0, 0, 0]]], np.uint8))
    color, gray = load_image(path), load_image(path, color=False)
    np.testing.assert_allclose(color[0, 0], [0.2, 0, 1], atol=1e-6)
    assert (color.dtype, color.shape, gray.shape) == (np.float32, (1, 2, 3), (1, 2, 1))
    assert gray[0, 0, 0] == pytest.approx(0.114 + 0.299 * 0.2, abs=0.5 / 255)


def write_snapshot(tmp_path, state) -> str:
    writer = checkpoint.open_writer(str(tmp_path / "snapshots"), 0)
    path = writer.save(checkpoint.copy_state(state), {})
    assert writer.wait() is None
    writer.close()
    return path


def test_weights_come_from_a_snapshot_too(tmp_path, tiny):
    model, weights, ip = tiny
    params = {
        "ip": {"weight": ip[0], "bias": ip[1]},
        "only_training": {"weight": np.ones((2, 2), np.float32)},
    }
    state = init_state(
        jax.tree.map(jax.numpy.asarray, params),
        {},
        optax.trace(0.9),
        jax.random.key(0),
        1,
    )
    path = write_snapshot(tmp_path, state)
    inputs = images((6, 5))
    np.testing.assert_array_equal(
        Classifier(model, path).predict(inputs),
        Classifier(model, weights).predict(inputs),
    )

    other = write_net(tmp_path, NET.replace("num_output: 4", "num_output: 5"), "b.txt")
    problem = r'layer "ip": blob "weight" has shape \(4, 90\) in the snapshot but \(5,'
    with pytest.raises(errors.SnapshotError, match=problem):
        Classifier(other, path)
    renamed = write_net(tmp_path, NET.replace('name: "ip"', 'name: "new"'), "c.txt")
    problem = r'no weights for "new" of the net \(it has layers ip, only_training\)'
    with pytest.raises(errors.SnapshotError, match=problem):
        Classifier(renamed, path)
    with pytest.raises(errors.SnapshotError, match="snapshots: is not a snapshot"):
        Classifier(model, str(tmp_path / "snapshots"))
    for file in (tmp_path / "snapshots" / "0" / "state").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    with pytest.raises(errors.SnapshotError, match="the snapshot cannot be read"):
        Classifier(model, path)


def test_batch_norm_statistics_are_weights_too(tmp_path):
    norm = 'layer { name: "bn" type: "BatchNorm" bottom: "data" top: "data" }'
    first = NET.index('layer {\n  name: "ip"')
    model = write_net(tmp_path, NET[:first] + norm + NET[first:])
    net, source = text.read_net(model)
    state = caffe_pb2.NetState(phase=caffe_pb2.TEST)
    built = translate.build_net(graph.build_graph(net, state, source), {})
    params, stats = built.init(jax.random.key(2))
    stats["bn"] = {
        "mean": jax.numpy.array([1.0, 2, 3]),
        "variance": jax.numpy.array([4.0, 5, 6]),
        "scale_factor": jax.numpy.array([2.0]),
    }
    trained = init_state(params, stats, optax.trace(0.9), jax.random.key(0), 1)
    path = write_snapshot(tmp_path, trained)
    inputs = images((6, 5))
    feeds = {"data": np.tile(inputs[0].transpose(2, 0, 1), (8, 1, 1, 1))}
    out = built.apply(params, stats, feeds, jax.random.key(0))
    scores = Classifier(model, path).predict(inputs, oversample=False)
    np.testing.assert_allclose(scores[0], out.blobs["prob"][0], atol=TOLERANCE)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"mean": np.zeros(2)}, r"mean: has shape \(2,\).*Accepted: \(3,\) or"),
        ({"mean": np.zeros((1, 6, 5))}, r"mean: has shape \(1, 6, 5\)"),
        ({"mean": np.float32(3)}, r"mean: has shape \(\)"),
        ({"channel_swap": (1, 0)}, "does not fit 3 channels.*such as 2,1,0"),
        ({"channel_swap": (0, 1, 3)}, r"\(0, 1, 3\) does not fit 3 channels"),
        ({"image_dims": (5, 9)}, "5 x 9 pixels are smaller.*at least 6,5"),
        ({"output": "probe"}, 'no blob is named "probe". Accepted: prob'),
    ],
)
def test_classifier_refuses_what_does_not_fit_the_net(tiny, change, problem):
    with pytest.raises(errors.ConfigError, match=problem):
        Classifier(tiny[0], tiny[1], **change)


@pytest.mark.parametrize(
    ("inputs", "problem"),
    [
        ([], "inputs: there is no image"),
        (images((4, 4), channels=1), r"inputs\[0\].*\(4, 4, 1\).*\(H, W, 3\)"),
    ],
)
def test_predict_refuses_other_images(tiny, inputs, problem):
    with pytest.raises(errors.ConfigError, match=problem):
        Classifier(tiny[0], tiny[1]).predict(inputs)


def test_several_outputs_must_be_told_apart(tmp_path, tiny):
    more = NET + 'layer { name: "p" type: "Power" bottom: "ip" top: "twice" }'
    model = write_net(tmp_path, more, "more.txt")
    assert Classifier(model, tiny[1]).output == "prob"
    assert Classifier(model, tiny[1], output="twice").output == "twice"
    model = write_net(tmp_path, more.replace('"prob"', '"other"'), "others.txt")
    with pytest.raises(errors.ConfigError, match=r"2 outputs: other, twice.*--output"):
        Classifier(model, tiny[1])


@pytest.mark.parametrize(
    ("net", "problem"),
    [
        (NET.replace('top: "data"', 'top: "data" top: "b"', 1), "with 2 tops"),
        (NET.replace("dim: 6 dim: 5", "dim: 30"), r"deploy.prototxt:3: .*\(8, 3, 30\)"),
        (NET.replace('"Input"', '"MemoryData"'), r'"data" \(MemoryData\)'),
    ],
)
def test_nets_without_one_image_input_are_refused(tmp_path, tiny, net, problem):
    net = net.replace('"MemoryData" top: "data"', '"MemoryData" top: "data" top: "l"')
    with pytest.raises(errors.PrototxtError, match=problem):
        Classifier(write_net(tmp_path, net), tiny[1])


def test_weights_of_another_net_are_refused(tmp_path, tiny):
    model = tiny[0]
    other = write_weights(tmp_path, {"conv": [np.ones((2, 2))]}, "other.caffemodel")
    problem = r'no weights for "ip" of the net \(it has layers conv\)'
    with pytest.raises(errors.SnapshotError, match=problem):
        Classifier(model, other)
    shape = write_weights(tmp_path, {"ip": [np.ones((4, 9)), np.ones(4)]}, "s.model")
    with pytest.raises(errors.SnapshotError, match=r"\(4, 9\) in the file"):
        Classifier(model, shape)
    with pytest.raises(errors.SnapshotError, match=r"none.model: no such file"):
        Classifier(model, str(tmp_path / "none.model"))


def test_classifier_module_is_not_needed_to_read_records():
    code = (
        "import sys, jaxcaffe, jaxcaffe.data.image\n"
        "print('jax' in sys.modules, 'jaxcaffe.classifier' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["False", "False"], done.stderr
