"""Layers that choose items of a batch by the values of another blob.

Follows caffe/src/caffe/layers/batch_reindex_layer.cpp and filter_layer.cpp.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxcaffe.errors import LayerError
from jaxcaffe.layers.registry import register
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.spec import Shape

# Stands for "no label": a loss or Accuracy behind says `ignore_label: -1`.
_NO_LABEL = -1


@register("BatchReindex", bottoms=2, tops=1, no_gradient=(1,))
class BatchReindex(nnx.Module):
    """Takes the items of a batch that indices name, in their order and repetition.

    top[k] = bottom[indices[k]]; an item's gradient is the sum over its uses.

    Args of the call:
      bottom: (N, ...) float32.
      indices: (K,) float32 in [0, N); what is behind the point is cut off.

    Returns:
      (K, ...) float32.

    Raises:
      LayerError: the bottom has no axes; indices have not exactly one.

    Source: caffe/src/caffe/layers/batch_reindex_layer.cpp. Differs: an index out of
    range makes its item NaN; Caffe stops.
    """

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        bottom_shapes: Sequence[Shape],
        phase: int,
        rngs: nnx.Rngs,
    ) -> None:
        bottom, indices = bottom_shapes
        if not bottom:
            raise LayerError("bottom 0 has shape ()", "a bottom with axes")
        if len(indices) != 1:
            raise LayerError(f"the indices have shape {indices}", "one axis")

    def __call__(self, bottom: jax.Array, indices: jax.Array) -> jax.Array:
        """Applies the layer to bottom and indices; see the class."""
        count = bottom.shape[0]
        known = (indices >= 0) & (indices < count)
        whole = jnp.where(known, indices, count).astype(jnp.int32)
        return bottom.at[whole].get(mode="fill", fill_value=jnp.nan)


@register("Filter", bottoms=(2, None), tops=(1, None))
class Filter(nnx.Module):
    """Lets through the items whose selector, the last bottom, is not 0.

    Items keep their order; the others get gradient 0. How many there are is data:

    - Called on plain arrays, tops have exactly the selected items, possibly none.
    - Compiled, an array cannot have a length that depends on data, so tops keep all N
      items: first the selected ones, then padding, through which no gradient passes.
      Padding is 0, or -1 for a bottom with one value per item, such as labels. Where
      labels are filtered along with the scores, losses with `ignore_label: -1` and
      `normalization: VALID` and Accuracy with `ignore_label: -1` are exact even so.

    Args of the call:
      bottoms: (N, ...) float32 each, and last the selector, float32 of shape (N,) or
        (N, 1, ...). The selector gets no gradient.

    Returns:
      One float32 array per bottom but the last, of its shape except, uncompiled, for
      the first length.

    Raises:
      LayerError: not one top per bottom before the selector; the selector has other
        axes longer than 1; a first length is not N.

    Source: caffe/src/caffe/layers/filter_layer.cpp. Differs: the padding, compiled;
    with nothing selected the backward pass gives 0 (Caffe crashes).
    """

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        bottom_shapes: Sequence[Shape],
        phase: int,
        rngs: nnx.Rngs,
    ) -> None:
        *shapes, selector = bottom_shapes
        if len(layer.top) != len(shapes):
            raise LayerError(
                f"top is given {len(layer.top)} times",
                f"{len(shapes)}: one per bottom before the selector, the last one",
            )
        if not selector or math.prod(selector[1:]) != 1:
            raise LayerError(
                f"the selector, the last bottom, has shape {selector}",
                "one value per item: (N,) or (N, 1, ...)",
            )
        for i, shape in enumerate(shapes):
            if not shape or shape[0] != selector[0]:
                raise LayerError(
                    f"bottom {i} has shape {shape}, the selector {selector}",
                    "bottoms whose first axes have one length",
                )

    def __call__(self, *bottoms: jax.Array) -> tuple[jax.Array, ...]:
        """Applies the layer to bottoms and selector; see the class."""
        *items, selector = bottoms
        # Under a gradient this also gives the plain array back.
        selector = jax.lax.stop_gradient(selector).reshape(-1)
        if isinstance(selector, jax.core.Tracer):
            return tuple(_selected_first(bottom, selector != 0) for bottom in items)
        indices = np.flatnonzero(np.asarray(selector))
        return tuple(bottom[indices] for bottom in items)


def _selected_first(bottom: jax.Array, selected: jax.Array) -> jax.Array:
    """Returns the selected items in order, then padding; (N, ...) as the bottom.

    bottom: (N, ...) float32; selected: (N,) bool.
    """
    order = jnp.argsort(~selected, stable=True)
    top = bottom.at[order].get(unique_indices=True)
    padding = _NO_LABEL if math.prod(bottom.shape[1:]) == 1 else 0
    is_item = jnp.arange(len(selected)) < selected.sum()
    return jnp.where(is_item.reshape(-1, *(1,) * (bottom.ndim - 1)), top, padding)
