"""Pairs of layers that run as one: a BatchNorm and the Scale behind it.

Caffe has no such layer; what it computes is that of batch_norm_layer.cpp and
scale_layer.cpp. Together their gradient reads the blobs once, not twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import jax

from jaxcaffe.layers.norm import BatchNorm
from jaxcaffe.spec import Blobs, Graph, Node, Shape


def find_pairs(graph: Graph, shapes: Sequence[Sequence[Shape]]) -> dict[int, int]:
    """Finds each BatchNorm whose top nothing but a Scale by channel reads.

    Args:
      graph: the net's.
      shapes: of each node's learned blobs.

    Returns:
      Index of the BatchNorm's node -> index of the Scale's.
    """
    pairs: dict[int, int] = {}
    fresh: dict[str, int] = {}  # blob that nothing has read yet -> its BatchNorm
    read: dict[str, int] = {}  # blob that a Scale has read -> its BatchNorm
    for index, node in enumerate(graph.nodes):
        for bottom in node.bottoms:
            if bottom in read:
                pairs.pop(read.pop(bottom))
            norm = fresh.pop(bottom, None)
            if norm is not None and _scales_channels(node, shapes[index]):
                pairs[norm] = index
                read[bottom] = norm
        for top in node.tops:  # a new value of that name
            fresh.pop(top, None)
            read.pop(top, None)
        if node.layer.type == "BatchNorm" and not any(node.loss_weights):
            fresh[node.tops[0]] = index
    return pairs


def _scales_channels(node: Node, shapes: Sequence[Shape]) -> bool:
    return (
        node.layer.type == "Scale"
        and len(node.bottoms) == 1
        and node.layer.scale_param.axis == 1
        and all(len(shape) == 1 for shape in shapes)
        and all(node.propagate_down)
    )


def make_pair(
    norm: Node, scale: Node, force_backward: bool
) -> Callable[[Blobs, Blobs, jax.Array], tuple[tuple[jax.Array, jax.Array], Blobs]]:
    """Returns run(params, stats, bottom) -> ((the two tops), new stats).

    `params` are the Scale's own and `stats` the BatchNorm's. No gradient passes through
    the BatchNorm's top, which the Scale alone would read.

    Args:
      norm: the BatchNorm.
      scale: the Scale.
      force_backward: the net's; without it blobs with lr_mult 0 get no gradient.
    """
    held = [spec.lr_mult == 0 and not force_backward for spec in scale.layer.param]

    def run(
        params: Blobs, stats: Blobs, bottom: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], Blobs]:
        if not norm.propagate_down[0]:
            bottom = jax.lax.stop_gradient(bottom)
        factors = [params[name] for name in ("scale", "bias") if name in params]
        for index, hold in enumerate(held[: len(factors)]):
            if hold:
                factors[index] = jax.lax.stop_gradient(factors[index])
        with jax.named_scope(norm.layer.name):
            make = cast(Any, BatchNorm)
            module = make(norm.layer, [bottom.shape], norm.layer.phase, None)
            for name in stats:
                getattr(module, name).set_value(stats[name])
            tops = module.normalize_and_scale(bottom, *factors)
            return tops, {name: getattr(module, name).get_value() for name in stats}

    return run
