"""Layers that give the elements of one bottom another shape.

Follows caffe/src/caffe/layers/flatten_layer.cpp, reshape_layer.cpp, tile_layer.cpp
and crop_layer.cpp.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from jaxcaffe.errors import LayerError
from jaxcaffe.layers.axes import canonical_axis
from jaxcaffe.layers.registry import register
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.spec import Shape


@register("Flatten", bottoms=1, tops=1, in_place=False)
class Flatten(nnx.Module):
    """Merges the axes from axis to end_axis, both included, into one.

    Args of the call:
      bottom: float32, any shape; by default (N, ...).

    Returns:
      float32; by default (N, product of the other lengths).

    Raises:
      LayerError: axis or end_axis is out of range; axis is more than one behind
        end_axis (one behind inserts an axis of length 1).

    Source: caffe/src/caffe/layers/flatten_layer.cpp. Differs: none.
    """

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        bottom_shapes: Sequence[Shape],
        phase: int,
        rngs: nnx.Rngs,
    ) -> None:
        param = layer.flatten_param
        shape = bottom_shapes[0]
        self.axis = canonical_axis("axis", param.axis, shape)
        self.end_axis = canonical_axis("end_axis", param.end_axis, shape)
        if self.axis > self.end_axis + 1:
            raise LayerError(
                f"axis {param.axis} lies behind end_axis {param.end_axis} of a bottom "
                f"of shape {shape}",
                "axis at most end_axis",
            )

    def __call__(self, bottom: jax.Array) -> jax.Array:
        """Applies the layer to one bottom; see the class."""
        before, after = bottom.shape[: self.axis], bottom.shape[self.end_axis + 1 :]
        merged = math.prod(bottom.shape[self.axis : self.end_axis + 1])
        return bottom.reshape(*before, merged, *after)


@register("Reshape", bottoms=1, tops=1, in_place=False)
class Reshape(nnx.Module):
    """Replaces num_axes axes, from axis on, by those of shape; the order stays.

    In shape, 0 copies the length of the bottom's axis at that place and -1, allowed
    once, stands for whatever is left over. num_axes -1 replaces all axes from axis on.
    Negative numbers of axis count places between axes from the end, so that axis -1
    appends.

    Args of the call:
      bottom: float32, any shape.

    Returns:
      float32, as many elements.

    Raises:
      LayerError: axis, num_axes or a dim is out of range; a 0 without an axis to copy;
        several -1; the bottom's elements do not fill the new shape.

    Source: caffe/src/caffe/layers/reshape_layer.cpp. Differs: -1 is also inferred
    where an axis that is kept or copied has length 0.
    """

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        bottom_shapes: Sequence[Shape],
        phase: int,
        rngs: nnx.Rngs,
    ) -> None:
        param = layer.reshape_param
        shape, dims = bottom_shapes[0], tuple(param.shape.dim)
        axis = param.axis if param.axis >= 0 else len(shape) + 1 + param.axis
        if not 0 <= axis <= len(shape):
            raise LayerError(
                f"axis is {param.axis} for a bottom of shape {shape}",
                f"{-len(shape) - 1} to {len(shape)}",
            )
        if not -1 <= param.num_axes <= len(shape) - axis:
            raise LayerError(
                f"num_axes is {param.num_axes} from axis {axis} of a bottom of shape "
                f"{shape}",
                f"0 to {len(shape) - axis}, or -1 for all",
            )
        end = len(shape) if param.num_axes == -1 else axis + param.num_axes
        replaced = _new_lengths(dims, shape, axis, end)
        self.top_shape = (*shape[:axis], *replaced, *shape[end:])
        if math.prod(self.top_shape) != math.prod(shape):
            raise LayerError(
                f"shape {list(dims)} makes {shape} with {math.prod(shape)} elements "
                f"into {self.top_shape} with {math.prod(self.top_shape)}",
                "a shape of as many elements, or one dim: -1",
            )

    def __call__(self, bottom: jax.Array) -> jax.Array:
        """Applies the layer to one bottom; see the class."""
        return bottom.reshape(self.top_shape)


@register("Tile", bottoms=1, tops=1)
class Tile(nnx.Module):
    """Repeats its bottom tiles times along axis; its gradient is the sum over tiles.

    Args of the call:
      bottom: float32, any shape with at least one axis; by default (N, C, ...).

    Returns:
      float32, of the bottom's shape but for axis, which is tiles times as long.

    Raises:
      LayerError: axis is out of range; tiles is missing or below 1.

    Source: caffe/src/caffe/layers/tile_layer.cpp. Differs: none.
    """

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        bottom_shapes: Sequence[Shape],
        phase: int,
        rngs: nnx.Rngs,
    ) -> None:
        param = layer.tile_param
        self.axis = canonical_axis("axis", param.axis, bottom_shapes[0])
        if not param.HasField("tiles"):
            raise LayerError("tiles is not set", "tiles: 1 or more")
        if param.tiles < 1:
            raise LayerError(f"tiles is {param.tiles}", "1 or more")
        self.tiles = param.tiles

    def __call__(self, bottom: jax.Array) -> jax.Array:
        """Applies the layer to one bottom; see the class."""
        repeats = [1] * bottom.ndim
        repeats[self.axis] = self.tiles
        return jnp.tile(bottom, repeats)


@register("Crop", bottoms=2, tops=1)
class Crop(nnx.Module):
    """Cuts from bottom 0 a piece as long as bottom 1, from axis on.

    top[..., i, j] = bottom_0[..., offset_0 + i, offset_1 + j]. One offset counts for
    all axes from axis on, several are one per axis, none is 0.

    Args of the call:
      bottom_0: float32, any shape with at least one axis; (N, C, H, W) by default.
      bottom_1: of at least as many axes; only its shape counts and it gets no gradient.

    Returns:
      float32, of bottom 0's lengths before axis and of bottom 1's from there on.

    Raises:
      LayerError: axis is out of range; offset has not one value per axis; the piece
        reaches beyond bottom 0.

    Source: caffe/src/caffe/layers/crop_layer.cpp. Differs: none.
    """

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        bottom_shapes: Sequence[Shape],
        phase: int,
        rngs: nnx.Rngs,
    ) -> None:
        param = layer.crop_param
        shape, reference = bottom_shapes
        axis = canonical_axis("axis", param.axis, shape)
        if len(reference) < len(shape):
            raise LayerError(
                f"bottom 1 has shape {reference}, bottom 0 {shape}",
                "a bottom 1 of as many axes",
            )
        count = len(shape) - axis
        if len(param.offset) not in (0, 1, count):
            raise LayerError(
                f"{len(param.offset)} offset for the {count} axes from axis {axis} on",
                "none, 1" + (f", or {count}: one per axis" if count > 1 else ""),
            )
        offset = tuple(param.offset) or (0,)
        self.starts = (0,) * axis + (offset * count)[:count]
        lengths = (*shape[:axis], *reference[axis : len(shape)])
        self.ends = tuple(map(sum, zip(self.starts, lengths, strict=True)))
        for i, (start, end) in enumerate(zip(self.starts, self.ends, strict=True)):
            if end > shape[i]:
                raise LayerError(
                    f"along axis {i} bottom 1 has length {lengths[i]}, which at offset "
                    f"{start} reaches beyond the length {shape[i]} of bottom 0",
                    f"offset and length that add up to {shape[i]} or less",
                )

    def __call__(self, bottom_0: jax.Array, bottom_1: jax.Array) -> jax.Array:
        """Applies the layer to both bottoms; see the class."""
        return jax.lax.slice(bottom_0, self.starts, self.ends)


def _new_lengths(
    dims: tuple[int, ...], shape: Shape, axis: int, end: int
) -> tuple[int, ...]:
    """Returns what Reshape puts in place of shape[axis:end], 0 and -1 filled in."""
    if min(dims, default=0) < -1 or dims.count(-1) > 1:
        raise LayerError(
            f"shape is {list(dims)}",
            "lengths, 0 to copy an axis, and at most one -1 to infer it",
        )
    lengths = list(dims)
    # What -1 stands for is the quotient of these; copied axes cancel.
    left, taken = list(shape[axis:end]), 1
    for i, dim in enumerate(dims):
        if dim > 0:
            taken *= dim
        elif dim == 0:
            if axis + i >= len(shape):
                raise LayerError(
                    f"dim {i} of shape {list(dims)} is 0, but a bottom of shape "
                    f"{shape} has no axis {axis + i} to copy",
                    f"at most {len(shape) - axis} dims for 0 to be among",
                )
            lengths[i] = shape[axis + i]
            if axis + i < end:
                left[i] = 1
            else:
                taken *= lengths[i]
    if -1 in dims:
        if not taken or math.prod(left) % taken:
            raise LayerError(
                f"shape {list(dims)} does not divide a bottom of shape {shape} evenly",
                "lengths whose product divides that of the axes they replace",
            )
        lengths[dims.index(-1)] = math.prod(left) // taken
    return tuple(lengths)
