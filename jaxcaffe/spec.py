"""Types that travel between packages. Imports nothing of the project's at run time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

if TYPE_CHECKING:
    from jaxcaffe.proto import caffe_pb2

Shape = tuple[int, ...]
"""Lengths of axes, outermost first; (N, C, H, W) for images."""

Blobs = dict[str, jax.Array]
"""Blob name -> array."""

Structs = Mapping[str, jax.ShapeDtypeStruct]
"""Blob name -> shape and dtype."""

Params = dict[str, dict[str, jax.Array]]
"""Layer name -> blob name ("weight", "bias") -> learned float32 array. A shared blob
stands only under the layer that owns it."""

Stats = dict[str, dict[str, jax.Array]]
"""Layer name -> blob name -> float32 array that forward passes update (BatchNorm)."""


class Slot:
    """What a layer that calls the host keeps however often its net is built anew.

    Attributes:
      where: "file:line" of the layer, or the file's name alone.
      value: None until the layer is built first; then the layer's own.
    """

    def __init__(self, where: str = "") -> None:
        self.where = where
        self.value: Any = None


class Node(NamedTuple):
    """One layer of a filtered net, in file order."""

    layer: caffe_pb2.LayerParameter
    where: str  # "file:line" of the layer, or the file's name alone
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]  # automatic tops included
    loss_weights: tuple[float, ...]  # one per top; 0 where the top is no loss
    propagate_down: tuple[bool, ...]  # one per bottom
    key: str  # of its blobs in Params, Stats, ParamInfo; the name unless that is taken
    slot: Slot | None = None  # of a layer that calls the host


class Graph(NamedTuple):
    """A net for one phase, after filtering and splitting."""

    name: str
    phase: int  # caffe_pb2.TRAIN or caffe_pb2.TEST
    nodes: tuple[Node, ...]
    blobs: tuple[str, ...]  # in the order in which Caffe numbers them
    outputs: tuple[str, ...]  # blobs that nobody consumes, sorted by name
    force_backward: bool  # the file overrides propagate_down false and lr_mult 0


class ParamInfo(NamedTuple):
    """One learned blob of one layer, in Caffe's order (net.params).

    `layer` is the key of the layer's node: its name, or for a later one of several
    layers with blobs and one name, the name with "#2", "#3", ...
    `owner` is (layer, blob) itself unless the blob is shared by `param { name }`;
    then it names the first layer that has it, the only one with a leaf in Params. In a
    test net it names a leaf of the net that is trained, where that has one.
    """

    layer: str
    blob: str
    owner: tuple[str, str]
    shape: Shape
    lr_mult: float
    decay_mult: float
    is_stat: bool  # lives in Stats: forward passes change it, the solver does not


class NetOutput(NamedTuple):
    """What one forward pass gives."""

    blobs: Blobs  # every blob, splits included; of an in-place chain the last value
    loss: jax.Array  # () float32: sum over tops of loss_weight * sum(top)
    stats: Stats


class LayerCall(NamedTuple):
    """One layer made ready to run alone, as a profiler needs it."""

    # (params, stats) of the net -> the layer's own by blob name, shared ones included
    arrays: Callable[[Params, Stats], tuple[Blobs, Blobs]]
    # (own params, own stats, bottoms, the net's key) -> (tops, own new stats)
    run: Callable[
        [Blobs, Blobs, Sequence[jax.Array], jax.Array],
        tuple[tuple[jax.Array, ...], Blobs],
    ]


class Net(NamedTuple):
    """A translated net: pure functions and what is known before they run."""

    graph: Graph
    structs: Structs  # every blob's shape and dtype
    params: tuple[ParamInfo, ...]
    init: Callable[[jax.Array], tuple[Params, Stats]]
    apply: Callable[[Params, Stats, Blobs, jax.Array], NetOutput]
    calls: tuple[LayerCall | None, ...]  # one per node; None for feeds
