"""Runs that Caffe snapshotted and went on with, gone on with here instead.

Another folder of cases can be named by the environment variable
JAXCAFFE_GOLDEN_SOLVERS.
"""

import json
import os
import pathlib

import h5py
import numpy as np
import pytest

from jaxcaffe import run
from jaxcaffe.caffe_files.caffemodel import saved_layers
from jaxcaffe.caffe_files.resume import restore_caffe
from jaxcaffe.caffe_files.snapshots import open_writer
from jaxcaffe.config import load_config
from jaxcaffe.net.weights import export_weights
from jaxcaffe.proto import binary, caffe_pb2

FOLDER = pathlib.Path(
    os.environ.get("JAXCAFFE_GOLDEN_SOLVERS")
    or pathlib.Path(__file__).parents[1] / "golden" / "solvers"
)
STATES = sorted(str(p.relative_to(FOLDER)) for p in FOLDER.glob("*/*.solverstate*"))
CASES = sorted({state.split("/")[0] for state in STATES})

# As in test_golden_solvers: a difference of one ulp grows with every update.
LOSSES, WEIGHTS = 1e-3, 1e-3


def open_case(name, monkeypatch):
    monkeypatch.chdir(FOLDER / name)
    opened = run.open_run(load_config("solver.prototxt"))
    return json.loads(pathlib.Path("case.json").read_text()), opened


@pytest.mark.parametrize("state_path", STATES)
def test_run_that_caffe_snapshotted_goes_on_as_in_caffe(state_path, monkeypatch):
    name, path = state_path.split("/")
    meta, opened = open_case(name, monkeypatch)
    state = restore_caffe(opened.train.net, opened.solver, run.make_state(opened), path)
    assert int(state.iter) == int(state.opt_state.count) == meta["resume_iter"]
    train_step = run.compile_train_step(opened)
    feed = run.open_device_feed(opened, opened.train)
    losses = []
    try:
        for _ in range(meta["resume_iter"], meta["max_iter"]):
            state, report = train_step(state, next(feed))
            losses.append(float(report.outputs["loss"]))
    finally:
        feed.close()
    golden = np.load("losses_resumed.npy")
    error = np.abs(losses - golden) / np.maximum(np.abs(golden), 1e-2)
    assert error.max() <= LOSSES + 10 * meta["sensitivity"]["losses"]
    final = np.load("final_resumed.npz")
    ours = export_weights(opened.train.net, state.params, state.stats)
    ours = {f"{name}/{i}": b for name, bs in ours.items() for i, b in enumerate(bs)}
    assert sorted(ours) == sorted(final.files)
    for name, theirs in final.items():
        assert ours[name].shape == theirs.shape
        worst = np.abs(ours[name] - theirs).max() / max(np.abs(theirs).max(), 1e-3)
        assert worst <= WEIGHTS + 10 * meta["sensitivity"]["weights"], name


@pytest.mark.parametrize("name", CASES)
def test_snapshot_written_here_is_caffes_byte_for_byte(name, monkeypatch, tmp_path):
    meta, opened = open_case(name, monkeypatch)
    theirs = f"snap_iter_{meta['resume_iter']}"
    state = restore_caffe(
        opened.train.net, opened.solver, run.make_state(opened), f"{theirs}.solverstate"
    )
    solver = caffe_pb2.SolverParameter()
    solver.CopyFrom(opened.solver)
    # Gradients are no part of a state, so none can be written back.
    solver.snapshot_diff = False
    solver.snapshot_prefix = str(tmp_path / "snap")
    writer = open_writer(opened.train.net, solver, start=0)
    writer.save(state, None)
    writer.wait()
    writer.close()
    model = tmp_path / f"{theirs}.caffemodel"
    assert model.read_bytes() == without_diffs(f"{theirs}.caffemodel")
    written, recorded = (caffe_pb2.SolverState() for _ in range(2))
    binary.read_message(tmp_path / f"{theirs}.solverstate", written)
    binary.read_message(f"{theirs}.solverstate", recorded)
    # It names its weights by their path, which is another here.
    assert written.learned_net == str(model)
    written.learned_net = recorded.learned_net
    assert written == recorded


def without_diffs(path: str) -> bytes:
    net = caffe_pb2.NetParameter.FromString(pathlib.Path(path).read_bytes())
    for layer in net.layer:
        for blob in layer.blobs:
            blob.ClearField("diff")
    return net.SerializeToString()


@pytest.mark.parametrize(
    "name", sorted({s.split("/")[0] for s in STATES if s.endswith(".h5")})
)
def test_hdf5_written_here_is_laid_out_as_caffes(name, monkeypatch, tmp_path):
    meta, opened = open_case(name, monkeypatch)
    theirs = f"snap_iter_{meta['resume_iter']}"
    state_path = f"{theirs}.solverstate.h5"
    state = restore_caffe(
        opened.train.net, opened.solver, run.make_state(opened), state_path
    )
    solver = caffe_pb2.SolverParameter()
    solver.CopyFrom(opened.solver)
    solver.snapshot_format = caffe_pb2.SolverParameter.HDF5
    solver.snapshot_prefix = str(tmp_path / "snap")
    writer = open_writer(opened.train.net, solver, start=0)
    writer.save(state, None)
    writer.wait()
    writer.close()
    for file in (f"{theirs}.caffemodel.h5", state_path):
        written, recorded = tree(tmp_path / file), tree(file)
        if "learned_net" in recorded:
            value = str(tmp_path / f"{theirs}.caffemodel.h5").encode()
            kind, dtype, shape, _ = recorded["learned_net"]
            size = np.dtype(f"S{len(value) + 1}")
            recorded["learned_net"] = (kind, size, shape, value)
            assert dtype.kind == "S"
        assert written == recorded


def tree(path):
    """Returns each group and dataset with its type, shape and bytes."""
    found = {}

    def visit(name, item):
        if isinstance(item, h5py.Group):
            found[name] = "group"
            return
        value = item[()]
        data = value if isinstance(value, bytes) else value.tobytes()
        found[name] = (item.id.get_type().get_class(), item.dtype, item.shape, data)

    with h5py.File(path) as file:
        file.visititems(visit)
    return found


@pytest.mark.parametrize("name", CASES)
def test_saved_layers_are_those_that_caffe_writes(name, monkeypatch):
    meta, opened = open_case(name, monkeypatch)
    recorded = caffe_pb2.NetParameter()
    binary.read_message(f"snap_iter_{meta['resume_iter']}.caffemodel", recorded)
    for layer in recorded.layer:
        layer.ClearField("blobs")
    assert saved_layers(opened.train.net) == list(recorded.layer)


def test_golden_states_are_found():
    assert len(STATES) >= 10
