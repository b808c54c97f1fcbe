"""Pooling: the maximum, the mean or a random element of windows.

Follows caffe/src/caffe/layers/pooling_layer.cpp and spp_layer.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from jaxcaffe.errors import LayerError
from jaxcaffe.layers.checks import check_images, check_positive
from jaxcaffe.layers.registry import register
from jaxcaffe.ops import pooling as ops
from jaxcaffe.ops.windows import Windows, pooled_size
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.spec import Shape

_Param = caffe_pb2.PoolingParameter


@register("Pooling", bottoms=1, tops=(1, 2), random=True)
class Pooling(nnx.Module):
    """Takes the maximum, the mean or a random element of each window of the bottom.

    top[n, c, i, j] = that of bottom[n, c] over rows i * stride_h - pad_h +
    [0, kernel_h), columns likewise. MAX ignores padding; AVE divides by the window's
    area on the padded image. STOCHASTIC draws by value in TRAIN and takes the
    expected value in TEST.

    Args of the call:
      bottom: (N, C, H, W) float32.
      key: random key, which only STOCHASTIC in TRAIN uses.

    Returns:
      (N, C, H', W') float32; H' and W' are rounded up unless round_mode is FLOOR. With
      two tops (MAX only) also the index of each maximum in its plane, row * W +
      column, as float32 of that shape.

    Raises:
      LayerError: bottom not 4-D; sizes given twice, by halves or zero; pad not smaller
        than the kernel; sizes with global_pooling; a second top without MAX; padding
        with STOCHASTIC; no window fits.

    Source: caffe/src/caffe/layers/pooling_layer.cpp, LayerSetUp and Reshape.
    Differs: engine chooses no other code; kernel_size with kernel_h or kernel_w is
    refused even when only one of them is set; STOCHASTIC runs on every platform.
    """

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        bottom_shapes: Sequence[Shape],
        phase: int,
        rngs: nnx.Rngs,
    ) -> None:
        param = layer.pooling_param
        shape = bottom_shapes[0]
        check_images(shape)
        self.windows = _windows(param, shape[2:])
        self.pool = param.pool
        self.draws = phase == caffe_pb2.TRAIN
        self.with_mask = len(layer.top) > 1
        if self.with_mask and self.pool != _Param.MAX:
            raise LayerError(
                f"pool {_Param.PoolMethod.Name(self.pool)} has two tops",
                "one top; the second, the mask, exists with pool MAX",
            )
        if self.pool == _Param.STOCHASTIC and any(self.windows.pad):
            raise LayerError("pool STOCHASTIC with padding", "pad 0, or MAX or AVE")

    def __call__(
        self, bottom: jax.Array, key: jax.Array | None = None
    ) -> jax.Array | tuple[jax.Array, jax.Array]:
        """Pools the bottom; see the class."""
        assert key is not None or not self.draws or self.pool != _Param.STOCHASTIC
        top = _pool(self.pool, bottom, self.windows, key if self.draws else None)
        return (top, ops.max_mask(bottom, self.windows)) if self.with_mask else top


@register("SPP", bottoms=1, tops=1, random=True)
class SPP(nnx.Module):
    """Pools the bottom into 1, 4, 16... bins and lines up what comes out.

    Level l of pyramid_height lays 2^l x 2^l windows over the image, as large and as far
    apart as ceil(size / 2^l), with the missing rows and columns as padding, half before
    the image. The levels are flattened and joined, the coarsest first.

    Args of the call:
      bottom: (N, C, H, W) float32.
      key: random key, which only STOCHASTIC in TRAIN uses.

    Returns:
      (N, C * number of bins) float32; with pyramid_height 1 (N, C, 1, 1).

    Raises:
      LayerError: bottom not 4-D; pyramid_height 0; a level whose windows are no larger
        than their padding, or that are padded with STOCHASTIC.

    Source: caffe/src/caffe/layers/spp_layer.cpp; He et al., "Spatial Pyramid Pooling in
    Deep Convolutional Networks" (2014). Differs: STOCHASTIC runs on every platform.
    """

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        bottom_shapes: Sequence[Shape],
        phase: int,
        rngs: nnx.Rngs,
    ) -> None:
        param = layer.spp_param
        shape = bottom_shapes[0]
        check_images(shape)
        check_positive("pyramid_height", param.pyramid_height)
        self.levels = tuple(
            _level_windows(level, shape[2:]) for level in range(param.pyramid_height)
        )
        # The two messages number the same methods alike.
        self.pool = param.pool
        self.draws = phase == caffe_pb2.TRAIN
        if self.pool == _Param.STOCHASTIC:
            for level, windows in enumerate(self.levels):
                if any(windows.pad):
                    raise LayerError(
                        f"pool STOCHASTIC needs padding {_show(windows.pad)} at level "
                        f"{level}",
                        "sides that 2^(pyramid_height - 1) divides, or MAX or AVE",
                    )

    def __call__(self, bottom: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Pools the bottom; see the class."""
        tops = []
        for level, windows in enumerate(self.levels):
            level_key = None
            if self.pool == _Param.STOCHASTIC and self.draws:
                assert key is not None
                level_key = jax.random.fold_in(key, level)
            tops.append(_pool(self.pool, bottom, windows, level_key))
        if len(tops) == 1:
            return tops[0]
        return jnp.concatenate([top.reshape(top.shape[0], -1) for top in tops], axis=1)


def _pool(
    pool: int, bottom: jax.Array, windows: Windows, key: jax.Array | None
) -> jax.Array:
    """Pools by method; STOCHASTIC draws with a key and takes the mean without."""
    if pool == _Param.AVE:
        return ops.ave_pool(bottom, windows)
    if pool == _Param.STOCHASTIC:
        return ops.stochastic_pool(bottom, windows, key)
    return ops.max_pool(bottom, windows)


def _level_windows(level: int, size: Shape) -> Windows:
    """Returns the 2^level windows along each axis of an image."""
    bins = 2**level
    kernel = tuple(-(-length // bins) for length in size)
    pad = tuple(
        (k * bins - length + 1) // 2 for k, length in zip(kernel, size, strict=True)
    )
    for k, p in zip(kernel, pad, strict=True):
        if p >= k:
            raise LayerError(
                f"{bins} x {bins} windows do not fit a bottom of {size[0]} x {size[1]} "
                f"(level {level} would need {p} pixels of padding for windows of {k})",
                "a smaller pyramid_height or a larger bottom",
            )
    pooled = tuple(
        pooled_size(length, k, k, p, ceil=True, padded=any(pad))
        for length, k, p in zip(size, kernel, pad, strict=True)
    )
    return Windows(
        (size[0], size[1]),
        (kernel[0], kernel[1]),
        (kernel[0], kernel[1]),
        (pad[0], pad[1]),
        (pooled[0], pooled[1]),
    )


def _windows(param: caffe_pb2.PoolingParameter, size: Shape) -> Windows:
    H, W = size
    pad = _pair(param, "pad", "pad")
    stride = _pair(param, "stride", "stride")
    if param.global_pooling:
        for field in ["kernel_size", "kernel_h", "kernel_w"]:
            if param.HasField(field):
                raise LayerError(
                    f"global_pooling and {field} are both set", "one of the two"
                )
        if pad != (0, 0) or stride != (1, 1):
            raise LayerError(
                f"global_pooling with pad {_show(pad)} and stride {_show(stride)}",
                "pad 0 and stride 1",
            )
        kernel = (H, W)
    else:
        if not any(param.HasField(f"kernel_{end}") for end in ["size", "h", "w"]):
            raise LayerError(
                "no kernel_size", "kernel_size, kernel_h with kernel_w, global_pooling"
            )
        kernel = _pair(param, "kernel_size", "kernel")
    for field, values in [("kernel_size", kernel), ("stride", stride)]:
        if 0 in values:
            raise LayerError(f"{field} is {_show(values)}", "sizes of 1 or more")
    if pad[0] >= kernel[0] or pad[1] >= kernel[1]:
        raise LayerError(
            f"pad {_show(pad)} is not smaller than kernel_size {_show(kernel)}",
            "a pad below kernel_size",
        )
    ceil = param.round_mode == _Param.CEIL
    pooled = (
        pooled_size(H, kernel[0], stride[0], pad[0], ceil, padded=any(pad)),
        pooled_size(W, kernel[1], stride[1], pad[1], ceil, padded=any(pad)),
    )
    if min(pooled) < 1:
        raise LayerError(
            f"no window of {_show(kernel)} fits the bottom of {_show((H, W))}",
            "a smaller kernel_size or a larger bottom",
        )
    return Windows((H, W), kernel, stride, pad, pooled)


def _pair(param: caffe_pb2.PoolingParameter, single: str, stem: str) -> tuple[int, int]:
    """Reads a size given once or as _h and _w."""
    names = [f"{stem}_h", f"{stem}_w"]
    given = [name for name in names if param.HasField(name)]
    if not given:
        value = getattr(param, single)
        return value, value
    accepted = f"{single}, or {names[0]} with {names[1]}"
    if param.HasField(single):
        raise LayerError(f"{single} and {given[0]} are both set", accepted)
    if len(given) == 1:
        raise LayerError(f"{given[0]} is set alone", accepted)
    return getattr(param, names[0]), getattr(param, names[1])


def _show(pair: tuple[int, int]) -> str:
    return f"{pair[0]} x {pair[1]}"
