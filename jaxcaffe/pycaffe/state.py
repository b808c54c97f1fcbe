"""What a pycaffe net holds between two calls: the one thing here that changes.

Follows the members of caffe/include/caffe/net.hpp.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxcaffe.net.backward import BackwardPlan
from jaxcaffe.pycaffe.blob import Blob, BlobVec
from jaxcaffe.pycaffe.feeds import MemoryFeed, RecordFeed
from jaxcaffe.pycaffe.layer import NetLayer
from jaxcaffe.pycaffe.programs import HostTops, Names, Stretch
from jaxcaffe.spec import Blobs, Graph, Net, Params, Shape, Stats

Callback = Callable[[int], object]
"""Called with a layer's number."""

_MOMENTS = ("before_forward", "after_forward", "before_backward", "after_backward")


class Built(NamedTuple):
    """The net for one set of input shapes, and what was made for it."""

    net: Net
    plan: BackwardPlan
    programs: dict[Any, Any]  # compiled
    names: dict[Stretch, Names]  # found once: a pass of a small net lasts no longer
    routes: dict[tuple[int, int], Route]  # start and stop of a forward pass -> its


class Later:
    """Blobs, or diffs, that a pass leaves to be computed when one of them is asked for.

    Whoever reads one inside the net is likely to do so again: the next pass computes it
    at once.

    Args:
      asked: takes the names of those that are read.
      names: of all.

    Attributes:
      fetches: name -> what gives it. The same for all passes, so that a blob which
        nobody reads need not be told of each.
      compute: gives all of the latest pass.
    """

    def __init__(self, asked: set[str], names: Iterable[str]) -> None:
        self.fetches = tuple((n, functools.partial(self._give, n)) for n in names)
        self.compute: Callable[[], Blobs] = dict
        self._asked = asked

    def _give(self, name: str) -> jax.Array:
        self._asked.add(name)
        return self.compute()[name]


class Route(NamedTuple):
    """How a forward pass through some layers is run, until other blobs are read."""

    stretch: Stretch
    names: Names
    wanted: tuple[str, ...]  # blobs that are computed at once
    program: Callable[..., Any]
    later: Later
    age: tuple[int, int]  # numbers of blobs read and of programs when it was made


class Weights(NamedTuple):
    """Weights as the core takes them, for as long as no blob gets other values."""

    built: Built
    values: tuple[tuple[Blob, jax.Array], ...]  # of all blobs
    params: Params
    stats: Stats


class Pass(NamedTuple):
    """What a forward pass was given, from which all of it can be computed again."""

    built: Built
    stretch: Stretch
    params: Params
    stats: Stats
    blobs: Blobs
    number: np.uint32  # of the pass, for its random numbers
    host_tops: HostTops  # filled by the pass itself


@dataclasses.dataclass
class State:
    """A net's blobs, weights and gradients, and how they came about."""

    graph: Graph
    feeds: dict[int, RecordFeed | MemoryFeed]  # number of a data layer -> its records
    key: jax.Array  # of all its random numbers
    fed: tuple[str, ...]  # tops whose shapes do not follow from others
    constant: frozenset[str]  # tops that are filled once
    is_exact: bool  # runs uncompiled: shapes that depend on values
    has_host: bool  # calls Python layers of the user's, once in each pass
    built: Built  # at the present input shapes
    cache: dict[tuple[Shape, ...], Built]  # shapes of `fed` -> the net for them
    blobs: OrderedDict[str, Blob]
    owners: dict[tuple[str, str], Blob] = dataclasses.field(default_factory=dict)
    hidden: Stats = dataclasses.field(default_factory=dict)  # recurrent states
    params: OrderedDict[str, BlobVec] = dataclasses.field(default_factory=OrderedDict)
    layers: list[NetLayer] = dataclasses.field(default_factory=list)
    # Blobs inside the net that have been read: "forward" values, "backward" diffs.
    asked: dict[str, set[str]] = dataclasses.field(
        default_factory=lambda: {"forward": set(), "backward": set()}
    )
    weights: Weights | None = None
    last: dict[int, Pass] = dataclasses.field(default_factory=dict)  # layer -> its pass
    passes: int = 0
    callbacks: dict[str, list[Callback]] = dataclasses.field(
        default_factory=lambda: {moment: [] for moment in _MOMENTS}
    )

    @property
    def size(self) -> int:
        """Number of layers."""
        return len(self.graph.nodes)

    @property
    def inputs(self) -> list[str]:
        """Tops of Input layers."""
        return [
            top
            for node in self.graph.nodes
            if node.layer.type == "Input"
            for top in node.tops
        ]
