"""Layers that join, cut, share or drop blobs without changing an element.

Follows caffe/src/caffe/layers/concat_layer.cpp, slice_layer.cpp, split_layer.cpp and
silence_layer.cpp.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from jaxcaffe.errors import LayerError
from jaxcaffe.layers.axes import canonical_axis
from jaxcaffe.layers.registry import register
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.spec import Shape


@register("Concat", bottoms=(1, None), tops=1)
class Concat(nnx.Module):
    """Puts its bottoms one after the other along axis.

    Args of the call:
      bottoms: float32 arrays whose shapes differ along axis at most.

    Returns:
      float32, of a bottom's shape but for axis, which has the sum of their lengths.

    Raises:
      LayerError: axis (or its old name concat_dim) is out of range, or both are set;
        shapes differ elsewhere.

    Source: caffe/src/caffe/layers/concat_layer.cpp. Differs: none.
    """

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        bottom_shapes: Sequence[Shape],
        phase: int,
        rngs: nnx.Rngs,
    ) -> None:
        param = layer.concat_param
        first = bottom_shapes[0]
        self.axis = _read_axis(param, "concat_dim", first)
        for i, shape in enumerate(bottom_shapes):
            if _without(shape, self.axis) != _without(first, self.axis):
                raise LayerError(
                    f"bottom {i} has shape {shape}, bottom 0 {first}",
                    f"bottoms of one shape except along axis {self.axis}",
                )

    def __call__(self, *bottoms: jax.Array) -> jax.Array:
        """Applies the layer to its bottoms; see the class."""
        return jnp.concatenate(bottoms, self.axis)


@register("Slice", bottoms=1, tops=(1, None))
class Slice(nnx.Module):
    """Cuts its bottom along axis into one piece per top.

    The cuts are before the indices slice_point; without any, all pieces are equal.

    Args of the call:
      bottom: float32, any shape with at least one axis.

    Returns:
      One float32 array per top, of the bottom's shape but for axis.

    Raises:
      LayerError: axis (or its old name slice_dim) is out of range, or both are set;
        slice_point has not one value per cut, or they do not rise within the axis;
        without it, the tops do not divide the axis evenly.

    Source: caffe/src/caffe/layers/slice_layer.cpp. Differs: a last piece of length 0
    is refused.
    """

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        bottom_shapes: Sequence[Shape],
        phase: int,
        rngs: nnx.Rngs,
    ) -> None:
        param = layer.slice_param
        shape, tops = bottom_shapes[0], len(layer.top)
        self.axis = _read_axis(param, "slice_dim", shape)
        length = shape[self.axis]
        self.slice_point = tuple(param.slice_point)
        if not self.slice_point:
            if not length or length % tops:
                raise LayerError(
                    f"{tops} tops do not divide axis {self.axis} of length {length} "
                    "evenly",
                    f"slice_point, or a number of tops that divides {length}",
                )
            piece = length // tops
            self.slice_point = tuple(range(piece, length, piece))
        elif len(self.slice_point) != tops - 1:
            raise LayerError(
                f"{len(self.slice_point)} slice_point for {tops} tops",
                f"{tops - 1}: one less than tops",
            )
        borders = (0, *self.slice_point, length)
        if any(a >= b for a, b in itertools.pairwise(borders)):
            raise LayerError(
                f"slice_point {list(self.slice_point)} does not cut an axis of length "
                f"{length} into pieces",
                f"rising values from 1 to {length - 1}",
            )

    def __call__(self, bottom: jax.Array) -> tuple[jax.Array, ...]:
        """Applies the layer to one bottom; see the class."""
        return tuple(jnp.split(bottom, self.slice_point, self.axis))


@register("Split", bottoms=1, tops=(1, None), in_place=False)
class Split(nnx.Module):
    """Gives its bottom to each top; the bottom's gradient is the sum of theirs.

    Args of the call:
      bottom: float32, any shape.

    Returns:
      The bottom once per top.

    Source: caffe/src/caffe/layers/split_layer.cpp. Differs: none.
    """

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        bottom_shapes: Sequence[Shape],
        phase: int,
        rngs: nnx.Rngs,
    ) -> None:
        self.tops = len(layer.top)

    def __call__(self, bottom: jax.Array) -> tuple[jax.Array, ...]:
        """Applies the layer to one bottom; see the class."""
        return (bottom,) * self.tops


@register("Silence", bottoms=(1, None), tops=0)
class Silence(nnx.Module):
    """Consumes its bottoms, so that they are no outputs of the net.

    Args of the call:
      bottoms: float32, any shapes. They get no gradient.

    Returns:
      Nothing: an empty tuple.

    Source: caffe/src/caffe/layers/silence_layer.cpp. Differs: none.
    """

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        bottom_shapes: Sequence[Shape],
        phase: int,
        rngs: nnx.Rngs,
    ) -> None:
        pass

    def __call__(self, *bottoms: jax.Array) -> tuple[jax.Array, ...]:
        """Applies the layer to its bottoms; see the class."""
        return ()


def _read_axis(
    param: caffe_pb2.ConcatParameter | caffe_pb2.SliceParameter,
    legacy: str,
    shape: Shape,
) -> int:
    """Returns the axis, given as `axis` or by its old name, from the front."""
    if not param.HasField(legacy):
        return canonical_axis("axis", param.axis, shape)
    if param.HasField("axis"):
        raise LayerError(f"axis and {legacy} are both set", f"axis, or {legacy}")
    value = getattr(param, legacy)
    # The old fields are unsigned: a negative number never reaches us.
    if value >= len(shape):
        raise LayerError(
            f"{legacy} is {value} for a bottom of shape {shape}",
            f"0 to {len(shape) - 1}" if shape else "a bottom with axes",
        )
    return value


def _without(shape: Shape, axis: int) -> Shape:
    return (len(shape), *shape[:axis], *shape[axis + 1 :])
