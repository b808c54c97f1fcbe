"""Losses that compare scores, features or probabilities with what they should be.

Follows caffe/src/caffe/layers/loss_layer.cpp and the layers derived from it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from jaxcaffe.errors import LayerError
from jaxcaffe.layers.checks import check_batch, check_count
from jaxcaffe.layers.normalize import (
    counted_labels,
    ignored_label,
    normalization_mode,
    normalizer,
)
from jaxcaffe.layers.registry import register
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.spec import Shape


@register("EuclideanLoss", bottoms=2, tops=1, auto_tops=True, is_loss=True)
class EuclideanLoss(nnx.Module):
    """Half the mean squared distance: sum of (bottom_0 - bottom_1)^2 / (2 N).

    Args of the call:
      bottom_0: (N, ...) float32.
      bottom_1: (N, ...) float32 with as many elements; it gets a gradient too.

    Returns:
      () float32.

    Raises:
      LayerError: batch or number of elements differ.

    Source: caffe/src/caffe/layers/euclidean_loss_layer.cpp. Differs: Caffe refuses
    bottoms of more than 4 axes.
    """

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        bottom_shapes: Sequence[Shape],
        phase: int,
        rngs: nnx.Rngs,
    ) -> None:
        check_batch(*bottom_shapes)
        check_count(*bottom_shapes)

    def __call__(self, bottom_0: jax.Array, bottom_1: jax.Array) -> jax.Array:
        """Applies the layer to both bottoms; see the class."""
        difference = bottom_0 - bottom_1.reshape(bottom_0.shape)
        return jnp.sum(difference * difference) / (2 * bottom_0.shape[0])


@register(
    "SigmoidCrossEntropyLoss",
    bottoms=2,
    tops=1,
    auto_tops=True,
    is_loss=True,
    no_gradient=(1,),
)
class SigmoidCrossEntropyLoss(nnx.Module):
    """Charges each element the cross entropy between its target and its sigmoid.

    loss = -1/n * sum of t log(s) + (1 - t) log(1 - s), s = sigmoid(score), computed
    without overflow; gradient (s - t) / n. Targets whose whole part equals
    ignore_label are left out. n, at least 1, is the number of scores that count
    (VALID), of all (FULL), N (BATCH_SIZE, the default here) or 1 (NONE).

    Args of the call:
      scores: (N, ...) float32.
      targets: (N, ...) float32 in [0, 1], as many elements.

    Returns:
      () float32.

    Raises:
      LayerError: batch or number of elements differ.

    Source: caffe/src/caffe/layers/sigmoid_cross_entropy_loss_layer.cpp. Differs: none.
    """

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        bottom_shapes: Sequence[Shape],
        phase: int,
        rngs: nnx.Rngs,
    ) -> None:
        check_batch(*bottom_shapes)
        check_count(*bottom_shapes)
        self.ignore_label = ignored_label(layer.loss_param)
        self.normalization = normalization_mode(
            layer.loss_param, caffe_pb2.LossParameter.BATCH_SIZE
        )

    def __call__(self, scores: jax.Array, targets: jax.Array) -> jax.Array:
        """Applies the layer to scores and targets; see the class."""
        targets = jax.lax.stop_gradient(targets.reshape(scores.shape))
        counted = counted_labels(jnp.trunc(targets), self.ignore_label)
        # Replaced before use: a NaN left out must not come back by its gradient.
        scores = jnp.where(counted, scores, 0)
        losses = jnp.where(counted, jax.nn.softplus(scores) - scores * targets, 0)
        return losses.sum() / normalizer(self.normalization, counted, scores.shape[0])


@register(
    "HingeLoss", bottoms=2, tops=1, auto_tops=True, is_loss=True, no_gradient=(1,)
)
class HingeLoss(nnx.Module):
    """Charges each score for being on the wrong side of a margin of 1.

    loss = 1/N * sum of m (norm L1) or of m^2 (L2), with m = max(0, 1 - score) for the
    label's class and max(0, 1 + score) for all others; no gradient where m is 0.

    Args of the call:
      scores: (N, ...) float32; all axes but the first count as classes.
      labels: float32 with N whole values in [0, number of classes).

    Returns:
      () float32.

    Raises:
      LayerError: there are not N labels.

    Source: caffe/src/caffe/layers/hinge_loss_layer.cpp. Differs: a label out of range
    makes loss and gradient NaN (Caffe writes to foreign memory); more than N labels
    are refused (Caffe reads the first N); Caffe refuses scores of more than 4 axes.
    """

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        bottom_shapes: Sequence[Shape],
        phase: int,
        rngs: nnx.Rngs,
    ) -> None:
        scores, labels = bottom_shapes
        check_batch(scores, labels)
        _check_one_each("labels", labels, scores)
        self.norm = layer.hinge_loss_param.norm

    def __call__(self, scores: jax.Array, labels: jax.Array) -> jax.Array:
        """Applies the layer to scores and labels; see the class."""
        scores = scores.reshape(scores.shape[0], math.prod(scores.shape[1:]))
        labels = jnp.trunc(labels.reshape(-1, 1))
        is_label = labels == jnp.arange(scores.shape[1])
        sign = jnp.where(is_label, -1.0, 1.0)
        # A factor, so that the gradient turns NaN along with the loss.
        sign = jnp.where(is_label.any(axis=1, keepdims=True), sign, jnp.nan)
        distance = 1 + sign * scores
        # Not `maximum`, which would give half a gradient at the margin itself.
        margin = jnp.where(distance <= 0, 0, distance)
        if self.norm == caffe_pb2.HingeLossParameter.L2:
            margin = margin * margin
        return margin.sum() / scores.shape[0]


@register(
    "MultinomialLogisticLoss",
    bottoms=2,
    tops=1,
    auto_tops=True,
    is_loss=True,
    no_gradient=(1,),
)
class MultinomialLogisticLoss(nnx.Module):
    """Charges each label -log of the probability given to it.

    loss = -1/N * sum over items of log(max(prob[label], 1e-20)); the gradient is that
    of the maximum taken as the probability itself.

    Args of the call:
      probabilities: (N, ...) float32; all axes but the first count as classes.
      labels: float32 with N whole values in [0, number of classes).

    Returns:
      () float32.

    Raises:
      LayerError: there are not N labels.

    Source: caffe/src/caffe/layers/multinomial_logistic_loss_layer.cpp. Differs: a label
    out of range makes loss and gradient NaN (Caffe reads foreign memory); Caffe
    refuses bottoms of more than 4 axes.
    """

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        bottom_shapes: Sequence[Shape],
        phase: int,
        rngs: nnx.Rngs,
    ) -> None:
        probabilities, labels = bottom_shapes
        check_batch(probabilities, labels)
        _check_one_each("labels", labels, probabilities)

    def __call__(self, probabilities: jax.Array, labels: jax.Array) -> jax.Array:
        """Applies the layer to probabilities and labels; see the class."""
        N = probabilities.shape[0]
        rows = probabilities.reshape(N, math.prod(probabilities.shape[1:]))
        is_label = jnp.trunc(labels.reshape(-1, 1)) == jnp.arange(rows.shape[1])
        chosen = jnp.where(is_label, rows, 0).sum(axis=1)
        # As a step of value 0 or more: the gradient is that of `chosen`.
        chosen += jax.lax.stop_gradient(jnp.maximum(chosen, 1e-20) - chosen)
        chosen *= jnp.where(is_label.any(axis=1), 1, jnp.nan)
        return -jnp.log(chosen).sum() / N


@register(
    "ContrastiveLoss",
    bottoms=3,
    tops=1,
    auto_tops=True,
    is_loss=True,
    no_gradient=(2,),
)
class ContrastiveLoss(nnx.Module):
    """Pulls the features of alike pairs together and pushes others margin apart.

    loss = 1 / (2 N) * sum over pairs of d^2 where alike, of max(margin - d, 0)^2 where
    not, d being the distance of the two features; with legacy_version the latter is
    max(margin - d^2, 0). Where the gradient divides by d, it divides by d + 1e-4.

    Args of the call:
      a, b: (N, C) float32, more axes only of length 1; both get a gradient.
      alike: float32, N values; those whose whole part is 0 say that the pair is not.

    Returns:
      () float32.

    Raises:
      LayerError: shapes that do not agree.

    Source: caffe/src/caffe/layers/contrastive_loss_layer.cpp; Hadsell et al.,
    "Dimensionality Reduction by Learning an Invariant Mapping" (2006). Differs: Caffe
    refuses bottoms of more than 4 axes.
    """

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        bottom_shapes: Sequence[Shape],
        phase: int,
        rngs: nnx.Rngs,
    ) -> None:
        a, b, alike = bottom_shapes
        check_batch(a, b)
        check_batch(a, alike)
        check_count(a, b)
        if math.prod(a[2:]) != 1 or math.prod(b[2:]) != 1:
            raise LayerError(f"bottoms have shapes {a} and {b}", "N x C, twice")
        _check_one_each("marks of pairs", alike, a)
        param = layer.contrastive_loss_param
        self.margin, self.legacy_version = param.margin, param.legacy_version

    def __call__(self, a: jax.Array, b: jax.Array, alike: jax.Array) -> jax.Array:
        """Applies the layer to pairs; see the class."""
        N = a.shape[0]
        difference = a.reshape(N, -1) - b.reshape(N, -1)
        square = jnp.sum(difference * difference, axis=1)
        apart = self.margin - (square if self.legacy_version else _distance(square))
        # Not `maximum`, which would give half a gradient at the margin itself.
        apart = jnp.where(apart > 0, apart, 0)
        if not self.legacy_version:
            apart = apart * apart
        is_alike = jnp.trunc(alike.reshape(N)) != 0
        return jnp.where(is_alike, square, apart).sum() / N / 2


@jax.custom_jvp
def _distance(square: jax.Array) -> jax.Array:
    """Returns sqrt(square), with a slope that is finite at 0, as Caffe's is."""
    return jnp.sqrt(square)


@_distance.defjvp
def _distance_jvp(
    primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    distance = jnp.sqrt(primals[0])
    return distance, tangents[0] / (2 * (distance + 1e-4))


def _check_one_each(what: str, shape: Shape, items: Shape) -> None:
    if math.prod(shape) != items[0]:
        raise LayerError(
            f"{what} of shape {shape} do not fit bottom 0 of shape {items}",
            f"{items[0]} {what}: one per item",
        )
