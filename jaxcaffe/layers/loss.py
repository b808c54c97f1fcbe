"""Softmax, and the losses that end a net.

Follows caffe/src/caffe/layers/loss_layer.cpp and the layers derived from it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxcaffe.errors import LayerError
from jaxcaffe.layers.axes import canonical_axis
from jaxcaffe.layers.registry import register
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.spec import Shape

# Caffe takes no logarithm below FLT_MIN, so no label costs more than 87.3365.
_LOG_FLT_MIN = math.log(float(np.finfo(np.float32).tiny))


@register("Softmax", bottoms=1, tops=1)
class Softmax(nnx.Module):
    """Turns scores into probabilities: exp(bottom) / sum of exp(bottom) along axis.

    Args of the call:
      bottom: float32, classes along axis; (N, C, ...) by default.

    Returns:
      float32, the same shape.

    Raises:
      LayerError: axis is out of range.

    Source: caffe/src/caffe/layers/softmax_layer.cpp. Differs: none.
    """

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        bottom_shapes: Sequence[Shape],
        phase: int,
        rngs: nnx.Rngs,
    ) -> None:
        self.axis = canonical_axis("axis", layer.softmax_param.axis, bottom_shapes[0])

    def __call__(self, bottom: jax.Array) -> jax.Array:
        """Applies the layer to one bottom; see the class."""
        return jax.nn.softmax(bottom, self.axis)


@register(
    "SoftmaxWithLoss",
    bottoms=2,
    tops=(1, 2),
    auto_tops=True,
    is_loss=True,
    no_gradient=(1,),
)
class SoftmaxWithLoss(nnx.Module):
    """Charges each label -log of its probability under a softmax.

    loss = -1/n * sum over labels of log(max(p[label], FLT_MIN)), where p is the
    softmax of the scores along axis; the gradient stays (p - onehot) / n also where
    the maximum acts. Labels equal to ignore_label are left out. n, at least 1, is by
    normalization the number of labels that count (VALID), of all labels (FULL), the
    product of the lengths before axis (BATCH_SIZE), or 1 (NONE); the older normalize
    means VALID if true and BATCH_SIZE if false, and counts only without the newer.

    Args of the call:
      scores: float32, classes along axis; (N, C, ...) by default.
      labels: float32 with whole values in [0, C), one per position of scores without
        axis; first length N.

    Returns:
      () float32; with two tops also the probabilities, float32 of the scores' shape.

    Raises:
      LayerError: axis is out of range; the number of labels does not fit.

    Source: caffe/src/caffe/layers/softmax_loss_layer.cpp. Differs: a label outside
    [0, C) that is not ignore_label makes loss and gradient NaN (Caffe reads foreign
    memory); a gradient that reaches the probabilities is passed on, not dropped.
    """

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        bottom_shapes: Sequence[Shape],
        phase: int,
        rngs: nnx.Rngs,
    ) -> None:
        scores, labels = bottom_shapes
        _check_batch(scores, labels)
        self.axis = canonical_axis("axis", layer.softmax_param.axis, scores)
        outer = math.prod(scores[: self.axis])
        inner = math.prod(scores[self.axis + 1 :])
        if math.prod(labels) != outer * inner:
            raise LayerError(
                f"labels of shape {labels} do not fit scores of shape {scores}",
                f"{outer * inner} labels: one per position along the axes other than "
                f"{self.axis}",
            )
        param = layer.loss_param
        self.shape = (outer, scores[self.axis], inner)
        self.ignore_label = _ignore_label(param)
        self.normalization = _normalization(param, param.normalization)
        self.probabilities = len(layer.top) > 1

    def __call__(
        self, scores: jax.Array, labels: jax.Array
    ) -> jax.Array | tuple[jax.Array, ...]:
        """Applies the layer to scores and labels; see the class."""
        outer, _, inner = self.shape
        labels = jnp.trunc(labels.reshape(outer, 1, inner))
        counted = _counted(labels, self.ignore_label)
        losses = _label_losses(scores.reshape(self.shape), labels, counted)
        loss = losses.sum() / _normalizer(self.normalization, counted, outer)
        if not self.probabilities:
            return loss
        return loss, jax.nn.softmax(scores, self.axis)


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

    Source: caffe/src/caffe/layers/euclidean_loss_layer.cpp. Differs: none.
    """

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        bottom_shapes: Sequence[Shape],
        phase: int,
        rngs: nnx.Rngs,
    ) -> None:
        _check_batch(*bottom_shapes)
        _check_count(*bottom_shapes)

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
        _check_batch(*bottom_shapes)
        _check_count(*bottom_shapes)
        self.ignore_label = _ignore_label(layer.loss_param)
        self.normalization = _normalization(
            layer.loss_param, caffe_pb2.LossParameter.BATCH_SIZE
        )

    def __call__(self, scores: jax.Array, targets: jax.Array) -> jax.Array:
        """Applies the layer to scores and targets; see the class."""
        targets = jax.lax.stop_gradient(targets.reshape(scores.shape))
        counted = _counted(jnp.trunc(targets), self.ignore_label)
        # Replaced before use: a NaN left out must not come back by its gradient.
        scores = jnp.where(counted, scores, 0)
        losses = jnp.where(counted, jax.nn.softplus(scores) - scores * targets, 0)
        normalizer = _normalizer(self.normalization, counted, scores.shape[0])
        return losses.sum() / normalizer


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
    are refused (Caffe reads the first N).
    """

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        bottom_shapes: Sequence[Shape],
        phase: int,
        rngs: nnx.Rngs,
    ) -> None:
        scores, labels = bottom_shapes
        _check_batch(scores, labels)
        if math.prod(labels) != scores[0]:
            raise LayerError(
                f"labels of shape {labels} do not fit scores of shape {scores}",
                f"{scores[0]} labels: one per item",
            )
        self.norm = layer.hinge_loss_param.norm

    def __call__(self, scores: jax.Array, labels: jax.Array) -> jax.Array:
        """Applies the layer to scores and labels; see the class."""
        scores = scores.reshape(scores.shape[0], -1)
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


@jax.custom_vjp
def _label_losses(
    scores: jax.Array, labels: jax.Array, counted: jax.Array
) -> jax.Array:
    """Returns -log(max(p[label], FLT_MIN)) where counted, else 0; (outer, 1, inner).

    A custom gradient, because Caffe's is p - onehot even where the maximum acts, and
    because it needs no scatter. scores: (outer, C, inner) float32; labels and counted:
    (outer, 1, inner), whole float32 values and bool.
    """
    is_label = _is_label(scores, labels)
    log_p = jnp.where(is_label, jax.nn.log_softmax(scores, axis=1), 0)
    losses = -jnp.maximum(log_p.sum(axis=1, keepdims=True), _LOG_FLT_MIN)
    known = is_label.any(axis=1, keepdims=True)
    return jnp.where(counted, jnp.where(known, losses, jnp.nan), 0)


def _label_losses_forward(
    scores: jax.Array, labels: jax.Array, counted: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    return _label_losses(scores, labels, counted), (scores, labels, counted)


def _label_losses_backward(
    saved: tuple[jax.Array, ...], losses_diff: jax.Array
) -> tuple[jax.Array, None, None]:
    scores, labels, counted = saved
    is_label = _is_label(scores, labels)
    known = is_label.any(axis=1, keepdims=True)
    slope = jnp.where(known, jax.nn.softmax(scores, axis=1) - is_label, jnp.nan)
    return jnp.where(counted, losses_diff * slope, 0), None, None


_label_losses.defvjp(_label_losses_forward, _label_losses_backward)


def _is_label(scores: jax.Array, labels: jax.Array) -> jax.Array:
    return labels == jnp.arange(scores.shape[1])[:, None]


def _counted(labels: jax.Array, ignore_label: int | None) -> jax.Array:
    if ignore_label is None:
        return jnp.ones_like(labels, bool)
    return labels != ignore_label


def _normalizer(
    normalization: int, counted: jax.Array, batch_size: int
) -> jax.Array | int:
    if normalization == caffe_pb2.LossParameter.VALID:
        return jnp.maximum(counted.sum(), 1)
    if normalization == caffe_pb2.LossParameter.FULL:
        return max(counted.size, 1)
    if normalization == caffe_pb2.LossParameter.BATCH_SIZE:
        return max(batch_size, 1)
    return 1


def _normalization(param: caffe_pb2.LossParameter, default: int) -> int:
    if param.HasField("normalization"):
        return param.normalization
    if param.HasField("normalize"):
        modes = caffe_pb2.LossParameter
        return modes.VALID if param.normalize else modes.BATCH_SIZE
    return default


def _ignore_label(param: caffe_pb2.LossParameter) -> int | None:
    return param.ignore_label if param.HasField("ignore_label") else None


def _check_batch(shape_0: Shape, shape_1: Shape) -> None:
    if not shape_0 or not shape_1 or shape_0[0] != shape_1[0]:
        raise LayerError(
            f"bottoms have shapes {shape_0} and {shape_1}",
            "two bottoms whose first axes have one length",
        )


def _check_count(shape_0: Shape, shape_1: Shape) -> None:
    if math.prod(shape_0) != math.prod(shape_1):
        raise LayerError(
            f"bottoms have shapes {shape_0} and {shape_1}",
            "two bottoms with one number of elements",
        )
