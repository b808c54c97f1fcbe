"""Snapshots in the layout that Orbax writes by itself, as earlier versions did."""

import pathlib
import shutil

import numpy as np
import orbax.checkpoint as ocp

from jaxcaffe import checkpoint, config, log, run, sharding
from jaxcaffe.checkpoint.note import NOTE, STATE, note_handler
from jaxcaffe.train import train


def load_config(workdir, *overrides):
    overrides = [f"workdir={workdir}", "snapshot.caffe=False", *overrides]
    return config.load_config("solver.prototxt", overrides)


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
    whole = train(load_config("whole", "max_iter=20"))
    opened = run.open_run(load_config("cut", "max_iter=10"))
    train(load_config("cut", "max_iter=10"))
    newest = pathlib.Path("cut/snapshots/10")
    state, note = checkpoint.restore(
        str(newest), run.state_struct(opened), sharding.replicated(opened.mesh)
    )
    shutil.rmtree("cut/snapshots")
    write_ocdbt(newest, state, note)
    assert (newest / STATE / "manifest.ocdbt").exists()
    assert not list((newest / STATE).rglob(".zarray"))

    resumed = train(load_config("cut", "max_iter=20"), resume=True)
    assert log.read_scalars("cut/scalars.jsonl") == log.read_scalars(
        "whole/scalars.jsonl"
    )
    for layer, blobs in whole.state.params.items():
        for blob, values in blobs.items():
            np.testing.assert_array_equal(resumed.state.params[layer][blob], values)


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
