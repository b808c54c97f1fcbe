"""A pycaffe net at other input shapes: built once for each, then taken from a cache.

Follows Reshape of caffe/src/caffe/net.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxcaffe import errors
from jaxcaffe.net import translate
from jaxcaffe.net.backward import plan_backward
from jaxcaffe.pycaffe.state import Built, State
from jaxcaffe.spec import Graph, Net, Shape


def build(
    graph: Graph,
    fed: tuple[str, ...],
    cache: dict[tuple[Shape, ...], Built],
    structs: Mapping[str, jax.ShapeDtypeStruct],
) -> Built:
    """Returns the net for given shapes of `fed`, from the cache if it is there.

    Raises:
      PrototxtError: the net cannot be built for these shapes.
    """
    given = tuple(structs[top].shape if top in structs else () for top in fed)
    if given not in cache:
        net = translate.build_net(graph, structs)
        built = Built(net, plan_backward(net), {}, {}, {})
        # Of the first net the Input layers' shapes come from the file.
        shapes = tuple(net.structs[top].shape for top in fed)
        cache[given] = cache[shapes] = built
    return cache[given]


def reshape(state: State) -> None:
    """Gives every blob the shape that follows from the inputs' shapes.

    Raises:
      PrototxtError: the net cannot have such inputs, or not with its weights.
    """
    structs = state.built.net.structs
    if all(state.blobs[top].shape == structs[top].shape for top in state.fed):
        return
    shapes = {
        top: jax.ShapeDtypeStruct(state.blobs[top].shape, jnp.float32)
        for top in state.fed
    }
    built = build(state.graph, state.fed, state.cache, shapes)
    _check_weights(state.built.net, built.net)
    for route in state.built.routes.values():  # no blob waits for them any more
        route.later.compute = dict
    state.built = built
    state.last.clear()
    for name, blob in state.blobs.items():
        blob.renew(built.net.structs[name].shape)
    _make_hidden(state)
    set_loss_diffs(state)


def set_loss_diffs(state: State) -> None:
    """Writes loss weights where backward passes begin."""
    for node in state.graph.nodes:
        for top, weight in zip(node.tops, node.loss_weights, strict=True):
            if weight:
                blob = state.blobs[top]
                blob.diff_side.put(jnp.full(blob.shape, weight, jnp.float32))


def _make_hidden(state: State) -> None:
    """Starts hidden states anew where their shapes have changed."""
    if not state.hidden:
        return
    _, fresh = jax.jit(state.built.net.init)(state.key)
    for layer, arrays in state.hidden.items():
        for name, value in arrays.items():
            if fresh[layer][name].shape != value.shape:
                arrays[name] = fresh[layer][name]


def _check_weights(old: Net, new: Net) -> None:
    for before, after in zip(old.params, new.params, strict=True):
        if before.shape != after.shape:
            raise errors.PrototxtError(
                f'reshape: "{before.blob}" of layer "{before.layer}" has shape '
                f"{before.shape}, inputs of these shapes need {after.shape}. Accepted: "
                "inputs for which learned blobs keep their shapes"
            )
