"""Functions of one element each.

Follows caffe/src/caffe/layers/neuron_layer.cpp and the layers derived from it.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from jaxcaffe.errors import LayerError
from jaxcaffe.layers.blobs import make_blob
from jaxcaffe.layers.checks import check_channels
from jaxcaffe.layers.registry import register
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.spec import Shape


@register("ReLU", bottoms=1, tops=1)
class ReLU(nnx.Module):
    """Cuts off negative values, or scales them by negative_slope.

    top = bottom if bottom > 0, else negative_slope * bottom. At exactly 0 the
    gradient is that of the negative side.

    Args of the call:
      bottom: float32, any shape.

    Returns:
      float32, the same shape.

    Source: caffe/src/caffe/layers/relu_layer.cpp. Differs: none.
    """

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        bottom_shapes: Sequence[Shape],
        phase: int,
        rngs: nnx.Rngs,
    ) -> None:
        self.negative_slope = layer.relu_param.negative_slope

    def __call__(self, bottom: jax.Array) -> jax.Array:
        """Applies the layer to one bottom; see the class."""
        if self.negative_slope == 0:
            return _relu(bottom)
        return jnp.where(bottom > 0, bottom, self.negative_slope * bottom)


@jax.custom_jvp
def _relu(bottom: jax.Array) -> jax.Array:
    """Cuts off negative values; the gradient asks the top which, not the bottom.

    The layer behind keeps the top anyway, so that the bottom need not be kept.
    """
    return jnp.maximum(bottom, 0)


@_relu.defjvp
def _relu_jvp(
    primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    top = _relu(*primals)
    return top, jnp.where(top > 0, tangents[0], 0)


@register("Sigmoid", bottoms=1, tops=1)
class Sigmoid(nnx.Module):
    """Squashes to between 0 and 1: top = 1 / (1 + exp(-bottom)).

    Args of the call:
      bottom: float32, any shape.

    Returns:
      float32, the same shape.

    Source: caffe/src/caffe/layers/sigmoid_layer.cpp. Differs: none.
    """

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        bottom_shapes: Sequence[Shape],
        phase: int,
        rngs: nnx.Rngs,
    ) -> None:
        pass

    def __call__(self, bottom: jax.Array) -> jax.Array:
        """Applies the layer to one bottom; see the class."""
        return jax.nn.sigmoid(bottom)


@register("TanH", bottoms=1, tops=1)
class TanH(nnx.Module):
    """Squashes to between -1 and 1: top = tanh(bottom).

    Args of the call:
      bottom: float32, any shape.

    Returns:
      float32, the same shape.

    Source: caffe/src/caffe/layers/tanh_layer.cpp. Differs: none.
    """

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        bottom_shapes: Sequence[Shape],
        phase: int,
        rngs: nnx.Rngs,
    ) -> None:
        pass

    def __call__(self, bottom: jax.Array) -> jax.Array:
        """Applies the layer to one bottom; see the class."""
        return jnp.tanh(bottom)


@register("PReLU", bottoms=1, tops=1)
class PReLU(nnx.Module):
    """Scales negative values by a learned slope.

    top = bottom if bottom > 0, else slope * bottom. At exactly 0 the gradient is that
    of the negative side.

    Blobs: slope (C,) float32, or () with channel_shared; 0.25 unless filler says
    otherwise.

    Args of the call:
      bottom: (N, C, ...) float32.

    Returns:
      float32, the same shape.

    Raises:
      LayerError: the bottom has fewer than 2 axes; whatever the filler refuses.

    Source: caffe/src/caffe/layers/prelu_layer.cpp; He et al., "Delving Deep into
    Rectifiers" (2015). Differs: Caffe refuses bottoms of more than 4 axes.
    """

    blobs = ("slope",)

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        bottom_shapes: Sequence[Shape],
        phase: int,
        rngs: nnx.Rngs,
    ) -> None:
        param = layer.prelu_param
        shape = bottom_shapes[0]
        check_channels(shape)
        filler = param.filler
        if not param.HasField("filler"):
            filler = caffe_pb2.FillerParameter(type="constant", value=0.25)
        slope_shape = () if param.channel_shared else (shape[1],)
        self.slope = make_blob(filler, rngs, slope_shape)

    def __call__(self, bottom: jax.Array) -> jax.Array:
        """Applies the layer to one bottom; see the class."""
        slope = self.slope.get_value()
        if slope.ndim:
            slope = slope.reshape(-1, *[1] * (bottom.ndim - 2))
        return jnp.where(bottom > 0, bottom, slope * bottom)


@register("ELU", bottoms=1, tops=1)
class ELU(nnx.Module):
    """Bends negative values towards -alpha.

    top = bottom if bottom > 0, else alpha * (exp(bottom) - 1). At exactly 0 the
    gradient is alpha.

    Args of the call:
      bottom: float32, any shape.

    Returns:
      float32, the same shape.

    Source: caffe/src/caffe/layers/elu_layer.cpp. Differs: none.
    """

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        bottom_shapes: Sequence[Shape],
        phase: int,
        rngs: nnx.Rngs,
    ) -> None:
        self.alpha = layer.elu_param.alpha

    def __call__(self, bottom: jax.Array) -> jax.Array:
        """Applies the layer to one bottom; see the class."""
        # Held at 0 where not used: an overflow there would make the gradient NaN.
        negative = jnp.where(bottom > 0, 0, bottom)
        return jnp.where(bottom > 0, bottom, self.alpha * jnp.expm1(negative))


@register("BNLL", bottoms=1, tops=1)
class BNLL(nnx.Module):
    """A smooth ReLU: top = log(1 + exp(bottom)), computed without overflow.

    Args of the call:
      bottom: float32, any shape.

    Returns:
      float32, the same shape.

    Source: caffe/src/caffe/layers/bnll_layer.cpp. Differs: none.
    """

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        bottom_shapes: Sequence[Shape],
        phase: int,
        rngs: nnx.Rngs,
    ) -> None:
        pass

    def __call__(self, bottom: jax.Array) -> jax.Array:
        """Applies the layer to one bottom; see the class."""
        return jax.nn.softplus(bottom)


@register("Swish", bottoms=1, tops=1)
class Swish(nnx.Module):
    """Weighs each value by its sigmoid: top = bottom / (1 + exp(-beta * bottom)).

    Args of the call:
      bottom: float32, any shape.

    Returns:
      float32, the same shape.

    Source: caffe/src/caffe/layers/swish_layer.cpp. Differs: none.
    """

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        bottom_shapes: Sequence[Shape],
        phase: int,
        rngs: nnx.Rngs,
    ) -> None:
        self.beta = layer.swish_param.beta

    def __call__(self, bottom: jax.Array) -> jax.Array:
        """Applies the layer to one bottom; see the class."""
        return bottom * jax.nn.sigmoid(self.beta * bottom)


@register("AbsVal", bottoms=1, tops=1, in_place=False)
class AbsVal(nnx.Module):
    """Drops the sign: top = |bottom|. At exactly 0 the gradient is 0.

    Args of the call:
      bottom: float32, any shape.

    Returns:
      float32, the same shape.

    Source: caffe/src/caffe/layers/absval_layer.cpp. Differs: none.
    """

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        bottom_shapes: Sequence[Shape],
        phase: int,
        rngs: nnx.Rngs,
    ) -> None:
        pass

    def __call__(self, bottom: jax.Array) -> jax.Array:
        """Applies the layer to one bottom; see the class."""
        # Not `abs`, whose gradient at 0 is 1.
        return jax.lax.stop_gradient(jnp.sign(bottom)) * bottom


@register("Clip", bottoms=1, tops=1)
class Clip(nnx.Module):
    """Holds values between min and max.

    top = bottom, but max where it is above max, and min where it is below min. A value
    on either border passes a gradient.

    Args of the call:
      bottom: float32, any shape.

    Returns:
      float32, the same shape.

    Raises:
      LayerError: min or max is not given.

    Source: caffe/src/caffe/layers/clip_layer.cpp. Differs: none.
    """

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        bottom_shapes: Sequence[Shape],
        phase: int,
        rngs: nnx.Rngs,
    ) -> None:
        self.min, self.max = layer.clip_param.min, layer.clip_param.max
        for field in ("min", "max"):
            if not layer.clip_param.HasField(field):
                raise LayerError(f"no {field}", "clip_param { min: ... max: ... }")

    def __call__(self, bottom: jax.Array) -> jax.Array:
        """Applies the layer to one bottom; see the class."""
        # `where`, for `clip` would give half a gradient on the borders.
        top = jnp.where(bottom > self.max, self.max, bottom)
        return jnp.where(top < self.min, self.min, top)


@register("Threshold", bottoms=1, tops=1)
class Threshold(nnx.Module):
    """Tells which values lie above threshold: top = 1 if bottom > threshold, else 0.

    It passes no gradient.

    Args of the call:
      bottom: float32, any shape.

    Returns:
      float32, the same shape.

    Source: caffe/src/caffe/layers/threshold_layer.cpp. Differs: Caffe aborts when a
    gradient reaches it; here that gradient ends.
    """

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        bottom_shapes: Sequence[Shape],
        phase: int,
        rngs: nnx.Rngs,
    ) -> None:
        self.threshold = layer.threshold_param.threshold

    def __call__(self, bottom: jax.Array) -> jax.Array:
        """Applies the layer to one bottom; see the class."""
        return (bottom > self.threshold).astype(bottom.dtype)
