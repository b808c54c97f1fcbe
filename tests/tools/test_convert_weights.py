import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy

from jaxcaffe.caffe_files.weights import read_weights
from jaxcaffe.errors import CaffeError, ConfigError, SnapshotError
from jaxcaffe.net import graph, translate
from jaxcaffe.pretrained import load_pretrained
from jaxcaffe.proto import binary, caffe_pb2, text
from jaxcaffe.tools.convert_weights import main

NET = """name: "small"
layer { name: "x" type: "Input" top: "x"
  input_param { shape { dim: 2 dim: 3 dim: 4 dim: 4 } } }
layer { name: "in/conv" type: "Convolution" bottom: "x" top: "a"
  convolution_param { num_output: 3 kernel_size: 1 weight_filler { type: "xavier" } }
  param { name: "w" } param { name: "b" } }
layer { name: "again" type: "Convolution" bottom: "a" top: "b"
  convolution_param { num_output: 3 kernel_size: 1 }
  param { name: "w" } param { name: "b" } }
layer { name: "bn" type: "BatchNorm" bottom: "b" top: "b" }
layer { name: "factors" type: "Scale" bottom: "b" top: "b"
  scale_param { bias_term: true } }
"""
SHAPES = {
    "in/conv": [(3, 3, 1, 1), (3,)],
    "bn": [(3,), (3,), (1,)],
    "factors": [(3,), (3,)],
}
BN = ["in/conv", "again", "bn", "factors"]
ENDS = ["caffemodel", "caffemodel.h5", "npz", "safetensors", "folder/7"]


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """Writes net.prototxt and start.caffemodel; returns the blobs of the latter."""
    monkeypatch.chdir(tmp_path)
    pathlib.Path("net.prototxt").write_text(NET)
    rng = np.random.default_rng(0)
    blobs = {
        name: [rng.uniform(1, 2, shape).astype(np.float32) for shape in shapes]
        for name, shapes in SHAPES.items()
    }
    blobs["again"] = blobs["in/conv"]
    net = text.parse_net(NET, "net.prototxt")[0]
    for layer in net.layer:
        layer.blobs.extend(map(binary.array_to_blob, blobs.get(layer.name, ())))
    binary.write_caffemodel("start.caffemodel", net)
    return blobs


def assert_weights(found, expected):
    assert {name for name, blobs in found.items() if blobs} == set(expected)
    for name, blobs in expected.items():
        for ours, theirs in zip(found[name], blobs, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def small_net():
    net, source = text.read_net("net.prototxt")
    built = graph.build_graph(net, caffe_pb2.NetState(phase=caffe_pb2.TEST), source)
    return translate.build_net(built, {})


@pytest.mark.parametrize("end", ENDS)
def test_weights_converted_there_and_back_with_their_net_are_the_same(weights, end):
    net = ["--net", "net.prototxt"]
    assert main(["start.caffemodel", f"x.{end}" if "/" not in end else end, *net]) == 0
    assert main([f"x.{end}" if "/" not in end else end, "back.caffemodel", *net]) == 0
    assert_weights(read_weights("back.caffemodel"), weights)
    described = binary.read_caffemodel("back.caffemodel")
    assert described.name == "small"
    assert [layer.name for layer in described.layer] == ["x", *BN]
    assert described.layer[1].convolution_param.num_output == 3


@pytest.mark.parametrize("end", ENDS[:-1])
def test_weights_converted_without_a_net_are_the_same(weights, end):
    assert main(["start.caffemodel", f"x.{end}"]) == 0
    assert main([f"x.{end}", "back.caffemodel"]) == 0
    assert_weights(read_weights("back.caffemodel"), weights)


@pytest.mark.parametrize("end", ["npz", "safetensors"])
def test_arrays_are_named_by_layer_and_number(weights, end):
    main(["start.caffemodel", f"x.{end}"])
    load = safetensors.numpy.load_file if end == "safetensors" else np.load
    arrays = load(f"x.{end}")
    expected = {f"{n}/{i}": b for n, bs in weights.items() for i, b in enumerate(bs)}
    assert sorted(arrays) == sorted(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(arrays[name], array)


def test_hdf5_with_a_net_leaves_shared_blobs_to_their_owner(weights):
    main(["start.caffemodel", "x.h5", "--net=net.prototxt"])
    assert read_weights("x.h5")["again"] == []
    main(["x.h5", "back.caffemodel", "--net=net.prototxt"])
    assert_weights(read_weights("back.caffemodel"), weights)


def test_folder_written_is_read_as_a_snapshots_weights(weights):
    main(["start.caffemodel", "runs/1", "--net=net.prototxt"])
    params, stats = load_pretrained(small_net(), "runs/1")
    np.testing.assert_array_equal(params["in/conv"]["weight"], weights["in/conv"][0])
    np.testing.assert_array_equal(stats["bn"]["scale_factor"], weights["bn"][2])


def test_nvcaffes_batch_norm_is_made_and_undone(weights):
    main(["start.caffemodel", "nv.caffemodel", "--batch_norm=nvcaffe"])
    nv = binary.read_caffemodel("nv.caffemodel")
    assert [layer.name for layer in nv.layer] == ["x", *BN[:-1]]
    assert len(nv.layer[-1].blobs) == 5
    main(["nv.caffemodel", "back.npz"])
    arrays = np.load("back.npz")
    mean, variance, factor = weights["bn"]
    np.testing.assert_allclose(arrays["bn/0"], mean / factor, rtol=1e-6)
    np.testing.assert_allclose(arrays["bn/1"], variance / factor, rtol=1e-6)
    np.testing.assert_array_equal(arrays["bn_scale/0"], weights["factors"][0])
    # With the net, scale and bias go to the layer that the net has for them.
    main(["nv.caffemodel", "fitted.caffemodel", "--net=net.prototxt"])
    fitted = read_weights("fitted.caffemodel")
    np.testing.assert_array_equal(fitted["factors"][1], weights["factors"][1])


@pytest.mark.parametrize("end", ENDS)
def test_existing_output_is_left_unless_asked(weights, end):
    out = f"x.{end}" if "/" not in end else "1"
    arguments = ["start.caffemodel", out, "--net=net.prototxt"]
    main(arguments)
    before = jax.tree.map(np.array, load_pretrained(small_net(), "start.caffemodel"))
    with pytest.raises(ConfigError, match="exists already"):
        main(arguments)
    main([*arguments, "--overwrite"])
    main([out, "again.caffemodel", "--net=net.prototxt"])
    after = load_pretrained(small_net(), "again.caffemodel")
    jax.tree.map(np.testing.assert_array_equal, before, after)
    assert not [path for path in pathlib.Path().iterdir() if "partial" in path.name]


def test_folder_that_is_no_snapshot_is_never_replaced(weights):
    pathlib.Path("mine").mkdir()
    pathlib.Path("mine/thesis.tex").write_text("x")
    with pytest.raises(SnapshotError, match="is there and no snapshot"):
        main(["start.caffemodel", "mine", "--net=net.prototxt", "--overwrite"])
    assert pathlib.Path("mine/thesis.tex").read_text() == "x"


def write(name: str, data: bytes) -> str:
    pathlib.Path(name).write_bytes(data)
    return name


def cut(name: str) -> str:
    main(["start.caffemodel", name])
    data = pathlib.Path(name).read_bytes()
    return write(f"cut-{name}", data[: len(data) // 2])


def other_net(name: str) -> str:
    pathlib.Path("net.prototxt").write_text(NET.replace("size: 1", "size: 3 pad: 1"))
    return name


def strange(name: str) -> str:
    np.savez(name, a=np.zeros(2))
    return name


def words(name: str) -> str:
    np.savez(name, **{"a/0": np.array(["x"])})
    return name


MISTAKES = {
    "missing": (lambda: "none.caffemodel", "y.npz", [], "no such file"),
    "empty": (lambda: write("e.npz", b""), "y.caffemodel", [], "file is empty"),
    "cut npz": (lambda: cut("c.npz"), "y.h5", [], "is no .npz: cut short"),
    "cut safetensors": (
        lambda: cut("c.safetensors"),
        "y.h5",
        [],
        "is no .safetensors: cut short",
    ),
    "cut caffemodel": (lambda: cut("c.caffemodel"), "y.h5", [], "cut short"),
    "cut hdf5": (lambda: cut("c.h5"), "y.npz", [], "cut short or broken"),
    "text": (lambda: write("t.npz", b"hello"), "y.h5", [], "is no .npz"),
    "name": (
        lambda: strange("s.npz"),
        "y.h5",
        [],
        'holds "a" of float64.*LAYER/NUMBER',
    ),
    "words": (lambda: words("w.npz"), "y.h5", [], 'holds "a/0" of <U1'),
    "other net": (
        lambda: other_net("start.caffemodel"),
        "y.h5",
        ["--net=net.prototxt"],
        r"\(3, 3, 1, 1\) .*\(3, 3, 3, 3\)",
    ),
    "kind": (lambda: "start.caffemodel", "y.onnx", [], 'no kind .* ends in ".onnx"'),
    "folder": (lambda: "start.caffemodel", "y/1", [], "--net=net.prototxt beside it"),
    "nvcaffe": (
        lambda: "start.caffemodel",
        "y.npz",
        ["--batch_norm=nvcaffe"],
        "cannot hold NVIDIA's BatchNorm",
    ),
    "shape": (
        lambda: "start.caffemodel",
        "y.npz",
        ["--net=net.prototxt", "--shape=3,x"],
        "--shape=3,x: is no C,H,W",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_is_one_clear_error_and_nothing_is_written(weights, name):
    make, out, flags, message = MISTAKES[name]
    path = make()
    with pytest.raises(CaffeError, match=message):
        main([path, out, *flags])
    assert not pathlib.Path(out).exists()


def test_command_prints_what_it_read_and_wrote(weights):
    process = subprocess.run(
        [
            *(sys.executable, "-m", "jaxcaffe.tools.convert_weights"),
            *("start.caffemodel", "x.npz"),
        ],
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    assert "Read 9 blobs of 4 layers from start.caffemodel" in process.stderr
    assert process.stderr.splitlines()[-1] == "Wrote x.npz"
