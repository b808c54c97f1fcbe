"""What the device does to R-CNN's windows: mean and scale, nothing outside the image.

Follows load_batch of caffe/src/caffe/layers/window_data_layer.cpp.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxcaffe.errors import CaffeError, DataError, PrototxtError, describe_layer, plural
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.proto.binary import read_blob
from jaxcaffe.spec import Shape


def window_top(layer: caffe_pb2.LayerParameter) -> str:
    """Returns the name under which a batch holds where the images' parts lie."""
    return f"{layer.top[0]}#window"


def make_window_transform(
    layer: caffe_pb2.LayerParameter, shape: Shape, where: str
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Returns the function that turns crops into a WindowData layer's first top.

    top = (crop - mean) * scale inside the image, 0 outside. mean_file is cut at its
    centre; scale is window_data_param's.

    Args:
      layer: of type WindowData.
      shape: (N, C, S, S) of the crops.
      where: "file:line" of the layer.

    Returns:
      transform(crops (N, C, S, S) uint8, windows (N, 4) int32: first row, first column,
      height, width) -> (N, C, S, S) float32.

    Raises:
      PrototxtError: mean_file beside mean_value; mean_values that are not 1 or C.
      DataError: mean_file is missing, broken or smaller than the crops.

    Source: caffe/src/caffe/layers/window_data_layer.cpp, load_batch. Differs: a mean of
    other proportions than square is cut at its centre in both directions.
    """
    param = layer.transform_param
    mean = _read_mean(layer, shape, where)
    scale = np.float32(layer.window_data_param.scale)
    if param.mean_file and param.mean_value:
        raise PrototxtError(
            describe_layer(
                where,
                layer.name,
                layer.type,
                "mean_file and mean_value are both set",
                "one of them",
            )
        )
    if len(param.mean_value) not in (0, 1, shape[1]):
        raise PrototxtError(
            describe_layer(
                where,
                layer.name,
                layer.type,
                f"{len(param.mean_value)} mean_values for "
                f"{plural(shape[1], 'channel')}",
                f"one mean_value, or {shape[1]}",
            )
        )

    def transform(crops: jax.Array, windows: jax.Array) -> jax.Array:
        x = crops.astype(jnp.float32)
        if mean is not None:
            x = x - mean
        elif param.mean_value:
            values = np.array(param.mean_value, np.float32)
            x = x - values.reshape(-1, 1, 1)
        line = jnp.arange(crops.shape[-1])
        top, left, height, width = (windows[:, i, None] for i in range(4))
        rows = (line >= top) & (line < top + height)
        columns = (line >= left) & (line < left + width)
        inside = rows[:, None, :, None] & columns[:, None, None, :]
        return jnp.where(inside, x * scale, 0)

    return transform


def _read_mean(
    layer: caffe_pb2.LayerParameter, shape: Shape, where: str
) -> np.ndarray | None:
    path = layer.transform_param.mean_file
    if not path:
        return None
    try:
        mean = read_blob(path)
    except CaffeError as error:
        raise DataError(
            describe_layer(where, layer.name, layer.type, f"mean_file: {error}")
        ) from error
    mean = mean[0] if mean.ndim == 4 and mean.shape[0] == 1 else mean
    channels, size = shape[1], shape[2]
    if mean.ndim != 3 or mean.shape[0] != channels or min(mean.shape[1:]) < size:
        found = "x".join(map(str, mean.shape))
        raise DataError(
            describe_layer(
                where,
                layer.name,
                layer.type,
                f"mean_file {path} is {found}, the crops are {channels}x{size}x{size}",
                f"a mean of {plural(channels, 'channel')}, at least {size}x{size}",
            )
        )
    top, left = ((length - size) // 2 for length in mean.shape[1:])
    return mean[:, top : top + size, left : left + size]
