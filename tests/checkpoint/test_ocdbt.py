"""Snapshots in the layout that Orbax writes by itself, as earlier versions did."""

import pathlib
import shutil

import numpy as np
import orbax.checkpoint as ocp

from jaxcaffe import checkpoint, log, run, sharding
from jaxcaffe.checkpoint.note import NOTE, STATE, note_handler
from jaxcaffe.train import train
from whole_runs import assert_equal_states, load_config


def write_ocdbt(path, state, note):
    """Writes a snapshot with Orbax alone, all of its arrays in one database."""
    handler = ocp.CompositeCheckpointHandler(
        **{STATE: ocp.PyTreeCheckpointHandler(), NOTE: note_handler()}
    )
    parts = {
        STATE: ocp.args.PyTreeSave(state._asdict()),
        NOTE: ocp.args.JsonSave(note),
    }
    with ocp.Checkpointer(handler) as checkpointer:
        checkpointer.save(path.absolute(), args=ocp.args.Composite(**parts))


def test_run_resumed_from_an_ocdbt_snapshot_equals_the_run_never_stopped(workspace):
    whole = train(load_config("solver.prototxt", ["workdir=whole"]))
    half = load_config("solver.prototxt", ["workdir=cut", "max_iter=20"])
    opened = run.open_run(half)
    train(half)
    newest = pathlib.Path("cut/snapshots/20")
    state, note = checkpoint.restore(
        str(newest), run.state_struct(opened), sharding.replicated(opened.mesh)
    )
    shutil.rmtree("cut/snapshots")
    write_ocdbt(newest, state, note)
    assert (newest / STATE / "manifest.ocdbt").exists()
    assert not list((newest / STATE).rglob(".zarray"))

    resumed = train(load_config("solver.prototxt", ["workdir=cut"]), resume=True)
    assert log.read_scalars("cut/scalars.jsonl") == log.read_scalars(
        "whole/scalars.jsonl"
    )
    assert_equal_states(resumed.state, whole.state)


def test_weights_of_an_ocdbt_snapshot_are_those_of_its_state(tmp_path, make_state):
    state = make_state(5)
    write_ocdbt(tmp_path / "5", state, {"seed": 1})
    read = checkpoint.read_weights(str(tmp_path / "5"))
    np.testing.assert_array_equal(
        read["params"]["ip"]["weight"], state.params["ip"]["weight"]
    )
    np.testing.assert_array_equal(
        read["stats"]["bn"]["mean"], state.stats["bn"]["mean"]
    )
