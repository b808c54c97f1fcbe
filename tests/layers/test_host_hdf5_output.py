"""HDF5Output: blobs written to a file as the net runs."""

import json
import os
from pathlib import Path

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from google.protobuf import text_format

from jaxcaffe.data.pipeline import FeedOptions, FeedReader, open_feed
from jaxcaffe.errors import DataError, PrototxtError, from_callbacks
from jaxcaffe.net.graph import build_graph
from jaxcaffe.net.translate import build_net
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.proto.text import read_net

ROOT = Path(
    os.environ.get("JAXCAFFE_GOLDEN_DATA")
    or Path(__file__).parents[1] / "golden" / "data"
).resolve()
CASES = {
    Path(case["net"]).stem: case
    for case in json.loads((ROOT / "outputs.json").read_text())
    if "h5out" in case["net"]
}
KEY = jax.random.key(0)
TEXT = """
layer {{ name: "a" type: "Input" top: "a" input_param {{ shape {{ {a} }} }} }}
layer {{ name: "b" type: "Input" top: "b" input_param {{ shape {{ {b} }} }} }}
layer {{ name: "out" type: "HDF5Output" bottom: "a" bottom: "b"
  hdf5_output_param {{ file_name: "{file}" }} }}
"""


def open_net(file, a="dim: 2 dim: 3", b="dim: 2"):
    text = TEXT.format(a=a, b=b, file=file)
    parameter = text_format.Parse(text, caffe_pb2.NetParameter())
    return build_net(build_graph(parameter, caffe_pb2.NetState()), {})


@from_callbacks()
def run_once(net, feeds):
    jax.jit(net.apply)({}, {}, feeds, KEY)
    jax.effects_barrier()


def read(path):
    with h5py.File(path) as file:
        return {name: file[name][...] for name in file}


@pytest.fixture
def golden_folder(tmp_path, monkeypatch):
    """Works in a folder with Caffe's inputs and an empty place for outputs."""
    for path in ROOT.iterdir():
        if path.name != "outputs":
            (tmp_path / path.name).symlink_to(path)
    (tmp_path / "outputs").mkdir()
    monkeypatch.chdir(tmp_path)


def run_case(case):
    parameter, source = read_net(case["net"])
    phase = caffe_pb2.Phase.Value(case["phase"])
    graph = build_graph(parameter, caffe_pb2.NetState(phase=phase), source)
    options = FeedOptions(threads=0)
    feed = open_feed(graph.nodes[0].layer, phase, options, graph.nodes[0].where)
    structs = {top: jax.ShapeDtypeStruct(*s) for top, s in feed.structs.items()}
    net = build_net(graph, structs)
    apply = jax.jit(net.apply)
    with FeedReader((feed,), options) as reader:
        for _ in range(case["forwards"]):
            jax.block_until_ready(apply({}, {}, next(reader), KEY))
    jax.effects_barrier()
    return read(graph.nodes[-1].layer.hdf5_output_param.file_name)


def test_hdf5output_golden_cases_exist():
    assert {"h5out_2d", "h5out_4d", "h5out_twice"} <= set(CASES)


@pytest.mark.parametrize(
    "name", [name for name, case in CASES.items() if case["status"] == 0]
)
def test_hdf5output_golden_file_matches_caffe(name, golden_folder):
    got = run_case(CASES[name])
    want = read(ROOT / CASES[name]["outputs"])
    assert set(got) == set(want)
    for dataset, values in want.items():
        assert got[dataset].dtype == values.dtype
        np.testing.assert_array_equal(got[dataset], values)


@pytest.mark.parametrize(
    "name",
    [n for n, c in CASES.items() if c["status"] and c["forwards"] == 1],
)
def test_hdf5output_golden_net_that_caffe_refuses_is_refused(name, golden_folder):
    with pytest.raises(PrototxtError, match=r"2 bottoms|1 bottom|at most 4 axes"):
        run_case(CASES[name])


def test_hdf5output_golden_second_pass_is_appended(golden_folder):
    got = run_case(CASES["h5out_twice"])
    once = run_case(CASES["h5out_4d"])
    assert len(got["data"]) == len(got["label"]) == 2 * len(once["data"])
    np.testing.assert_array_equal(got["data"][:6], once["data"])


def test_hdf5output_hand_rows_of_all_passes_come_in_order(tmp_path):
    net = open_net(tmp_path / "out.h5")

    @jax.jit
    def passes(values):
        def one(carry, value):
            feeds = {"a": jnp.full((2, 3), value), "b": jnp.array([value, -value])}
            net.apply({}, {}, feeds, KEY)
            return carry, value

        return jax.lax.scan(one, 0, values)[1]

    jax.block_until_ready(passes(jnp.arange(1.0, 4)))
    jax.effects_barrier()
    got = read(tmp_path / "out.h5")
    assert got["data"].shape == (6, 3, 1, 1)
    np.testing.assert_array_equal(got["data"][:, 0, 0, 0], [1, 1, 2, 2, 3, 3])
    np.testing.assert_array_equal(got["label"].ravel(), [1, -1, 2, -2, 3, -3])
    assert [path.name for path in tmp_path.iterdir()] == ["out.h5"]


def test_hdf5output_hand_building_a_net_writes_nothing(tmp_path):
    open_net(tmp_path / "out.h5")
    assert list(tmp_path.iterdir()) == []


def test_hdf5output_bad_existing_file_is_left_alone(tmp_path):
    path = tmp_path / "out.h5"
    path.write_text("mine")
    with pytest.raises(PrototxtError, match=r'file_name is ".*out\.h5", which exists'):
        open_net(path)
    path.unlink()
    net = open_net(path)
    path.write_text("mine")
    feeds = {"a": jnp.ones((2, 3)), "b": jnp.ones(2)}
    with pytest.raises(DataError, match=r"\(HDF5Output\): .* which exists"):
        run_once(net, feeds)
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"file": ""}, "there is no file_name"),
        ({"file": "no/such/out.h5"}, r'there is no folder "no/such"'),
        ({"a": "dim: 2 dim: 1 dim: 1 dim: 1 dim: 1"}, r"bottom 0 has shape \(2, 1, 1,"),
        ({"b": "dim: 3"}, "bottom 0 has 2 items, bottom 1 3"),
    ],
)
def test_hdf5output_bad_settings_are_refused(changes, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PrototxtError, match=message):
        open_net(**{"file": "out.h5", **changes})


def test_hdf5output_bad_folder_that_goes_away_is_an_error(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    net = open_net(folder / "out.h5")
    folder.rmdir()
    feeds = {"a": jnp.ones((2, 3)), "b": jnp.ones(2)}
    with pytest.raises(DataError, match=r'out\.h5" cannot be written: '):
        run_once(net, feeds)
