"""A pycaffe net's weights and gradients, between its blobs and the core's trees.

Follows the learnable parameters of caffe/src/caffe/net.cpp.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from jaxcaffe.net import weights
from jaxcaffe.net.params import is_owner
from jaxcaffe.pycaffe.blob import BlobVec, SharedBlob
from jaxcaffe.pycaffe.state import Built, State, Weights
from jaxcaffe.spec import ParamInfo, Params, Stats


def bind_params(state: State) -> None:
    """Makes `params`; a layer that shares has the owner's blob."""
    state.params = OrderedDict()
    for layer, infos in weights.layer_infos(state.built.net).items():
        blobs = [state.owners[info.owner] for info in infos]
        state.params[layer] = BlobVec(
            blob if blob.shape == info.shape else SharedBlob(blob, info.shape)
            for blob, info in zip(blobs, infos, strict=True)
        )


def read_weights(state: State) -> tuple[Params, Stats]:
    """Returns params and stats as the core takes them.

    Nets that only run forward keep theirs: making them anew costs as much as a layer.
    """
    kept = state.weights
    if kept is None or not _is_current(kept, state.built):
        # Once for each: an array that somebody may write to is copied at every asking.
        values = {o: blob.data_side.to_device() for o, blob in state.owners.items()}
        kept = Weights(
            state.built,
            tuple(zip(state.owners.values(), values.values(), strict=True)),
            _tree(state, values.__getitem__),
            _gather_stats(state, values),
        )
        # Hidden states are no blobs.
        state.weights = None if state.hidden else kept
    return kept.params, kept.stats


def _is_current(kept: Weights, built: Built) -> bool:
    return kept.built is built and all(
        blob.data_side.is_still(value) for blob, value in kept.values
    )


def _gather_stats(state: State, values: Mapping[tuple[str, str], jax.Array]) -> Stats:
    stats: Stats = {layer: dict(arrays) for layer, arrays in state.hidden.items()}
    for info in filter(is_owner, state.built.net.params):
        if info.is_stat:
            value = _shaped(values[info.owner], info)
            stats.setdefault(info.layer, {})[info.blob] = value
    return stats


def put_weights(state: State, params: Params, stats: Stats) -> None:
    """Replaces the values of all weights."""
    put_params(state, params)
    put_stats(state, stats)


def put_params(state: State, params: Params) -> None:
    """Replaces the values of parameters."""
    for layer, arrays in params.items():
        for name, value in arrays.items():
            state.owners[layer, name].data_side.put(value)


def put_stats(state: State, stats: Stats) -> None:
    """Replaces the values of statistics and hidden states."""
    for layer, arrays in stats.items():
        for name, value in arrays.items():
            blob = state.owners.get((layer, name))
            if blob is None:
                state.hidden.setdefault(layer, {})[name] = value
            elif blob.data_side.is_zero or value is not blob.data_side.to_device():
                blob.data_side.put(value)


def read_diffs(state: State) -> Params:
    """Returns the gradients of all parameters, shaped like params."""
    return _tree(state, lambda owner: state.owners[owner].diff_side.to_device())


def put_diffs(state: State, diffs: Params) -> None:
    """Replaces the gradients of parameters."""
    for layer, arrays in diffs.items():
        for name, value in arrays.items():
            state.owners[layer, name].diff_side.put(value)


def clear_diffs(state: State) -> None:
    """Sets the gradients of all parameters to zero."""
    for blob in state.owners.values():
        if not blob.diff_side.is_zero:
            blob.diff_side.put(jnp.zeros(blob.shape, jnp.float32))


def add_diffs(
    state: State, built: Built, gradients: Params, start: int, stop: int
) -> None:
    """Adds gradients that layers `start` to `stop` computed to the params' diffs."""
    for layer, name in _learning(state, built, start, stop):
        side = state.owners[layer, name].diff_side
        gradient = gradients[layer][name]
        side.put(gradient if side.is_zero else side.to_device() + gradient)


def share(state: State, other: State) -> None:
    """Takes the memory of another net's parameters, for layers of one name.

    Raises:
      ValueError: blobs of other shapes.
    """
    for (layer, name), blob in state.owners.items():
        theirs = other.owners.get((layer, name))
        if theirs is None:
            if layer in other.params:
                raise ValueError(
                    f'share_with: layer "{layer}" of the other net has no "{name}"'
                )
            continue
        if theirs.shape != blob.shape:
            raise ValueError(
                f'share_with: "{name}" of layer "{layer}" has shape {theirs.shape} '
                f"there and {blob.shape} here"
            )
        blob.data_side = theirs.data_side


def _learning(
    state: State, built: Built, start: int, stop: int
) -> frozenset[tuple[str, str]]:
    """Returns the owners whose gradient layers `start` to `stop` compute."""
    infos = weights.layer_infos(built.net)
    return frozenset(
        info.owner
        for index in range(start, stop)
        if built.plan.layers[index]
        for info, learns in zip(
            infos.get(state.graph.nodes[index].key, ()),
            built.plan.params[index],
            strict=True,
        )
        if learns and not info.is_stat
    )


def _tree(state: State, value: Callable[[tuple[str, str]], jax.Array]) -> Params:
    tree: Params = {}
    for info in filter(is_owner, state.built.net.params):
        if not info.is_stat:
            array = _shaped(value(info.owner), info)
            tree.setdefault(info.layer, {})[info.blob] = array
    return tree


def _shaped(value: jax.Array, info: ParamInfo) -> jax.Array:
    """Returns a blob's values as the layer takes them, whatever shape it was given.

    Raises:
      ValueError: it holds another number of values.
    """
    if value.shape == info.shape:
        return value
    count = math.prod(info.shape)
    if value.size != count:
        raise ValueError(
            f'"{info.blob}" of layer "{info.layer}" has been reshaped to '
            f"{value.shape}. Accepted: shapes of {count} values, as {info.shape}"
        )
    return value.reshape(info.shape)
