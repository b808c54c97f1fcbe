"""The share of labels that are among the best scores.

Follows caffe/src/caffe/layers/accuracy_layer.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from jaxcaffe.errors import LayerError, plural
from jaxcaffe.layers.axes import canonical_axis
from jaxcaffe.layers.checks import label_shape
from jaxcaffe.layers.normalize import counted_labels, ignored_label
from jaxcaffe.layers.registry import register
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.spec import Shape


@register("Accuracy", bottoms=2, tops=(1, 2), no_gradient=(0, 1))
class Accuracy(nnx.Module):
    """Counts how often the label's score is among the top_k largest.

    A label is correct if fewer than top_k other classes have a score at least as
    large: ties count against it. Labels equal to ignore_label are left out; with none
    left the accuracy is 0.

    Args of the call:
      scores: float32, classes along axis; (N, C, ...) by default.
      labels: float32 with whole values in [0, C), one per position of scores without
        axis, in any shape.

    Returns:
      () float32 in [0, 1]; with two tops also (C,) float32, the accuracy among the
      labels of each class, 0 for classes that do not occur.

    Raises:
      LayerError: axis is out of range; the number of labels does not fit; top_k
        is 0 or more than C.

    Source: caffe/src/caffe/layers/accuracy_layer.cpp. Differs: NaN counts against the
    label (Caffe takes a NaN score of the label for correct); a label outside [0, C)
    that is not ignore_label makes the first top NaN (Caffe reads foreign memory).
    """

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        bottom_shapes: Sequence[Shape],
        phase: int,
        rngs: nnx.Rngs,
    ) -> None:
        param = layer.accuracy_param
        scores, labels = bottom_shapes
        axis = canonical_axis("axis", param.axis, scores)
        self.shape = label_shape(scores, labels, axis)
        classes = self.shape[1]
        if not 1 <= param.top_k <= classes:
            raise LayerError(
                f"top_k is {param.top_k} for {plural(classes, 'class', 'classes')}",
                f"1 to {classes}",
            )
        self.top_k = param.top_k
        self.ignore_label = ignored_label(param)
        self.per_class = len(layer.top) > 1

    def __call__(
        self, scores: jax.Array, labels: jax.Array
    ) -> jax.Array | tuple[jax.Array, ...]:
        """Applies the layer to scores and labels; see the class."""
        outer, classes, inner = self.shape
        scores = scores.reshape(self.shape)
        labels = jnp.trunc(labels.reshape(outer, 1, inner))
        counted = counted_labels(labels, self.ignore_label)
        is_label = labels == jnp.arange(classes)[:, None]

        label_score = jnp.where(is_label, scores, 0).sum(axis=1, keepdims=True)
        # "not below" rather than "at least": so a NaN on either side is a rival.
        rivals = jnp.sum(~(scores < label_score) & ~is_label, axis=1, keepdims=True)
        correct = counted & (rivals < self.top_k) & ~jnp.isnan(label_score)

        known = jnp.all(is_label.any(axis=1, keepdims=True) | ~counted)
        accuracy = jnp.where(known, _share(correct.sum(), counted.sum()), jnp.nan)
        if not self.per_class:
            return accuracy
        hits = jnp.sum(is_label & correct, axis=(0, 2))
        return accuracy, _share(hits, jnp.sum(is_label & counted, axis=(0, 2)))


def _share(part: jax.Array, whole: jax.Array) -> jax.Array:
    return (part / jnp.maximum(whole, 1)).astype(jnp.float32)
