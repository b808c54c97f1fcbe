"""The lines of `debug_info: true`: how large every blob and gradient is.

Follows ForwardDebugInfo, BackwardDebugInfo and Backward of caffe/src/caffe/net.cpp.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcaffe import step
from jaxcaffe.log import logger
from jaxcaffe.net.backward import BackwardPlan, plan_backward
from jaxcaffe.net.weights import layer_infos
from jaxcaffe.spec import Blobs, LayerCall, Net, Params, Stats
from jaxcaffe.state import TrainState

_Pull = Callable[..., tuple[Blobs, list[jax.Array]]]
"""Slopes of a layer's tops -> slopes of its parameters and bottoms."""


class _Run(NamedTuple):
    """One pass through a net, as far as the lines need it."""

    values: list[jax.Array]  # one for each line, in their order
    stats: Stats
    grads: Params  # summed up so far, owners only


def make_train_probe(
    net: Net, augment: step.Augment, iter_size: int
) -> Callable[[TrainState, Blobs], None]:
    """Returns probe(state, batch), which logs a training iteration's lines.

    It computes what the training step will compute from the same state and batch, and
    changes neither. Each line gives the mean absolute value of a blob.

    Args:
      net: the TRAIN net.
      augment: as the training step has it.
      iter_size: batches per iteration; above 1 each array of `batch` has a leading
        axis of that length, and parameters' gradients add up over the batches.

    Source: caffe/src/caffe/net.cpp, ForwardDebugInfo, BackwardDebugInfo and Backward.
    Differs: none.
    """
    plan = plan_backward(net)
    lines = [*forward_lines(net), *backward_lines(net, plan)]

    @jax.jit
    def run(
        params: Params, stats: Stats, grads: Params, batch: Blobs, key: jax.Array
    ) -> tuple[jax.Array, jax.Array, Stats, Params]:
        augment_key, net_key = jax.random.split(key)
        feeds = augment(batch, augment_key)
        done = _run(net, plan, params, stats, grads, feeds, net_key)
        norms = _norms(net, params, done.stats, done.grads)
        return jnp.stack(done.values), norms, done.stats, done.grads

    def probe(state: TrainState, batch: Blobs) -> None:
        stats = state.stats
        grads = jax.tree.map(jnp.zeros_like, state.params)
        key = step.iteration_key(state)
        for part in range(iter_size):
            one = batch if iter_size == 1 else {n: a[part] for n, a in batch.items()}
            values, norms, stats, grads = run(
                state.params, stats, grads, one, jax.random.fold_in(key, part)
            )
            _log(lines, np.asarray(values))
            # Caffe too gives this line the rank of an error.
            logger.error("%s", norm_line(*np.asarray(norms).tolist()))

    return probe


def make_test_probe(
    net: Net, augment: step.Augment
) -> Callable[[Params, Stats, Blobs, jax.Array], None]:
    """Returns probe(params, stats, batch, key), which logs a forward pass's lines.

    Args:
      net: a net of any phase.
      augment: as the test step has it.

    Source: caffe/src/caffe/net.cpp, ForwardDebugInfo. Differs: none.
    """
    lines = list(forward_lines(net))

    @jax.jit
    def run(params: Params, stats: Stats, batch: Blobs, key: jax.Array) -> jax.Array:
        augment_key, net_key = jax.random.split(key)
        feeds = augment(batch, augment_key)
        return jnp.stack(_run(net, None, params, stats, {}, feeds, net_key).values)

    def probe(params: Params, stats: Stats, batch: Blobs, key: jax.Array) -> None:
        _log(lines, np.asarray(run(params, stats, batch, key)))

    return probe


def forward_lines(net: Net) -> Iterator[str]:
    """Yields the lines of a forward pass, each up to its value."""
    infos = layer_infos(net)
    for node in net.graph.nodes:
        head = f"    [Forward] Layer {node.layer.name}"
        for top in node.tops:
            yield f"{head}, top blob {top} data: "
        for index, _ in enumerate(infos.get(node.key, ())):
            spec = node.layer.param[index : index + 1]
            name = spec[0].name if spec and spec[0].name else str(index)
            yield f"{head}, param blob {name} data: "


def backward_lines(net: Net, plan: BackwardPlan) -> Iterator[str]:
    """Yields the lines of a backward pass, each up to its value."""
    for index in reversed(range(len(net.graph.nodes))):
        node = net.graph.nodes[index]
        if not plan.layers[index]:
            continue
        head = f"    [Backward] Layer {node.layer.name}"
        for bottom, needed in zip(node.bottoms, plan.bottoms[index], strict=True):
            if needed:
                yield f"{head}, bottom blob {bottom} diff: "
        for number, needed in enumerate(plan.params[index]):
            if needed:
                yield f"{head}, param blob {number} diff: "


def norm_line(l1_data: float, l1_diff: float, l2_data: float, l2_diff: float) -> str:
    """Returns the line about all learned blobs together."""
    return (
        "    [Backward] All net params (data, diff): "
        f"L1 norm = ({l1_data:g}, {l1_diff:g}); L2 norm = ({l2_data:g}, {l2_diff:g})"
    )


def _log(lines: Sequence[str], values: np.ndarray) -> None:
    if logger.isEnabledFor(logging.INFO):
        for line, value in zip(lines, values.tolist(), strict=True):
            logger.info("%s%g", line, value)


def _run(
    net: Net,
    plan: BackwardPlan | None,
    params: Params,
    stats: Stats,
    grads: Params,
    feeds: Blobs,
    key: jax.Array,
) -> _Run:
    """Runs layer by layer, as `net.apply` does, and back if there is a plan."""
    infos = layer_infos(net)
    owners = {(info.layer, info.blob): info.owner for info in net.params}
    blobs: Blobs = {}
    stats = {layer: dict(arrays) for layer, arrays in stats.items()}
    values: list[jax.Array] = []
    pulls: list[_Pull | None] = []
    made: list[tuple[jax.Array, ...]] = []
    for node, call in zip(net.graph.nodes, net.calls, strict=True):
        if call is None:
            tops = tuple(jnp.asarray(feeds[top], jnp.float32) for top in node.tops)
            pulls.append(None)
        else:
            bottoms = [blobs[bottom] for bottom in node.bottoms]
            tops, pull, new = _run_layer(call, params, stats, bottoms, key)
            pulls.append(pull)
            for blob, array in new.items():
                layer, owned = owners.get((node.key, blob), (node.key, blob))
                stats[layer][owned] = array.reshape(stats[layer][owned].shape)
        blobs.update(zip(node.tops, tops, strict=True))
        made.append(tops)
        values += map(_mean_abs, tops)
        for info in infos.get(node.key, ()):
            tree = stats if info.is_stat else params
            values.append(_mean_abs(tree[info.owner[0]][info.owner[1]]))
    if plan is None:
        return _Run(values, stats, grads)

    grads = {layer: dict(arrays) for layer, arrays in grads.items()}
    slopes: Blobs = {}  # of the value that a blob has at this point of the way back
    for index in reversed(range(len(net.graph.nodes))):
        node = net.graph.nodes[index]
        back = pulls[index]
        top_slopes = tuple(
            slopes.pop(name, jnp.zeros_like(top)) + loss_weight
            for name, top, loss_weight in zip(
                node.tops, made[index], node.loss_weights, strict=True
            )
        )
        if back is None or not plan.layers[index]:
            continue
        own, bottom_slopes = back(top_slopes)
        slopes.update(zip(node.bottoms, bottom_slopes, strict=True))
        for blob, slope in own.items():
            layer, owned = owners[node.key, blob]
            total = grads[layer][owned]
            grads[layer][owned] = total + slope.reshape(total.shape)
        needs = zip(bottom_slopes, plan.bottoms[index], strict=True)
        values += [_mean_abs(slope) for slope, needed in needs if needed]
        for info, needed in zip(
            infos.get(node.key, ()), plan.params[index], strict=True
        ):
            if needed:
                values.append(_mean_abs(grads[info.owner[0]][info.owner[1]]))
    return _Run(values, stats, grads)


def _run_layer(
    call: LayerCall,
    params: Params,
    stats: Stats,
    bottoms: list[jax.Array],
    key: jax.Array,
) -> tuple[tuple[jax.Array, ...], _Pull, Blobs]:
    own_params, own_stats = call.arrays(params, stats)

    def run(
        own: Blobs, bottoms: list[jax.Array]
    ) -> tuple[tuple[jax.Array, ...], Blobs]:
        return call.run(own, own_stats, bottoms, key)

    return jax.vjp(run, own_params, bottoms, has_aux=True)


def _mean_abs(array: jax.Array) -> jax.Array:
    return jnp.mean(jnp.abs(array))


def _norms(net: Net, params: Params, stats: Stats, grads: Params) -> jax.Array:
    """Returns (4,) float32: L1 of data and diff, L2 of data and diff, of all owners."""
    data = [
        (stats if info.is_stat else params)[info.layer][info.blob]
        for info in net.params
        if info.owner == (info.layer, info.blob)
    ]
    diffs = jax.tree.leaves(grads)
    zero = jnp.zeros(())
    return jnp.stack(
        [
            sum((jnp.sum(jnp.abs(x)) for x in data), zero),
            sum((jnp.sum(jnp.abs(x)) for x in diffs), zero),
            jnp.sqrt(sum((jnp.sum(x * x) for x in data), zero)),
            jnp.sqrt(sum((jnp.sum(x * x) for x in diffs), zero)),
        ]
    )
