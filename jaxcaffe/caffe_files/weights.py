"""Reads weights from either of Caffe's formats, told apart by their first bytes.

Follows caffe/src/caffe/net.cpp, CopyTrainedLayersFrom.
"""

from __future__ import annotations

import os

import numpy as np

from jaxcaffe.caffe_files import hdf5
from jaxcaffe.caffe_files.nvcaffe import fit_batch_norms
from jaxcaffe.errors import SnapshotError, describe
from jaxcaffe.log import logger
from jaxcaffe.net.weights import Report, load_weights
from jaxcaffe.proto import binary, caffe_pb2
from jaxcaffe.proto.files import read_bytes
from jaxcaffe.spec import Net, Params, Stats

Weights = dict[str, list[np.ndarray | None]]
"""Layer name -> float32 arrays in Caffe's order; None where another layer's holds."""


def read_weights(path: str | os.PathLike[str]) -> Weights:
    """Reads the weights of a .caffemodel or a .caffemodel.h5.

    Args:
      path: of the file; its name plays no part.

    Returns:
      Layer name -> float32 blobs, None for one that HDF5 leaves to its owner.

    Raises:
      SnapshotError: the file is missing, empty, broken, or no weights.

    Source: caffe/src/caffe/net.cpp, CopyTrainedLayersFrom. Differs: none.
    """
    if os.path.isfile(path) and binary.is_hdf5(path):
        return hdf5.read_weights(path)
    try:
        net = binary.read_caffemodel(path, _warn)
    except SnapshotError:
        _refuse_state(path)
        raise
    return {name: list(blobs) for name, blobs in binary.net_weights(net).items()}


def copy_weights(
    net: Net, params: Params, stats: Stats, path: str
) -> tuple[Params, Stats, Report]:
    """Copies a weight file over the blobs of the layers that it names.

    Args:
      net: a translated net.
      params: its params; not changed.
      stats: its stats; not changed.
      path: a .caffemodel or .caffemodel.h5, of Caffe or of NVIDIA's.

    Returns:
      New params and stats, and which layers were loaded, ignored or left as they were.

    Raises:
      SnapshotError: the file cannot be read, or a layer's blobs do not fit.

    Source: caffe/src/caffe/net.cpp, CopyTrainedLayersFrom. Differs: as load_weights.
    """
    source = fit_batch_norms(net.graph, read_weights(path), path)
    return load_weights(net, params, stats, source, path)


def _warn(line: str) -> None:
    logger.warning("%s", line)


def _refuse_state(path: str | os.PathLike[str]) -> None:
    """Says so if a file that is no net is a solver's state."""
    state = caffe_pb2.SolverState()
    try:
        state.ParseFromString(read_bytes(path, SnapshotError))
    except Exception:
        return
    if state.HasField("iter") and state.history:
        belongs = (
            f"{state.learned_net}, which" if state.learned_net else "the file that"
        )
        raise SnapshotError(
            describe(
                os.fspath(path),
                "holds a solver's state, not weights",
                f"{belongs} holds its weights, or --snapshot={os.fspath(path)}",
            )
        )
