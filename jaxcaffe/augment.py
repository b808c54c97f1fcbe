"""transform_param as a pure function of a batch: crop, mean, scale, mirror.

Follows caffe/src/caffe/data_transformer.cpp.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcaffe.errors import CaffeError, DataError, PrototxtError, describe_layer, plural
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.proto.binary import read_blob
from jaxcaffe.spec import Blobs, Shape
from jaxcaffe.window_augment import make_window_transform, window_top

Augment = Callable[[Blobs, jax.Array], Blobs]
"""(tops as the host sends them, key) -> float32 tops as the net takes them."""


def make_augment(
    layers: Sequence[caffe_pb2.LayerParameter],
    structs: Mapping[str, tuple[Shape, np.dtype]],
    phase: int,
    wheres: Sequence[str] = (),
) -> Augment:
    """Returns the function that turns host batches into the data layers' tops.

    Per image of a Data or ImageData layer (and of a MemoryData layer that is fed
    bytes): top = (bottom - mean) * scale, cut out at one position, then mirrored. The
    position is random in phase TRAIN and the centre in TEST; mean_file is looked up at
    the same position, mean_value by channel; with `mirror` half of the images are
    mirrored, in either phase. Images that the host has cropped already, HDF5 rows,
    float MemoryData and labels only become float32. WindowData has rules of its own
    (window_augment), and its batch holds one array more than the layer has tops.

    The function is pure and may be jitted. Which image gets which numbers depends on
    the key and on its place in the batch alone, not on how the batch is spread over
    devices.

    Args:
      layers: the net's data layers, in file order.
      structs: top -> shape and dtype of a host batch, (N, C, H, W) uint8 or float32
        for images; where sizes vary from batch to batch, those of the first.
      phase: caffe_pb2.TRAIN or caffe_pb2.TEST.
      wheres: "file:line" of each layer.

    Returns:
      augment(batch, key): {top: (N, ...) any dtype} -> {top: (N, ...) float32}.

    Raises:
      PrototxtError: mean_file beside mean_value, force_color beside force_gray,
        mean_values that are not 1 or C, crop_size larger than the image.
      DataError: mean_file is missing, broken or of another shape than the images.

    Source: caffe/src/caffe/data_transformer.cpp, Transform. Differs: numbers are drawn
    per image from `key`, so the run can be repeated and resumed.
    """
    plans = []
    windows = []
    for number, layer in enumerate(layers):
        where = wheres[number] if wheres else ""
        top = layer.top[0]
        shape, dtype = structs[top]
        if layer.type == "WindowData":
            transform = make_window_transform(layer, shape, where)
            windows.append((top, window_top(layer), transform))
        if _is_transformed(layer, dtype):
            plan = _make_plan(number, layer, phase, where)
            _check_shape(plan, shape)
            plans.append(plan)

    def augment(batch: Blobs, key: jax.Array) -> Blobs:
        tops = dict(batch)
        for top, window, transform in windows:
            tops[top] = transform(batch[top], tops.pop(window))
        for plan in plans:
            image_key = jax.random.fold_in(key, plan.number)
            tops[plan.top] = _transform(plan, batch[plan.top], image_key)
        return {top: array.astype(jnp.float32) for top, array in tops.items()}

    return augment


class _Plan(NamedTuple):
    """One layer's transform_param, with its mean read."""

    number: int  # the layer's place among the data layers: its share of the key
    name: str
    type: str
    where: str
    top: str
    crop_size: int
    is_random: bool
    mirror: bool
    scale: float
    mean: np.ndarray | None  # (C, H, W) float32
    mean_file: str
    mean_values: tuple[float, ...]


def _is_transformed(layer: caffe_pb2.LayerParameter, dtype: np.dtype) -> bool:
    if layer.type == "MemoryData":
        return np.dtype(dtype) == np.uint8
    return layer.type in ("Data", "ImageData")


def _make_plan(
    number: int, layer: caffe_pb2.LayerParameter, phase: int, where: str
) -> _Plan:
    param = layer.transform_param
    mean = None
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
    if param.force_color and param.force_gray:
        raise PrototxtError(
            describe_layer(
                where,
                layer.name,
                layer.type,
                "force_color and force_gray are both set",
                "one of them",
            )
        )
    if param.mean_file:
        try:
            mean = _squeeze(read_blob(param.mean_file))
        except CaffeError as error:
            raise DataError(
                describe_layer(where, layer.name, layer.type, f"mean_file: {error}")
            ) from error
    return _Plan(
        number=number,
        name=layer.name,
        type=layer.type,
        where=where,
        top=layer.top[0],
        crop_size=param.crop_size,
        is_random=phase == caffe_pb2.TRAIN,
        mirror=param.mirror,
        scale=param.scale,
        mean=mean,
        mean_file=param.mean_file,
        mean_values=tuple(param.mean_value),
    )


def _squeeze(mean: np.ndarray) -> np.ndarray:
    """(1, C, H, W) -> (C, H, W); other shapes stay, and will be refused."""
    return mean[0] if mean.ndim == 4 and mean.shape[0] == 1 else mean


def _check_shape(plan: _Plan, shape: Shape) -> None:
    channels, height, width = shape[1:]
    size = f"{channels}x{height}x{width}"
    if plan.crop_size > min(height, width):
        raise PrototxtError(
            describe_layer(
                plan.where,
                plan.name,
                plan.type,
                f"crop_size is {plan.crop_size}, the images are {size}",
                f"at most {min(height, width)}",
            )
        )
    if plan.mean is not None and plan.mean.shape != (channels, height, width):
        mean_size = "x".join(map(str, plan.mean.shape))
        raise DataError(
            describe_layer(
                plan.where,
                plan.name,
                plan.type,
                f"mean_file {plan.mean_file} is {mean_size}, the images are {size}",
                f"a mean of {size}, the images' size before cropping",
            )
        )
    if len(plan.mean_values) not in (0, 1, channels):
        raise PrototxtError(
            describe_layer(
                plan.where,
                plan.name,
                plan.type,
                f"{len(plan.mean_values)} mean_values for "
                f"{plural(channels, 'channel')}",
                "one mean_value" + (f", or {channels}" if channels > 1 else ""),
            )
        )


def _transform(plan: _Plan, images: jax.Array, key: jax.Array) -> jax.Array:
    """(N, C, H, W) uint8 or float32 -> (N, C, crop_size, crop_size) float32."""
    # Sizes may differ from those seen at first where batches hold one image.
    _check_shape(plan, images.shape)
    position_key, mirror_key = jax.random.split(key)
    images, mean = _crop(plan, images, position_key)
    # Mirrored as bytes; the mean, cut at the unmirrored position, turns along.
    if plan.mirror:
        flip = jax.random.bernoulli(mirror_key, shape=images.shape[:1])
        flip = flip[:, None, None, None]
        images = jnp.where(flip, images[..., ::-1], images)
        if mean is not None:
            mean = jnp.where(flip, mean[..., ::-1], mean)
    x = images.astype(jnp.float32)
    if mean is not None:
        x = x - mean
    elif plan.mean_values:
        x = x - jnp.asarray(plan.mean_values, jnp.float32).reshape(-1, 1, 1)
    return x * jnp.float32(plan.scale)


def _crop(
    plan: _Plan, images: jax.Array, key: jax.Array
) -> tuple[jax.Array, jax.Array | None]:
    """Returns the cut images, and what to subtract: (C, ...) or one per image."""
    mean = None if plan.mean is None else jnp.asarray(plan.mean)
    count, channels, height, width = images.shape
    size = plan.crop_size
    if not size or size == height == width:
        return images, mean
    if not plan.is_random:
        top, left = (height - size) // 2, (width - size) // 2
        rows, columns = slice(top, top + size), slice(left, left + size)
        if mean is not None:
            mean = mean[:, rows, columns]
        return images[:, :, rows, columns], mean
    top_key, left_key = jax.random.split(key)
    tops = jax.random.randint(top_key, (count,), 0, height - size + 1)
    lefts = jax.random.randint(left_key, (count,), 0, width - size + 1)

    def cut(image: jax.Array, top: jax.Array, left: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (0, top, left), (channels, size, size))

    # Batched slices become one gather along the batch axis, the fastest of the forms
    # tried on a CPU (one index per pixel, rows then columns, a loop over images).
    if mean is not None:
        mean = jax.vmap(cut, in_axes=(None, 0, 0))(mean, tops, lefts)
    return jax.vmap(cut)(images, tops, lefts), mean
