import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxcaffe.caffe_files.solverstate import (
    SolverState,
    export_history,
    import_history,
    read_solver_state,
    write_solver_state,
)
from jaxcaffe.errors import SnapshotError
from jaxcaffe.proto import binary, caffe_pb2

ARRAYS = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3),
    elements=st.floats(width=32),
)

NET = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "b" type: "InnerProduct" bottom: "x" top: "y"
  inner_product_param { num_output: 3 } param { name: "w" } param { lr_mult: 0 } }
layer { name: "bn" type: "BatchNorm" bottom: "y" top: "y" }
layer { name: "a" type: "InnerProduct" bottom: "y" top: "z"
  inner_product_param { num_output: 3 } param { name: "w" } }
"""
SHAPES = [(3, 3), (3,), (3,), (3,), (1,), (3,)]


@settings(deadline=None, max_examples=25)
@pytest.mark.parametrize("end", [".solverstate", ".solverstate.h5"])
@given(
    iteration=st.integers(0, 2**31 - 1),
    step=st.integers(0, 2**31 - 1),
    learned_net=st.text("aé/. _", max_size=9),
    history=st.lists(ARRAYS, max_size=4),
)
def test_state_written_and_read_is_the_same(
    tmp_path_factory, end, iteration, step, learned_net, history
):
    path = tmp_path_factory.mktemp("x") / f"x{end}"
    write_solver_state(path, SolverState(iteration, learned_net, step, tuple(history)))
    found = read_solver_state(path)
    assert found[:3] == (iteration, learned_net, step)
    for ours, theirs in zip(found.history, history, strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == np.float32


def numbered(scale: float) -> dict:
    """Returns a history without BatchNorm's, and without the sharer's weight."""
    return {
        "b": {"weight": jnp.full((3, 3), scale), "bias": jnp.full(3, 2 * scale)},
        "bn": {},
        "a": {"bias": jnp.full(3, 3 * scale)},
    }


def test_history_has_owners_frozen_blobs_and_zeros_for_statistics(net_of):
    net = net_of(NET)
    blobs = export_history(net, numbered(1.0))
    assert [blob.shape for blob in blobs] == SHAPES
    assert [float(blob.flat[0]) for blob in blobs] == [1, 2, 0, 0, 0, 3]
    back = import_history(net, numbered(0.0), blobs, "SGD", "x")
    np.testing.assert_array_equal(back["b"]["bias"], np.full(3, 2))
    np.testing.assert_array_equal(back["a"]["bias"], np.full(3, 3))
    assert "weight" not in back["a"]


def pairs(first: dict, second: dict) -> dict:
    return {
        layer: {blob: (x, second[layer][blob]) for blob, x in blobs.items()}
        for layer, blobs in first.items()
    }


def test_history_of_two_sets_has_all_first_ones_before_all_second(net_of):
    net = net_of(NET)
    both = pairs(numbered(1.0), numbered(10.0))
    blobs = export_history(net, both)
    assert [blob.shape for blob in blobs] == SHAPES * 2
    values = [float(blob.flat[0]) for blob in blobs]
    assert values == [1, 2, 0, 0, 0, 3, 10, 20, 0, 0, 0, 30]
    back = import_history(net, pairs(numbered(0.0), numbered(0.0)), blobs, "Adam", "x")
    for layer, leaves in both.items():
        for blob, expected in leaves.items():
            for ours, theirs in zip(back[layer][blob], expected, strict=True):
                np.testing.assert_array_equal(ours, theirs)


def test_history_of_old_four_axis_blobs_is_taken(net_of):
    blobs = [np.zeros((1,) * (4 - len(shape)) + shape, np.float32) for shape in SHAPES]
    back = import_history(net_of(NET), numbered(1.0), blobs, "SGD", "x")
    assert back["b"]["weight"].shape == (3, 3)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (SHAPES[:-1], r'x: holds 5 .*"SGD" keeps one for each of the 6 .*, 6'),
        (SHAPES * 2, "x: holds 12 history blobs"),
        ([(3, 3), (4,), *SHAPES[2:]], r'history blob 1 .*\(4,\), .*"bias" .*"b"'),
        ([(9,), *SHAPES[1:]], r"history blob 0 has shape \(9,\)"),
    ],
)
def test_history_of_other_net_or_solver_is_refused(net_of, shapes, message):
    blobs = [np.zeros(shape, np.float32) for shape in shapes]
    with pytest.raises(SnapshotError, match=message):
        import_history(net_of(NET), numbered(1.0), blobs, "SGD", "x")


def model_bytes() -> bytes:
    net = caffe_pb2.NetParameter(name="n")
    layer = net.layer.add(name="ip", type="InnerProduct")
    layer.blobs.append(binary.array_to_blob(np.zeros(50, np.float32)))
    return net.SerializeToString()


def state_bytes() -> bytes:
    state = caffe_pb2.SolverState(iter=3, learned_net="x.caffemodel")
    state.history.append(binary.array_to_blob(np.zeros(50, np.float32)))
    return state.SerializeToString()


def ragged_bytes() -> bytes:
    state = caffe_pb2.SolverState(iter=3)
    state.history.add(data=[1, 2]).shape.dim.append(3)
    return state.SerializeToString()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (state_bytes()[:-7], "cut short or of another kind"),
        (model_bytes(), "holds weights alone.*--weights=.* to start at iteration 0"),
        (b"\x89HDF\r\n\x1a\nxx", "cut short or broken"),
        (b"iter: 3", "no binary SolverState|names no iteration"),
        (ragged_bytes(), "history blob 0: has 2 values for shape"),
        (
            caffe_pb2.SolverState(iter=-4).SerializeToString(),
            "iter is -4 and current_step 0",
        ),
    ],
)
def test_read_solver_state_of_wrong_file_is_refused(tmp_path, data, message):
    (tmp_path / "x.solverstate").write_bytes(data)
    with pytest.raises(SnapshotError, match=message):
        read_solver_state(tmp_path / "x.solverstate")


def test_read_solver_state_of_caffemodel_names_the_state_beside_it(tmp_path):
    (tmp_path / "x_iter_5.caffemodel").write_bytes(model_bytes())
    (tmp_path / "x_iter_5.solverstate").write_bytes(state_bytes())
    with pytest.raises(SnapshotError, match=r"Accepted: .*x_iter_5\.solverstate; or"):
        read_solver_state(tmp_path / "x_iter_5.caffemodel")


def test_read_solver_state_of_missing_file_says_so(tmp_path):
    with pytest.raises(SnapshotError, match="no such file"):
        read_solver_state(tmp_path / "x.solverstate")
