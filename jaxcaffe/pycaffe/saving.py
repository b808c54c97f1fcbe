"""A pycaffe net's weights from and to files.

Follows CopyTrainedLayersFrom, ToProto and ToHDF5 of caffe/src/caffe/net.cpp.
"""

from __future__ import annotations

import numpy as np

from jaxcaffe.caffe_files.caffemodel import saved_layers, write_caffemodel
from jaxcaffe.caffe_files.hdf5 import write_weights
from jaxcaffe.caffe_files.weights import copy_weights
from jaxcaffe.log import logger
from jaxcaffe.net import weights
from jaxcaffe.net.params import is_owner
from jaxcaffe.pycaffe import memory
from jaxcaffe.pycaffe.state import State


def check_file(path: str) -> None:
    """Raises RuntimeError, as pycaffe does, for a file that cannot be opened."""
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise RuntimeError(f"Could not open file {path} ({error.strerror})") from error


def copy_from(state: State, path: str) -> None:
    """Copies weights from a file of either format, by layer name.

    Raises:
      RuntimeError: the file cannot be opened.
      SnapshotError: it is broken, or a layer's blobs do not fit.
    """
    check_file(path)
    params, stats, report = copy_weights(
        state.built.net, *memory.read_weights(state), path
    )
    for name in report.ignored:
        logger.info("Ignoring source layer %s", name)
    memory.put_weights(state, params, stats)


def save(state: State, path: str) -> None:
    """Writes a .caffemodel.

    Raises:
      SnapshotError: the file cannot be written.
    """
    net = state.built.net
    blobs = weights.export_weights(net, *memory.read_weights(state))
    write_caffemodel(path, net.graph.name, saved_layers(net), blobs)


def save_hdf5(state: State, path: str) -> None:
    """Writes the weights as HDF5; shared ones stand at their owner only.

    Raises:
      SnapshotError: the file cannot be written.
    """
    net = state.built.net
    blobs = weights.export_weights(net, *memory.read_weights(state))
    names = [layer.name for layer in saved_layers(net)]
    infos = weights.layer_infos(net)
    own: dict[str, list[np.ndarray | None]] = {
        layer: [
            array if is_owner(info) else None
            for array, info in zip(arrays, infos[layer], strict=True)
        ]
        for layer, arrays in blobs.items()
    }
    write_weights(path, names, own, {})
