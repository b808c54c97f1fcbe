"""Snapshots of a run: exact, written in the background, whole or not there at all.

One folder per snapshot, named after its iteration, holds the whole TrainState as Orbax
writes it and a JSON note. Takes the place of Snapshot and Restore of
caffe/src/caffe/solver.cpp.
"""

from jaxcaffe.checkpoint.circumstances import (
    DETERMINISTIC,
    environment,
    environment_changes,
)
from jaxcaffe.checkpoint.folder import open_folder, remove, steps
from jaxcaffe.checkpoint.note import Positions, read_newest_note, read_note
from jaxcaffe.checkpoint.read import Trees, read_weights, restore, restore_latest
from jaxcaffe.checkpoint.workdir import hold_workdir
from jaxcaffe.checkpoint.write import Writer, copy_state, open_writer

__all__ = [
    "DETERMINISTIC",
    "Positions",
    "Trees",
    "Writer",
    "copy_state",
    "environment",
    "environment_changes",
    "hold_workdir",
    "open_folder",
    "open_writer",
    "read_newest_note",
    "read_note",
    "read_weights",
    "remove",
    "restore",
    "restore_latest",
    "steps",
]
