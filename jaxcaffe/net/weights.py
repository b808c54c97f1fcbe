"""Moves weights between a net's trees and lists of arrays by layer name.

Follows caffe/src/caffe/net.cpp, CopyTrainedLayersFrom and ToProto, and
caffe/src/caffe/blob.cpp, ShapeEquals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcaffe.errors import SnapshotError, describe, plural
from jaxcaffe.net.params import is_owner
from jaxcaffe.spec import Net, ParamInfo, Params, Shape, Stats

RENAME = "to learn this layer from scratch instead, rename it in the net"
RENAME_ALL = "to learn these layers from scratch instead, rename them in the net"


class Report(NamedTuple):
    """What loading weights did, as layer names in the order of the file or the net."""

    loaded: tuple[str, ...]
    ignored: tuple[str, ...]  # in the file only
    missing: tuple[str, ...]  # have blobs in the net, none in the file


def load_weights(
    net: Net,
    params: Params,
    stats: Stats,
    source: Mapping[str, Sequence[np.ndarray | None]],
    where: str = "",
) -> tuple[Params, Stats, Report]:
    """Replaces the blobs of every layer whose name the source has.

    Args:
      net: a translated net.
      params: its params; not changed. Those that a test net takes from its train net
        may lack, and are left to that.
      stats: its stats; likewise.
      source: layer name -> blobs in Caffe's order. A blob that the net takes from
        another layer may be None or lack at the end, as in Caffe's HDF5 files.
      where: the file's path, for errors.

    Returns:
      New params and stats (float32), and a report.

    Of several layers with one name the first takes the weights, as in Caffe; the
    others go by their keys, as `export_weights` writes them.

    Raises:
      SnapshotError: a layer has another number of blobs, or a blob another shape; all
        such layers are named. A 4-D source may have leading axes of 1 more than the
        net, as files of old do.

    Source: caffe/src/caffe/net.cpp, CopyTrainedLayersFrom. Differs: Caffe lets only
    blobs with the four legacy sizes have more axes, and names the first layer that
    does not fit.
    """
    infos = layer_infos(net)
    names = {node.layer.name for node in net.graph.nodes} | set(infos)
    _refuse_mismatches(infos, {n: b for n, b in source.items() if n in names}, where)
    params = {name: dict(blobs) for name, blobs in params.items()}
    stats = {name: dict(blobs) for name, blobs in stats.items()}
    given = set()
    for name, blobs in source.items():
        if name not in names:
            continue
        for info, blob in zip(infos.get(name, ()), blobs, strict=False):
            if blob is None:
                continue
            layer, owner_blob = info.owner
            tree = stats if info.is_stat else params
            if owner_blob not in tree.get(layer, ()):
                continue  # of a test net: the train net's
            shape = tree[layer][owner_blob].shape
            tree[layer][owner_blob] = jnp.asarray(blob, jnp.float32).reshape(shape)
            given.add(info.owner)
    report = Report(
        loaded=tuple(n for n in source if n in infos and n in names),
        ignored=tuple(n for n in source if n not in names),
        missing=tuple(
            name
            for name, theirs in infos.items()
            if not any(info.owner in given for info in theirs)
        ),
    )
    return params, stats, report


def export_weights(
    net: Net, params: Params, stats: Stats
) -> dict[str, list[np.ndarray]]:
    """Returns every layer's blobs in Caffe's order, as a .caffemodel holds them.

    Args:
      net: a translated net.
      params: its params, or those of a net that has more layers.
      stats: likewise.

    Returns:
      Layer name -> float32 arrays, statistics at their place among the learned blobs
      and shared blobs repeated in each layer's own shape; layers without blobs are
      left out.

    Source: caffe/src/caffe/net.cpp, ToProto. Differs: none.
    """
    wanted = {
        name: [(stats if i.is_stat else params)[i.owner[0]][i.owner[1]] for i in theirs]
        for name, theirs in layer_infos(net).items()
    }
    arrays = jax.device_get(wanted)
    return {
        name: [
            np.asarray(array, np.float32).reshape(info.shape)
            for array, info in zip(arrays[name], theirs, strict=True)
        ]
        for name, theirs in layer_infos(net).items()
    }


def layer_infos(net: Net) -> dict[str, tuple[ParamInfo, ...]]:
    """Returns the blobs of each layer that has any, in Caffe's order."""
    infos: dict[str, tuple[ParamInfo, ...]] = {}
    for info in net.params:
        infos[info.layer] = (*infos.get(info.layer, ()), info)
    return infos


def shape_equals(source: Shape, target: Shape) -> bool:
    """Returns whether a stored blob fits, its legacy four axes counted from the end.

    Source: caffe/src/caffe/blob.cpp, ShapeEquals. Differs: none for legacy blobs.
    """
    if tuple(source) == tuple(target):
        return True
    padding = (1,) * (4 - len(target))
    return len(source) == 4 and len(target) < 4 and padding + tuple(target) == source


def _refuse_mismatches(
    infos: Mapping[str, Sequence[ParamInfo]],
    source: Mapping[str, Sequence[np.ndarray | None]],
    where: str,
) -> None:
    """Raises one error for all layers whose blobs do not fit."""
    found = [
        (name, *mismatch)
        for name, blobs in source.items()
        if (mismatch := _find_mismatch(infos.get(name, ()), blobs))
    ]
    if not found:
        return
    if len(found) == 1:
        [(name, problem, accepted)] = found
        problem = f'layer "{name}": {problem}'
        raise SnapshotError(describe(where, problem, f"{accepted}; {RENAME}"))
    listed = "; ".join(f'"{name}": {problem}' for name, problem, _ in found)
    raise SnapshotError(
        describe(
            where,
            f"{len(found)} layers do not fit the net: {listed}",
            f"blobs of the net's shapes; {RENAME_ALL}",
        )
    )


def _find_mismatch(
    infos: Sequence[ParamInfo], blobs: Sequence[np.ndarray | None]
) -> tuple[str, str] | None:
    """Returns (problem, accepted) of a layer whose blobs do not fit, or None."""
    padded = (*blobs, *[None] * (len(infos) - len(blobs)))
    lacking = [i for i, blob in zip(infos, padded, strict=False) if blob is None]
    if len(blobs) > len(infos) or any(is_owner(info) for info in lacking):
        count = sum(blob is not None for blob in blobs)
        listed = f" ({', '.join(info.blob for info in infos)})" if infos else ""
        return (
            f"{plural(count, 'blob')} in the file but {len(infos)} in the net",
            f"{plural(len(infos), 'blob')}{listed}",
        )
    for index, (info, blob) in enumerate(zip(infos, blobs, strict=False)):
        if blob is not None and not shape_equals(blob.shape, info.shape):
            return (
                f'blob {index} ("{info.blob}") has shape {blob.shape} in the file but '
                f"{info.shape} in the net",
                f"shape {info.shape}",
            )
    return None
