"""Softmax, and the losses that have one inside.

Follows caffe/src/caffe/layers/softmax_layer.cpp, softmax_loss_layer.cpp and
infogain_loss_layer.cpp.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxcaffe.errors import CaffeError, LayerError
from jaxcaffe.layers.axes import canonical_axis
from jaxcaffe.layers.checks import check_batch, label_shape
from jaxcaffe.layers.normalize import (
    counted_labels,
    ignored_label,
    normalization_mode,
    normalizer,
)
from jaxcaffe.layers.registry import register
from jaxcaffe.ops.plain import keep_arguments
from jaxcaffe.proto import binary, caffe_pb2
from jaxcaffe.spec import Shape

# Caffe takes no logarithm below FLT_MIN, so no label costs more than 87.3365.
_LOG_FLT_MIN = math.log(float(np.finfo(np.float32).tiny))

# InfogainLoss takes none below this.
_LEAST_PROBABILITY = 1e-20


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
        check_batch(scores, labels)
        self.axis = canonical_axis("axis", layer.softmax_param.axis, scores)
        param = layer.loss_param
        self.shape = label_shape(scores, labels, self.axis)
        self.ignore_label = ignored_label(param)
        self.normalization = normalization_mode(param, param.normalization)
        self.probabilities = len(layer.top) > 1

    def __call__(
        self, scores: jax.Array, labels: jax.Array
    ) -> jax.Array | tuple[jax.Array, ...]:
        """Applies the layer to scores and labels; see the class."""
        outer, _, inner = self.shape
        labels = jnp.trunc(labels.reshape(outer, 1, inner))
        counted = counted_labels(labels, self.ignore_label)
        losses = keep_arguments(_label_losses)(
            scores.reshape(self.shape), labels, counted
        )
        loss = losses.sum() / normalizer(self.normalization, counted, outer)
        if not self.probabilities:
            return loss
        return loss, jax.nn.softmax(scores, self.axis)


@register(
    "InfogainLoss",
    bottoms=(2, 3),
    tops=(1, 2),
    auto_tops=True,
    is_loss=True,
    no_gradient=(1, 2),
)
class InfogainLoss(nnx.Module):
    """Charges each label by a row of a matrix: what each class is worth to it.

    loss = -1/n * sum over labels and classes of H[label, class] * log(max(p[class],
    1e-20)), where p is the softmax of the scores along axis; the gradient stays
    (p * sum(H[label]) - H[label]) / n also where the maximum acts. Labels equal to
    ignore_label are left out; n as in SoftmaxWithLoss, VALID by default.

    Args of the call:
      scores: float32, classes along infogain_loss_param's axis; (N, C, ...) by default.
      labels: float32 with whole values in [0, C), one per position of scores without
        axis; first length N.
      H: float32 of C * C elements, rows by label; in its place infogain_loss_param may
        name a binaryproto file as source.

    Returns:
      () float32; with two tops also the probabilities, float32 of the scores' shape.

    Raises:
      LayerError: axis is out of range; the number of labels or the size of H does not
        fit; no source and no third bottom, or a source that cannot be read.

    Source: caffe/src/caffe/layers/infogain_loss_layer.cpp. Differs: a label outside
    [0, C) that is not ignore_label makes loss and gradient NaN (Caffe reads foreign
    memory); the older normalize is understood, not refused.
    """

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        bottom_shapes: Sequence[Shape],
        phase: int,
        rngs: nnx.Rngs,
    ) -> None:
        scores, labels = bottom_shapes[:2]
        check_batch(scores, labels)
        self.axis = canonical_axis("axis", layer.infogain_loss_param.axis, scores)
        self.shape = label_shape(scores, labels, self.axis)
        C = self.shape[1]
        given = len(bottom_shapes) == 3
        self.H = (
            None
            if given
            else nnx.Variable(_read_infogain(layer.infogain_loss_param.source))
        )
        H_shape = bottom_shapes[2] if self.H is None else self.H.get_value().shape
        if math.prod(H_shape) != C * C:
            raise LayerError(
                f"H has shape {H_shape} for {C} classes", f"{C} x {C} elements"
            )
        self.ignore_label = ignored_label(layer.loss_param)
        self.normalization = normalization_mode(
            layer.loss_param, layer.loss_param.normalization
        )
        self.probabilities = len(layer.top) > 1

    def __call__(
        self, scores: jax.Array, labels: jax.Array, *bottom_H: jax.Array
    ) -> jax.Array | tuple[jax.Array, ...]:
        """Applies the layer to scores and labels; see the class."""
        outer, C, inner = self.shape
        H = jnp.asarray(bottom_H[0] if self.H is None else self.H.get_value())
        labels = jnp.trunc(labels.reshape(outer, inner))
        counted = counted_labels(labels, self.ignore_label)
        known = (labels >= 0) & (labels < C)
        rows = H.reshape(C, C)[jnp.where(known, labels, 0).astype(jnp.int32)]
        rows = jnp.where(known[..., None], rows, jnp.nan)
        rows = jnp.where(counted[..., None], rows, 0).transpose(0, 2, 1)
        loss = keep_arguments(_infogain)(scores.reshape(self.shape), rows)
        loss /= normalizer(self.normalization, counted, outer)
        if not self.probabilities:
            return loss
        return loss, jax.nn.softmax(scores, self.axis)


@jax.custom_jvp
def _infogain(scores: jax.Array, rows: jax.Array) -> jax.Array:
    """Returns -sum(rows * log(max(p, 1e-20))), p the softmax along axis 1; ().

    A derivative of its own, because Caffe's is p * sum(rows) - rows also where the
    maximum acts; rows have none. scores and rows: (outer, C, inner) float32.
    """
    log_p = jax.nn.log_softmax(scores, axis=1)
    return -jnp.sum(rows * jnp.maximum(log_p, math.log(_LEAST_PROBABILITY)))


@_infogain.defjvp
def _infogain_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    scores, rows = primals
    p = jax.nn.softmax(scores, axis=1)
    slope = p * rows.sum(axis=1, keepdims=True) - rows
    return _infogain(scores, rows), jnp.sum(slope * tangents[0])


def _read_infogain(source: str) -> np.ndarray:
    accepted = "a third bottom with H, or its binaryproto file"
    if not source:
        raise LayerError("no source for H", accepted)
    try:
        return binary.read_blob(source)
    except CaffeError as error:
        raise LayerError(f"source: {error}", accepted) from error


@jax.custom_jvp
def _label_losses(
    scores: jax.Array, labels: jax.Array, counted: jax.Array
) -> jax.Array:
    """Returns -log(max(p[label], FLT_MIN)) where counted, else 0; (outer, 1, inner).

    A derivative of its own, because Caffe's is p - onehot even where the maximum acts,
    and because it needs no scatter. scores: (outer, C, inner) float32; labels and
    counted: (outer, 1, inner), whole float32 values and bool.
    """
    is_label = _is_label(scores, labels)
    log_p = jnp.where(is_label, jax.nn.log_softmax(scores, axis=1), 0)
    losses = -jnp.maximum(log_p.sum(axis=1, keepdims=True), _LOG_FLT_MIN)
    known = is_label.any(axis=1, keepdims=True)
    return jnp.where(counted, jnp.where(known, losses, jnp.nan), 0)


@_label_losses.defjvp
def _label_losses_jvp(
    primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]
) -> tuple[jax.Array, jax.Array]:
    scores, labels, counted = primals
    is_label = _is_label(scores, labels)
    known = is_label.any(axis=1, keepdims=True)
    slope = jnp.where(known, jax.nn.softmax(scores, axis=1) - is_label, jnp.nan)
    change = jnp.where(counted, slope, 0) * tangents[0]
    return _label_losses(*primals), change.sum(axis=1, keepdims=True)


def _is_label(scores: jax.Array, labels: jax.Array) -> jax.Array:
    return labels == jnp.arange(scores.shape[1])[:, None]
