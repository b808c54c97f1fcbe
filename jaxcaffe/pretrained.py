"""Learned weights for a net that only runs: from a .caffemodel or a run's snapshot.

Follows CopyTrainedLayersFrom of caffe/src/caffe/net.cpp.
"""

from __future__ import annotations

import os
from typing import Any

import jax

from jaxcaffe import checkpoint, errors
from jaxcaffe.caffe_files.weights import copy_weights
from jaxcaffe.net.params import is_owner
from jaxcaffe.spec import Net, Params, Stats

_ACCEPTED = "a .caffemodel or .h5 file, or a snapshot such as runs/NAME/snapshots/1000"
_SHOWN = 6  # layers named in one message


def load_pretrained(net: Net, path: str) -> tuple[Params, Stats]:
    """Reads the weights of every layer of a net.

    Layers that the net lacks are passed over: a snapshot also holds those that only
    training needs.

    Args:
      net: a translated net.
      path: a .caffemodel or .caffemodel.h5 file, or the folder of one snapshot, of
        which nothing but the weights is read.

    Returns:
      Params and stats of the net.

    Raises:
      SnapshotError: no such file, broken, or of another net: a layer has other shapes,
        or no weights at all.

    Source: caffe/src/caffe/net.cpp, CopyTrainedLayersFrom. Differs: Caffe leaves layers
    without weights as their fillers made them, which is no net to ask for answers.
    """
    if os.path.isdir(path):
        return _fit_trees(net, checkpoint.read_weights(path), path)
    if not os.path.exists(path):
        raise errors.SnapshotError(errors.describe(path, "no such file", _ACCEPTED))
    params, stats = jax.jit(net.init)(jax.random.key(0))
    params, stats, report = copy_weights(net, params, stats, path)
    _refuse_missing(path, report.missing, [*report.loaded, *report.ignored])
    return params, stats


def _fit_trees(net: Net, held: checkpoint.Trees, path: str) -> tuple[Params, Stats]:
    params: Params = {}
    stats: Stats = {}
    missing: list[str] = []
    for info in filter(is_owner, net.params):
        part = "stats" if info.is_stat else "params"
        array = held[part].get(info.layer, {}).get(info.blob)
        if array is None:
            missing.append(info.layer)
            continue
        if array.shape != info.shape:
            raise errors.SnapshotError(
                errors.describe(
                    path,
                    f'layer "{info.layer}": blob "{info.blob}" has shape {array.shape} '
                    f"in the snapshot but {info.shape} in the net",
                    "a snapshot of this net",
                )
            )
        tree = stats if info.is_stat else params
        tree.setdefault(info.layer, {})[info.blob] = jax.numpy.asarray(array)
    _refuse_missing(path, missing, [*held["params"], *held["stats"]])
    return params, _add_hidden(net, params, stats)


def _add_hidden(net: Net, params: Params, stats: Stats) -> Stats:
    """Adds what forward passes update but weight files never hold, as it starts."""
    _, fresh = jax.jit(net.init)(jax.random.key(0))
    return {layer: {**blobs, **stats.get(layer, {})} for layer, blobs in fresh.items()}


def _refuse_missing(path: str, missing: Any, there: Any) -> None:
    names = list(dict.fromkeys(missing))
    if not names:
        return
    shown = ", ".join(f'"{name}"' for name in names[:_SHOWN])
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    held = ", ".join(list(dict.fromkeys(there))[:_SHOWN]) or "none"
    raise errors.SnapshotError(
        errors.describe(
            path,
            f"holds no weights for {shown}{more} of the net (it has layers {held})",
            "weights of this net",
        )
    )
