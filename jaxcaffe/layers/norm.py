"""Normalisation: by neighbours, by the batch, by each image itself.

Follows caffe/src/caffe/layers/lrn_layer.cpp, batch_norm_layer.cpp and mvn_layer.cpp.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from jaxcaffe.errors import LayerError
from jaxcaffe.layers.checks import check_channels, check_images
from jaxcaffe.layers.registry import register
from jaxcaffe.ops.lrn import inverse_power, lrn_across
from jaxcaffe.ops.normalization import batch_normalize
from jaxcaffe.ops.pooling import ave_pool
from jaxcaffe.ops.windows import Windows, pooled_size
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.spec import Shape


@register("LRN", bottoms=1, tops=1)
class LRN(nnx.Module):
    """Divides each element by a power of the energy around it.

    ACROSS_CHANNELS: top = bottom * (k + alpha / local_size * S)^-beta, S the sum of
    squares over local_size channels around the element's. WITHIN_CHANNEL: top =
    bottom * (1 + alpha * A)^-beta, A the mean of squares over the local_size x
    local_size square around it, zeros outside the image included; k says nothing.

    Args of the call:
      bottom: (N, C, H, W) float32.

    Returns:
      (N, C, H, W) float32.

    Raises:
      LayerError: bottom not 4-D; local_size even.

    Source: caffe/src/caffe/layers/lrn_layer.cpp, LayerSetUp and the Forwards.
    Differs: engine chooses no other code.
    """

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        bottom_shapes: Sequence[Shape],
        phase: int,
        rngs: nnx.Rngs,
    ) -> None:
        param = layer.lrn_param
        shape = bottom_shapes[0]
        check_images(shape)
        if param.local_size % 2 == 0:
            raise LayerError(f"local_size is {param.local_size}", "an odd local_size")
        self.local_size = param.local_size
        self.alpha, self.beta, self.k = param.alpha, param.beta, param.k
        self.across = param.norm_region == caffe_pb2.LRNParameter.ACROSS_CHANNELS

    def __call__(self, bottom: jax.Array) -> jax.Array:
        """Normalises the bottom; see the class."""
        if self.across:
            return lrn_across(bottom, self.local_size, self.alpha, self.beta, self.k)
        mean = ave_pool(bottom**2, self._squares(bottom.shape[2:]))
        return bottom * inverse_power(1 + self.alpha * mean, self.beta)

    def _squares(self, size: Shape) -> Windows:
        H, W = size
        side, pad = self.local_size, self.local_size // 2
        # Padding on both sides makes as many windows as pixels.
        pooled = [pooled_size(length, side, 1, pad, True, bool(pad)) for length in size]
        assert pooled == [H, W], (pooled, size)
        return Windows((H, W), (side, side), (1, 1), (pad, pad), (H, W))


@register("BatchNorm", bottoms=1, tops=1)
class BatchNorm(nnx.Module):
    """Makes each channel of mean 0 and variance 1, without learned factors.

    top = (bottom - mean) / sqrt(variance + eps), by the batch's own mean and variance
    or, with use_global_stats, by the stored ones. use_global_stats is true in TEST
    and false in TRAIN unless the file says otherwise.

    Blobs, which forward passes over batches change and the solver leaves alone:
      mean (C,) float32: moving sum of batch means.
      variance (C,) float32: moving sum of batch variances, unbiased (m / (m - 1)).
      scale_factor (1,) float32: by which the two are divided before use; while it is
        0 they count as 0. Each batch multiplies all three by moving_average_fraction
        and adds its mean, its variance and 1.

    Args of the call:
      bottom: (N, C, *size) float32.

    Returns:
      float32, of the bottom's shape.

    Raises:
      LayerError: bottom of fewer than 2 axes.

    Source: caffe/src/caffe/layers/batch_norm_layer.cpp, LayerSetUp and Forward_cpu.
    Differs: what a test net adds to the statistics is dropped after the batch.
    """

    blobs = ("mean", "variance", "scale_factor")

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        bottom_shapes: Sequence[Shape],
        phase: int,
        rngs: nnx.Rngs,
    ) -> None:
        param = layer.batch_norm_param
        shape = bottom_shapes[0]
        check_channels(shape)
        self.moving_average_fraction = param.moving_average_fraction
        self.eps = param.eps
        self.use_global_stats = (
            param.use_global_stats
            if param.HasField("use_global_stats")
            else phase == caffe_pb2.TEST
        )
        self.mean = nnx.BatchStat(jnp.zeros(shape[1]))
        self.variance = nnx.BatchStat(jnp.zeros(shape[1]))
        self.scale_factor = nnx.BatchStat(jnp.zeros(1))

    def __call__(self, bottom: jax.Array) -> jax.Array:
        """Normalises the bottom and may update the blobs; see the class."""
        if self.use_global_stats:
            return self._normalize_by_blobs(bottom)
        return self._normalize_by_batch(
            bottom, jnp.ones(bottom.shape[1]), jnp.zeros(bottom.shape[1])
        )[1]

    def normalize_and_scale(
        self, bottom: jax.Array, scale: jax.Array, bias: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Does the work of a Scale behind this layer, too.

        Args:
          bottom: (N, C, *size) float32.
          scale: (C,) float32.
          bias: (C,) float32, or None for none.

        Returns:
          This layer's top, through which no gradient passes, and the Scale's.
        """
        bias = jnp.zeros_like(scale) if bias is None else bias
        if not self.use_global_stats:
            return self._normalize_by_batch(bottom, scale, bias)
        normal = self._normalize_by_blobs(bottom)
        shape = (1, -1, *[1] * (bottom.ndim - 2))
        top = normal * scale.reshape(shape) + bias.reshape(shape)
        return lax.stop_gradient(normal), top

    def _normalize_by_batch(
        self, bottom: jax.Array, scale: jax.Array, bias: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        top, normal, mean, variance = batch_normalize(bottom, scale, bias, self.eps)
        self._accumulate(mean, variance, math.prod(bottom.shape) // mean.size)
        return normal, top

    def _normalize_by_blobs(self, bottom: jax.Array) -> jax.Array:
        shape = (1, -1, *[1] * (bottom.ndim - 2))
        scale_factor = self.scale_factor.get_value()
        seen = scale_factor != 0
        share = jnp.where(seen, 1 / jnp.where(seen, scale_factor, 1), 0)
        mean = self.mean.get_value() * share
        variance = self.variance.get_value() * share
        centred = bottom - mean.reshape(shape)
        return centred * lax.rsqrt(variance + self.eps).reshape(shape)

    def _accumulate(self, mean: jax.Array, variance: jax.Array, m: int) -> None:
        """Adds the statistics of a batch of m elements per channel to the blobs."""
        unbiased = variance * (m / (m - 1) if m > 1 else 1)
        for blob, new in [
            (self.mean, mean),
            (self.variance, unbiased),
            (self.scale_factor, jnp.ones(1)),
        ]:
            old = self.moving_average_fraction * blob.get_value()
            blob.set_value(old + lax.stop_gradient(new))


@register("MVN", bottoms=1, tops=1)
class MVN(nnx.Module):
    """Makes each channel of each image, or each image, of mean 0 and variance 1.

    top = (bottom - mean) / (sqrt(variance) + eps), over the image's pixels or, with
    across_channels, over its channels and pixels; with normalize_variance false only
    top = bottom - mean. The gradient takes eps for a part of the deviation.

    Args of the call:
      bottom: float32 of at most 4 axes, (N, C, H, W); missing ones count as 1.

    Returns:
      (N, C, H, W) float32, always of 4 axes.

    Raises:
      LayerError: the bottom has more than 4 axes.

    Source: caffe/src/caffe/layers/mvn_layer.cpp. Differs: none.
    """

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        bottom_shapes: Sequence[Shape],
        phase: int,
        rngs: nnx.Rngs,
    ) -> None:
        param = layer.mvn_param
        shape = bottom_shapes[0]
        if len(shape) > 4:
            raise LayerError(f"the bottom has shape {shape}", "at most 4 axes")
        self.normalize_variance, self.eps = param.normalize_variance, param.eps
        self.axes = (1, 2, 3) if param.across_channels else (2, 3)

    def __call__(self, bottom: jax.Array) -> jax.Array:
        """Normalises the bottom; see the class."""
        images = bottom.reshape(bottom.shape + (1,) * (4 - bottom.ndim))
        centred = images - images.mean(self.axes, keepdims=True)
        if not self.normalize_variance:
            return centred
        return _standardize(centred, self.axes, self.eps)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _standardize(centred: jax.Array, axes: tuple[int, ...], eps: float) -> jax.Array:
    """Divides values of mean 0 by their deviation plus eps.

    A derivative of its own, because Caffe's is that of division by sqrt(mean(x^2) + c)
    with the c that gives the same deviation, and is finite for constant images.
    """
    return centred / _deviation(centred, axes, eps)


def _deviation(centred: jax.Array, axes: tuple[int, ...], eps: float) -> jax.Array:
    return jnp.sqrt(jnp.mean(centred**2, axes, keepdims=True)) + eps


@_standardize.defjvp
def _standardize_jvp(
    axes: tuple[int, ...],
    eps: float,
    primals: tuple[jax.Array],
    tangents: tuple[jax.Array],
) -> tuple[jax.Array, jax.Array]:
    deviation = _deviation(primals[0], axes, eps)
    top = primals[0] / deviation
    along = jnp.mean(top * tangents[0], axes, keepdims=True)
    return top, (tangents[0] - top * along) / deviation
