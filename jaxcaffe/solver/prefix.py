"""Where the snapshots of a solver file go.

Follows UpgradeSnapshotPrefixProperty of caffe/src/caffe/util/upgrade_proto.cpp.
"""

from __future__ import annotations

import os

from jaxcaffe.proto import caffe_pb2


def find_snapshot_prefix(solver: caffe_pb2.SolverParameter, solver_path: str) -> str:
    """Returns the beginning of every snapshot's file name.

    Args:
      solver: its snapshot_prefix counts if it is set.
      solver_path: path of the solver file.

    Returns:
      snapshot_prefix; if that is a directory, the solver file's name without extension
      in it; if it is not set, solver_path without extension. Relative to the working
      directory, as the solver file's other paths are.
    Source: caffe/src/caffe/util/upgrade_proto.cpp, UpgradeSnapshotPrefixProperty.
      Differs: none.
    """
    stem = os.path.splitext(solver_path)[0]
    if not solver.HasField("snapshot_prefix"):
        return stem
    snapshot_prefix = solver.snapshot_prefix
    if os.path.isdir(snapshot_prefix):
        return os.path.join(snapshot_prefix, os.path.basename(stem))
    return snapshot_prefix
