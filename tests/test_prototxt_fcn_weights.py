"""prototxt/fcn_weights.py: inner products to convolutions, bilinear deconvolutions."""

import pathlib
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcaffe.errors import ConfigError, SnapshotError
from jaxcaffe.net.graph import build_graph
from jaxcaffe.net.translate import build_net
from jaxcaffe.net.weights import load_weights
from jaxcaffe.proto import binary, caffe_pb2
from jaxcaffe.proto.text import read_net

SCRIPT = pathlib.Path(__file__).parents[1] / "prototxt" / "fcn_weights.py"

NET = """
layer {
  name: "data" type: "Input" top: "data"
  input_param { shape { dim: 1 dim: 4 dim: 6 dim: 5 } }
}
layer {
  name: "fc6" type: "Convolution" bottom: "data" top: "fc6"
  convolution_param { num_output: 7 kernel_size: 3 }
}
layer {
  name: "score_fr" type: "Convolution" bottom: "fc6" top: "score_fr"
  convolution_param { num_output: 2 kernel_size: 1 }
}
layer {
  name: "upscore" type: "Deconvolution" bottom: "score_fr" top: "upscore"
  param { lr_mult: 0 }
  convolution_param { num_output: 2 kernel_size: 4 stride: 2 bias_term: false }
}
"""


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(SCRIPT), run_name="fcn_weights")


@pytest.fixture
def files(tmp_path):
    """Paths of the net, of the weights of an inner product fc6, and of the result."""
    net, source, out = (str(tmp_path / name) for name in ("net", "source", "out"))
    pathlib.Path(net).write_text(NET)
    write_fc6(source, np.arange(7 * 36, dtype=np.float32).reshape(7, 36))
    return net, source, out


def write_fc6(path, weight):
    model = caffe_pb2.NetParameter()
    blobs = [binary.array_to_blob(array) for array in (weight, np.ones(7, np.float32))]
    model.layer.add(name="fc6", type="InnerProduct", blobs=blobs)
    binary.write_caffemodel(path, model)


def test_main_makes_weights_that_the_net_computes_the_same_with(script, files, capsys):
    net, source, out = files
    assert script["main"]([net, source, out]) == 0
    assert capsys.readouterr().out == f"{out}: fc6, upscore\n"
    weights = binary.net_weights(binary.read_caffemodel(out))
    assert sorted(weights) == ["fc6", "upscore"]
    image = np.random.default_rng(0).normal(size=(4, 3, 3)).astype(np.float32)
    fc6 = weights["fc6"][0]
    assert fc6.shape == (7, 4, 3, 3)
    inner = np.arange(7 * 36).reshape(7, 36) @ image.ravel()
    convolved = np.einsum("ochw,chw->o", fc6, image)
    np.testing.assert_allclose(convolved, inner, rtol=1e-5)
    assert weights["fc6"][1].tolist() == [1] * 7


def test_interpolation_enlarges_a_plane_to_a_plane(script):
    """Bilinear interpolation keeps linear functions, each channel by itself."""
    kernel = script["interpolation"](2, 4)
    rows, columns = np.mgrid[:5, :6].astype(np.float32)
    bottom = np.stack([rows, 10 - 2 * columns])[None]
    top = jax.lax.conv_general_dilated(
        jnp.asarray(bottom),
        jnp.asarray(kernel),
        *((1, 1), [(3, 3), (3, 3)]),
        lhs_dilation=(2, 2),
    )[0]
    # Place i of the top lies at (i - 1.5) / 2 of the bottom; the border is without
    # neighbours.
    places = (np.arange(2, 9) - 1.5) / 2
    assert top[0, 2:9, 4].tolist() == pytest.approx(places)
    assert top[1, 4, 2:9].tolist() == pytest.approx(10 - 2 * places)


def test_main_output_trains_the_net_with_scores_that_start_at_zero(script, files):
    """As --weights does: layers that the file lacks keep what their fillers gave."""
    net_path, source, out = files
    script["main"]([net_path, source, out])
    net, where = read_net(net_path)
    state = caffe_pb2.NetState(phase=caffe_pb2.TRAIN)
    built = build_net(build_graph(net, state, where), {})
    params, stats = built.init(jax.random.key(0))
    weights = binary.net_weights(binary.read_caffemodel(out))
    params, _, report = load_weights(built, params, stats, weights)
    assert report.missing == ("score_fr",)
    assert params["upscore"]["weight"][1, 1].max() == pytest.approx(0.75**2)
    data = {"data": jnp.ones((1, 4, 6, 5))}
    blobs = built.apply(params, stats, data, jax.random.key(0)).blobs
    assert blobs["fc6"].min() > 1
    assert not blobs["upscore"].any()


def test_main_file_that_is_there_is_refused(script, files):
    net, source, _ = files
    with pytest.raises(ConfigError, match=r"is there already. Accepted: a new file"):
        script["main"]([net, source, source])


def test_main_two_arguments_are_refused(script, files):
    with pytest.raises(ConfigError, match=r"2 arguments. Accepted: 3: NET SOURCE OUT"):
        script["main"](files[:2])


def test_main_weights_of_another_size_are_refused(script, files):
    net, source, out = files
    write_fc6(source, np.zeros((7, 35), np.float32))
    message = r'"fc6" has 245 weights. Accepted: a multiple of 7 x 3 x 3'
    with pytest.raises(SnapshotError, match=message):
        script["main"]([net, source, out])
    assert not pathlib.Path(out).exists()


def test_main_weights_of_another_net_are_refused(script, files):
    net, source, out = files
    model = caffe_pb2.NetParameter()
    model.layer.add(name="other", type="InnerProduct")
    binary.write_caffemodel(source, model)
    with pytest.raises(SnapshotError, match="has no layer of this net"):
        script["main"]([net, source, out])
