"""What every layer test uses: one layer from text, Caffe's golden cases, gradients.

A layer type is tested when the files `tests/layers/test_*.py` hold, for its type
string in lower case, one function of each kind (test_all_types_tested.py looks):

  test_<type>_hand_<...>      a small case drawn or computed by hand
  test_<type>_golden_<...>    Caffe's own results, forward and backward
  test_<type>_gradient_<...>  the gradient against finite differences
  test_<type>_bad_<...>       a prototxt that the layer refuses (match= on the message)

For example test_innerproduct_bad_axis_is_refused. A test that asks for the fixture
`golden_case` runs once for each case of its type in tests/golden/layers, so adding a
case is copying its two files there:

  def test_pooling_golden_case_matches_caffe(run_golden, golden_case):
      run_golden(golden_case)
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from google.protobuf import text_format

from jaxcaffe.layers import registry
from jaxcaffe.proto import caffe_pb2

GOLDEN = Path(__file__).parents[1] / "golden" / "layers"

# Caffe sums in another order than XLA, both in float32: a value may be off by this
# share of itself plus this share of the largest in its array.
RTOL, ATOL = 1e-3, 1e-4
# Where Caffe has exact zeros, cancellation may leave this much here.
ZERO_ATOL = 1e-5


@functools.cache
def _cases() -> dict[str, list[str]]:
    """Returns lower-case layer type -> names of its cases."""
    cases: dict[str, list[str]] = {}
    for path in sorted(GOLDEN.glob("*.npz")):
        with np.load(path) as data:
            cases.setdefault(str(data["layer_type"]).lower(), []).append(path.stem)
    return cases


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs a test that asks for `golden_case` with each case of its layer type."""
    if "golden_case" in metafunc.fixturenames:
        match = re.match(r"test_([a-z0-9]+)_golden_", metafunc.function.__name__)
        assert match, f"{metafunc.function.__name__}: not test_<type>_golden_..."
        cases = _cases().get(match[1])
        assert cases, f"no golden case of layer type {match[1]}"
        metafunc.parametrize("golden_case", cases)


@pytest.fixture
def make_layer() -> Callable[..., nnx.Module]:
    """Gives make_layer(text, *bottom_shapes, phase=TRAIN), text a LayerParameter's."""

    def make(text: str, *bottom_shapes: tuple[int, ...], phase: int = caffe_pb2.TRAIN):
        layer = text_format.Parse(text, caffe_pb2.LayerParameter())
        return _build(layer, bottom_shapes, phase)

    return make


@pytest.fixture
def check_gradient() -> Callable[..., None]:
    """Gives check_gradient(module, *bottoms, wrt=all bottoms, ...).

    Compares the gradient of a random sum of the tops with central differences, along
    one random direction for each bottom and each Param (elements of the direction
    lie in [-1, 1]). The caller keeps the bottoms away from kinks by more than `eps`.
    """

    def check(
        module: nnx.Module,
        *bottoms: np.ndarray,
        wrt: tuple[int, ...] | None = None,  # bottoms to vary
        key: jax.Array | None = None,
        eps: float = 1e-2,
        tolerance: float = 1e-2,
    ) -> None:
        wrt = tuple(range(len(bottoms))) if wrt is None else wrt
        graph, params, rest = nnx.split(module, nnx.Param, ...)
        draw = np.random.RandomState(0)

        def tops(point):
            params, varied = point
            filled = [jnp.asarray(b) for b in bottoms]
            for index, value in zip(wrt, varied, strict=True):
                filled[index] = value
            # A copy, for a call may write the statistics of `rest`.
            return _call(nnx.merge(graph, params, rest, copy=True), filled, key)

        point = (params, [jnp.asarray(bottoms[index]) for index in wrt])
        weights = [_unit(draw, top.shape) for top in jax.eval_shape(tops, point)]

        @jax.jit
        def value(point):
            pairs = zip(weights, tops(point), strict=True)
            return sum((weight * top).sum() for weight, top in pairs)

        gradient = jax.jit(jax.grad(value))(point)
        for leaf, _ in enumerate(jax.tree.leaves(point)):
            direction = [np.zeros(x.shape, np.float32) for x in jax.tree.leaves(point)]
            direction[leaf] = _unit(draw, direction[leaf].shape)

            def moved(step, direction=direction):
                leaves, tree = jax.tree.flatten(point)
                pairs = zip(leaves, direction, strict=True)
                return jax.tree.unflatten(tree, [x + step * d for x, d in pairs])

            numerical = (value(moved(eps)) - value(moved(-eps))) / (2 * eps)
            exact = np.vdot(jax.tree.leaves(gradient)[leaf], direction[leaf])
            np.testing.assert_allclose(
                exact, numerical, rtol=tolerance, atol=tolerance, err_msg=f"leaf {leaf}"
            )

    return check


@pytest.fixture
def run_golden() -> Callable[..., None]:
    """Gives run_golden(case, jit=True), which asserts that a case comes out alike.

    The layers are built in file order from the registry. `jit=False` is for layers
    whose shapes depend on data.
    """
    return _run_golden


def _run_golden(case: str, jit: bool = True) -> None:
    net = text_format.Parse(
        (GOLDEN / f"{case}.prototxt").read_text(), caffe_pb2.NetParameter()
    )
    with np.load(GOLDEN / f"{case}.npz") as file:
        golden = {key: file[key] for key in file.files}
    phase = caffe_pb2.Phase.Value(str(golden["phase"]))
    layers = [layer for layer in net.layer if layer.type != "Input"]

    modules: dict[str, nnx.Module] = {}
    grads: dict[str, np.ndarray] = {}  # Caffe adds up over passes
    shapes = run = None
    for step in range(int(golden["passes"])):
        prefix = f"step{step}/" if step else ""
        inputs = {key: jnp.asarray(v) for key, v in _under(golden, f"{prefix}input/")}
        new_shapes = {name: value.shape for name, value in inputs.items()}
        # As Caffe's Reshape: learned values stay.
        if new_shapes != shapes or not jit:
            modules = _build_net(layers, inputs, phase, modules, jit)
            run = _make_run(layers, modules, dict(_under(golden, "blob_loss_weight/")))
            run = jax.jit(run) if jit else run
            shapes = new_shapes
        if step == 0:
            _set_params(modules, golden)
        backward = step in golden["backward_at"]
        where = f"{case} {prefix}"
        _run_pass(where, prefix, run, modules, inputs, golden, backward, grads)


def _make_run(layers, modules, loss_weights):
    """Returns run(params, rest, held, varied, top_diffs or None for forward only).

    It gives (blobs, new rest, (gradients of params, of varied inputs) or None).
    """
    graphs = {name: nnx.graphdef(module) for name, module in modules.items()}

    def run(params, rest, held, varied, top_diffs):
        def forward(params, varied):
            merged = {
                name: nnx.merge(graphs[name], params[name], rest[name], copy=True)
                for name in graphs
            }
            blobs = _run_net(layers, merged, {**held, **varied})
            after = {name: _split(module)[1] for name, module in merged.items()}
            return blobs, after

        blobs, pull, after = jax.vjp(forward, params, varied, has_aux=True)
        if top_diffs is None:
            return blobs, after, None
        tops = {name: jnp.zeros_like(value) for name, value in blobs.items()}
        for name, weight in loss_weights.items():
            tops[name] = jnp.full_like(blobs[name], weight)
        return blobs, after, pull({**tops, **top_diffs})

    return run


def _run_pass(where, prefix, run, modules, inputs, golden, backward, grads) -> None:
    """Runs and compares one pass; leaves state in `modules`, sums in `grads`."""
    diffs = {name for name, _ in _under(golden, f"{prefix}input_diff/")}
    held = {name: value for name, value in inputs.items() if name not in diffs}
    varied = {name: value for name, value in inputs.items() if name in diffs}
    split = {name: _split(module) for name, module in modules.items()}
    params = {name: parts[0] for name, parts in split.items()}
    rest = {name: parts[1] for name, parts in split.items()}
    top_diffs = dict(_under(golden, f"{prefix}top_diff/")) if backward else None
    blobs, after, pulled = run(params, rest, held, varied, top_diffs)
    for name, module in modules.items():
        nnx.update(module, after[name])

    for name, want in _under(golden, f"{prefix}blob/"):
        _compare(f"{where}blob/{name}", blobs[name], want)
    for path, want in _under(golden, f"{prefix}param_after/"):
        name, index = path.rsplit("/", 1)
        got = _param_list(modules[name])[int(index)].get_value()
        _compare(f"{where}param_after/{path}", got, want)
    if not backward:
        return
    param_diff, input_diff = pulled
    for name, want in _under(golden, f"{prefix}input_diff/"):
        _compare(f"{where}input_diff/{name}", input_diff[name], want)
    for path, want in _under(golden, f"{prefix}param_diff/"):
        name, index = path.rsplit("/", 1)
        blob = _param_names(modules[name])[int(index)]
        if not isinstance(getattr(modules[name], blob), nnx.Param):
            assert not np.any(want), f"{where}{path}: a statistic with a gradient"
            continue
        got = np.asarray(param_diff[name][blob].get_value())
        grads[path] = grads.get(path, 0) + got
        _compare(f"{where}param_diff/{path}", grads[path], want)


def _split(module) -> tuple[nnx.State, nnx.State]:
    """Returns the learned state of a module and the rest of its state."""
    _, params, rest = nnx.split(module, nnx.Param, ...)
    return params, rest


def _unit(draw, shape) -> np.ndarray:
    return draw.uniform(-1, 1, shape).astype(np.float32)


def _build(layer, bottom_shapes, phase) -> nnx.Module:
    entry = registry.lookup(layer.type)
    assert entry is not None, f"{layer.type} is not registered"
    assert entry.module is not None, f"{layer.type} is a feed: it has no module"
    return entry.module(layer, tuple(bottom_shapes), phase, nnx.Rngs(params=0))


def _build_net(layers, inputs, phase, old, jit) -> dict[str, nnx.Module]:
    """Returns layer name -> module, with the state of the module it replaces."""
    modules: dict[str, nnx.Module] = {}
    blobs = inputs
    for layer in layers:
        shapes = [blobs[bottom].shape for bottom in layer.bottom]
        module = _build(layer, shapes, phase)
        if layer.name in old:
            nnx.update(module, nnx.state(old[layer.name]))
        modules[layer.name] = module
        if layer is layers[-1]:
            break  # nobody needs its tops' shapes
        graph, state = nnx.split(module)

        def tops(state, blobs, layer=layer, graph=graph):
            merged = nnx.merge(graph, state, copy=True)
            return _run_net([layer], {layer.name: merged}, blobs)

        # Shapes that depend on data need the data themselves.
        blobs = jax.eval_shape(tops, state, blobs) if jit else tops(state, blobs)
    return modules


def _run_net(layers, modules, blobs):
    """Returns all blobs after running the layers; a blob written twice, the last."""
    blobs = dict(blobs)
    for layer in layers:
        entry = registry.lookup(layer.type)
        bottoms = [
            jax.lax.stop_gradient(blobs[bottom]) if i in entry.no_gradient else b
            for i, bottom in enumerate(layer.bottom)
            for b in [blobs[bottom]]
        ]
        key = jax.random.key(0) if entry.random else None
        tops = _call(modules[layer.name], bottoms, key)
        blobs.update(zip(layer.top, tops, strict=True))
    return blobs


def _call(module, bottoms, key=None) -> tuple[jax.Array, ...]:
    tops = module(*bottoms) if key is None else module(*bottoms, key=key)
    return tuple(tops) if isinstance(tops, (tuple, list)) else (tops,)


def _param_names(module) -> list[str]:
    names = getattr(module, "blobs", ())
    return [name for name in names if getattr(module, name) is not None]


def _param_list(module) -> list[nnx.Variable]:
    return [getattr(module, name) for name in _param_names(module)]


def _set_params(modules, golden) -> None:
    given = dict(_under(golden, "param/"))
    for name, module in modules.items():
        variables = _param_list(module)
        count = sum(path.rsplit("/", 1)[0] == name for path in given)
        assert len(variables) == count, f"{name}: {_param_names(module)}, not {count}"
        for index, variable in enumerate(variables):
            value = given[f"{name}/{index}"]
            assert variable.get_value().shape == value.shape, f"{name}/{index}"
            variable.set_value(jnp.asarray(value))


def _under(golden, prefix) -> list[tuple[str, np.ndarray]]:
    return [(k[len(prefix) :], v) for k, v in golden.items() if k.startswith(prefix)]


def _compare(where, got, want) -> None:
    got = np.asarray(got)
    assert got.shape == want.shape, where
    largest = np.abs(want).max(initial=0)
    atol = ATOL * largest if largest else ZERO_ATOL
    np.testing.assert_allclose(got, want, rtol=RTOL, atol=atol, err_msg=where)
