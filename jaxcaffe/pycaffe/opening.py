"""Makes a pycaffe net: its records, its weights, its first blobs.

Follows Init of caffe/src/caffe/net.cpp.
"""

from __future__ import annotations

from collections import Counter, OrderedDict

import jax

from jaxcaffe import errors
from jaxcaffe.log import logger
from jaxcaffe.net import graph as graphs
from jaxcaffe.net.params import is_owner
from jaxcaffe.proto import caffe_pb2, text
from jaxcaffe.pycaffe import memory, modes, programs, shaping
from jaxcaffe.pycaffe.blob import Blob, BlobVec
from jaxcaffe.pycaffe.feeds import is_constant, open_feeds
from jaxcaffe.pycaffe.layer import list_layer, users_error
from jaxcaffe.pycaffe.programs import Stretch
from jaxcaffe.pycaffe.state import Built, State
from jaxcaffe.spec import Graph, Shape

_EXACT_SHAPES = ("Filter",)
"""Types whose tops' shapes depend on values, so that nets with them run uncompiled."""


def open_state(
    param: caffe_pb2.NetParameter,
    net_state: caffe_pb2.NetState,
    source: text.Source | None,
) -> State:
    """Opens a net's data, builds it and fills its weights.

    Raises:
      CaffeError: the net or its data cannot be used; says where and why.
      Exception: what a Python layer of the user's raised in setup.
    """
    modes.start_log()
    seed = modes.draw_seed()
    graph: Graph = graphs.build_graph(param, net_state, source)
    feeds = open_feeds(graph, seed)
    fed = tuple(
        top
        for index, node in enumerate(graph.nodes)
        for top in node.tops
        if index in feeds or node.layer.type == "Input"
    )
    structs: dict[str, jax.ShapeDtypeStruct] = {}
    for feed in feeds.values():
        structs.update(feed.structs)
    cache: dict[tuple[Shape, ...], Built] = {}
    try:
        built = shaping.build(graph, fed, cache, structs)
    except errors.PrototxtError as error:
        raise users_error(error) from error
    # Shapes that depend on values are known only once the values are.
    is_exact = any(node.layer.type in _EXACT_SHAPES for node in graph.nodes)
    # The user's Python layers are called once in each pass, not again for a blob.
    has_host = any(node.slot is not None for node in graph.nodes)
    state = State(
        graph=graph,
        feeds=feeds,
        key=jax.random.key(seed),
        fed=fed,
        constant=_find_constant(graph),
        is_exact=is_exact,
        has_host=has_host,
        built=built,
        cache=cache,
        blobs=OrderedDict(
            (name, Blob(built.net.structs[name].shape)) for name in graph.blobs
        ),
    )
    _join_splits(state)
    _make_weights(state)
    _fill_constant(state)
    shaping.set_loss_diffs(state)
    state.layers = [
        list_layer(node, state.params.get(node.key, BlobVec())) for node in graph.nodes
    ]
    logger.info("Network initialization done.")
    return state


def _find_constant(graph: Graph) -> frozenset[str]:
    return frozenset(
        top
        for node in graph.nodes
        for i, top in enumerate(node.tops)
        if is_constant(node, i)
    )


def _join_splits(state: State) -> None:
    """Gives the tops of splits their bottom's memory, as in Caffe."""
    written = Counter(top for node in state.graph.nodes for top in node.tops)
    for node in state.graph.nodes:
        if node.layer.type == "Split":
            for top in node.tops:
                # A layer that works in place would write over the others' values.
                if written[top] == 1:
                    bottom = state.blobs[node.bottoms[0]]
                    state.blobs[top].data_side = bottom.data_side


def _make_weights(state: State) -> None:
    net = state.built.net
    with modes.on_device():
        params, stats = jax.jit(net.init)(state.key)
    for info in filter(is_owner, net.params):
        state.owners[info.layer, info.blob] = Blob(info.shape)
    memory.bind_params(state)
    memory.put_weights(state, params, stats)


def _fill_constant(state: State) -> None:
    if not state.constant:
        return
    net = state.built.net
    for index, node in enumerate(state.graph.nodes):
        if state.constant.isdisjoint(node.tops):
            continue
        stretch = Stretch(index, index + 1, frozenset())
        run = programs.make_forward(net, stretch, node.tops)
        values, *_ = run({}, {}, {}, state.key)
        for top in state.constant.intersection(node.tops):
            state.blobs[top].data_side.put(values[top])
