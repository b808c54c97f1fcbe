"""Runs Caffe's recorded cases through build_graph and build_net.

A case is a net (.prototxt) and what Caffe made of it (.npz): names, blobs, gradients,
over one or more passes. JAXCAFFE_GOLDEN_LAYERS names another folder of such cases.
"""

import os
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcaffe.net.graph import build_graph
from jaxcaffe.net.translate import build_net
from jaxcaffe.net.weights import export_weights, layer_infos, load_weights
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.proto.text import read_net

GIVEN = os.environ.get("JAXCAFFE_GOLDEN_LAYERS")
FOLDER = Path(GIVEN or Path(__file__).parents[1] / "golden" / "layers")

# What Caffe's own CPU and GPU results differ by, with some room; the second is times
# the largest reference value, as sums that nearly cancel lose more.
RTOL = 1e-3
ATOL = 1e-4
ZERO = 1e-5  # allowed where all of the reference is zero

# Their tops' shapes depend on data, so nets with them are not compiled.
DATA_DEPENDENT = {"Filter"}

SPLIT = re.compile(r"_split(_\d+)?$")


def choose_cases():
    """Returns whole nets and one case per layer type; a folder given, all of it.

    tests/layers runs every case of a single layer; here the net around it counts.
    """
    names = sorted(path.stem for path in FOLDER.glob("*.npz"))
    if GIVEN:
        return names
    by_type = {}
    for name in names:
        with np.load(FOLDER / f"{name}.npz") as case:
            by_type.setdefault(str(case["layer_type"]), []).append(name)
    return [
        name
        for key, same in by_type.items()
        for name in same[: None if key in ("Net", *DATA_DEPENDENT) else 1]
    ]


CASES = choose_cases()


def test_golden_folder_has_cases():
    assert CASES


@pytest.mark.parametrize("name", CASES)
def test_net_matches_caffe(name):
    with np.load(FOLDER / f"{name}.npz") as data:
        case = {key: data[key] for key in data.files}
    proto, source = read_net(FOLDER / f"{name}.prototxt")
    state = caffe_pb2.NetState(
        phase=caffe_pb2.Phase.Value(str(case["phase"])),
        level=int(case["level"]) if "level" in case else None,
        stage=[str(stage) for stage in case.get("stages", [])],
    )
    graph = build_graph(proto, state, source)
    check_names(graph, case)

    given = blobs_by_layer(case, "param/")
    backward_at = {int(k) for k in case["backward_at"]}
    feeds, top_diffs, params, stats, summed = {}, {}, None, None, None
    shapes = net = run = run_back = None
    for k in range(int(case["passes"])):
        prefix = f"step{k}/" if k else ""
        feeds |= {b: jnp.asarray(v) for b, v in under(case, f"{prefix}input/").items()}
        top_diffs |= under(case, f"{prefix}top_diff/")
        if shapes != (shapes := {blob: feed.shape for blob, feed in feeds.items()}):
            net, run, run_back = build(graph, feeds)
        if params is None:
            counts = {layer: len(infos) for layer, infos in layer_infos(net).items()}
            assert counts == {layer: len(blobs) for layer, blobs in given.items()}
            structs = jax.eval_shape(net.init, jax.random.key(0))
            params, stats = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), structs)
            params, stats, report = load_weights(net, params, stats, given)
            assert set(report.loaded) == set(given)
            assert not report.ignored
            assert not report.missing

        if k in backward_at:
            grads, output = run_back(params, feeds, stats, top_diffs)
        else:
            grads, output = None, run(params, feeds, stats, top_diffs)[1]
        blobs = under(case, f"{prefix}blob/")
        assert set(blobs) == {b for b in output.blobs if not SPLIT.search(b)} - {
            "(automatic)"
        }
        for blob, expected in blobs.items():
            compare(f"{prefix}blob/{blob}", expected, output.blobs[blob])
            # A shape that depends on data is known beforehand but for its first length.
            skipped = 1 if has_data_dependent_shapes(graph) else 0
            shape = net.structs[blob].shape
            assert shape[skipped:] == expected.shape[skipped:]

        stats = output.stats
        after = blobs_by_layer(case, f"{prefix}param_after/", given)
        for layer, arrays in export_weights(net, params, stats).items():
            for i, array in enumerate(arrays):
                compare(f"{prefix}param_after/{layer}/{i}", after[layer][i], array)

        if grads is None:
            continue
        summed = jax.tree.map(jnp.add, grads[0], summed) if summed else grads[0]
        for blob, expected in under(case, f"{prefix}input_diff/").items():
            compare(f"{prefix}input_diff/{blob}", expected, grads[1][blob])
        zeros = jax.tree.map(jnp.zeros_like, stats)
        param_diffs = export_weights(net, summed, zeros)
        for key, expected in under(case, f"{prefix}param_diff/").items():
            layer, i = key.rsplit("/", 1)
            compare(f"{prefix}param_diff/{key}", expected, param_diffs[layer][int(i)])


def build(graph, feeds):
    """Returns the net, its forward and its backward pass, for feeds of these shapes."""
    structs = {b: jax.ShapeDtypeStruct(v.shape, v.dtype) for b, v in feeds.items()}
    net = build_net(graph, structs)

    def forward(params, feeds, stats, top_diffs):
        output = net.apply(params, stats, feeds, jax.random.key(1))
        total = output.loss
        for blob, diff in top_diffs.items():
            total += jnp.vdot(output.blobs[blob], diff)
        return total, output

    backward = jax.grad(forward, (0, 1), has_aux=True)
    if has_data_dependent_shapes(graph):
        return net, forward, backward
    # Little optimisation, as most of these run once.
    options = {"xla_llvm_disable_expensive_passes": True}
    run = jax.jit(forward, compiler_options=options)
    return net, run, jax.jit(backward, compiler_options=options)


def has_data_dependent_shapes(graph):
    return any(node.layer.type in DATA_DEPENDENT for node in graph.nodes)


def check_names(graph, case):
    layers = [node.layer.name for node in graph.nodes]
    assert layers == case["names/layers"].tolist()
    # pycaffe keeps one blob of each name.
    assert list(dict.fromkeys(graph.blobs)) == case["names/blobs"].tolist()
    assert list(graph.outputs) == case["names/outputs"].tolist()
    weights = {
        top: weight
        for node in graph.nodes
        for top, weight in zip(node.tops, node.loss_weights, strict=True)
        if weight and not SPLIT.search(top) and top != "(automatic)"
    }
    expected = {b: float(w) for b, w in under(case, "blob_loss_weight/").items()}
    assert weights == pytest.approx(expected)


def under(case, prefix):
    return {k[len(prefix) :]: v for k, v in case.items() if k.startswith(prefix)}


def blobs_by_layer(case, prefix, default=None):
    layers = {layer: dict(enumerate(v)) for layer, v in (default or {}).items()}
    for key, value in under(case, prefix).items():
        layer, i = key.rsplit("/", 1)
        layers.setdefault(layer, {})[int(i)] = value
    return {layer: [v[i] for i in range(len(v))] for layer, v in layers.items()}


def compare(key, expected, got):
    got = np.asarray(got)
    assert got.shape == expected.shape, key
    scale = np.abs(expected).max(initial=0)
    atol = ATOL * scale if scale else ZERO
    np.testing.assert_allclose(got, expected, RTOL, atol, err_msg=key)
