"""The Python layer: a class of the user's, called on the host as the net runs.

Follows caffe/include/caffe/layers/python_layer.hpp.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import io_callback

from jaxcaffe.host.instance import Instance
from jaxcaffe.layers.registry import register
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.spec import Shape, Slot


@register("Python", bottoms=(0, None), tops=(0, None), host=True)
class Python(nnx.Module):
    """Does what a class of the user's does, derived from `caffe.Layer`.

    python_param names the module and the class. An object of it is made, set up and
    asked for the shapes of its tops when the net is built first. In every pass of the
    net it is called once, in the order of the file and backward in reverse, each call
    after the one before has ended. Without bottoms it is a source of data.

    Blobs: those that its setup adds, named blob0, blob1 and so on.

    Args of the call:
      bottoms: float32 arrays of any shapes.

    Returns:
      One float32 array per top.

    Raises:
      LayerError: the module or class is not found; setup or reshape fails.
      UserCodeError: of the compiled net, as text in a RuntimeError of JAX's, which
        errors.from_callbacks unwraps: forward or backward fails, or a top has another
        shape than when the net was built.

    Source: caffe/include/caffe/layers/python_layer.hpp. Differs: shapes of tops are
    fixed while the shapes of the bottoms are; learned blobs, and bottoms unless the
    layer works in place, are read-only; share_in_parallel chooses nothing.
    """

    blobs: tuple[str, ...] = ("blob0",)  # whatever the number: it may have some

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        bottom_shapes: Sequence[Shape],
        phase: int,
        rngs: nnx.Rngs,
        slot: Slot | None = None,
    ) -> None:
        slot = slot or Slot()
        # The user's code computes for itself, even where a net is only being traced.
        with jax.ensure_compile_time_eval():
            if slot.value is None:
                slot.value = Instance(layer, phase, slot.where, bottom_shapes)
            self.instance: Instance = slot.value
            self.top_shapes = self.instance.reshape(bottom_shapes)
        for index, array in enumerate(self.instance.blobs):
            setattr(self, f"blob{index}", nnx.Param(jnp.asarray(array)))
        self.blobs = tuple(f"blob{i}" for i in range(len(self.instance.blobs)))

    def __call__(self, *bottoms: jax.Array) -> tuple[jax.Array, ...]:
        """Applies the layer to its bottoms; see the class."""
        blobs = tuple(getattr(self, name).get_value() for name in self.blobs)
        tops = _run_forward(self.instance, self.top_shapes, bottoms, blobs)
        return attach_gradient(self.instance, tops, bottoms, blobs)


class _Saved(NamedTuple):
    """What the backward pass is given, besides the gradients of the tops."""

    perturbed: _Flags
    tops: list[jax.Array]
    bottoms: tuple[jax.Array, ...]
    blobs: tuple[jax.Array, ...]


@jax.tree_util.register_static
class _Flags(tuple[bool, ...]):
    """Which bottoms need a gradient; known while tracing."""


def attach_gradient(
    instance: Instance,
    tops: Sequence[jax.Array],
    bottoms: tuple[jax.Array, ...],
    blobs: tuple[jax.Array, ...],
) -> tuple[jax.Array, ...]:
    """Returns the tops as they are, with the user's backward as their gradient.

    JAX lets no ordered callback stand inside a function with a gradient of its own. So
    the tops are computed first, from constants, and this identity follows.

    Args:
      instance: of the layer.
      tops: what forward has returned for these bottoms and blobs, float32 of any
        shapes.
      bottoms: the layer's, float32 of any shapes.
      blobs: the layer's, in order, float32 of any shapes.

    Returns:
      The tops.
    """

    @jax.custom_vjp
    def attach(
        tops: list[jax.Array],
        bottoms: tuple[jax.Array, ...],
        blobs: tuple[jax.Array, ...],
    ) -> list[jax.Array]:
        return tops

    def attach_forward(tops: Any, bottoms: Any, blobs: Any) -> tuple[Any, _Saved]:
        perturbed = _Flags(bool(bottom.perturbed) for bottom in bottoms)
        arrays = [top.value for top in tops]
        return arrays, _Saved(
            perturbed,
            arrays,
            tuple(bottom.value for bottom in bottoms),
            tuple(blob.value for blob in blobs),
        )

    def attach_backward(saved: _Saved, top_diffs: Any) -> tuple[Any, Any, Any]:
        top_diffs = [
            jnp.zeros(diff.shape, jnp.float32)
            if isinstance(diff, jax.custom_derivatives.SymbolicZero)
            else diff
            for diff in top_diffs
        ]
        propagate_down = saved.perturbed

        def backward(tops: Any, diffs: Any, bottoms: Any, blobs: Any) -> Any:
            return instance.backward(
                propagate_down, *map(_to_host, (tops, diffs, bottoms, blobs))
            )

        like = [
            [jax.ShapeDtypeStruct(array.shape, jnp.float32) for array in arrays]
            for arrays in (saved.bottoms, saved.blobs)
        ]
        bottom_diffs, blob_diffs = io_callback(
            backward,
            tuple(like),
            *(saved.tops, top_diffs, saved.bottoms, saved.blobs),
            ordered=True,
        )
        zeros = [jnp.zeros_like(top) for top in saved.tops]
        return zeros, tuple(bottom_diffs), tuple(blob_diffs)

    attach.defvjp(attach_forward, attach_backward, symbolic_zeros=True)
    return tuple(attach(list(tops), bottoms, blobs))


def _run_forward(
    instance: Instance,
    top_shapes: tuple[Shape, ...],
    bottoms: tuple[jax.Array, ...],
    blobs: tuple[jax.Array, ...],
) -> list[jax.Array]:
    """Calls the user's forward; its tops have no gradient yet."""

    def forward(
        bottoms: tuple[jax.Array, ...], blobs: tuple[jax.Array, ...]
    ) -> list[np.ndarray]:
        return instance.forward(top_shapes, _to_host(bottoms), _to_host(blobs))

    structs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in top_shapes]
    held = jax.lax.stop_gradient((bottoms, blobs))
    return io_callback(forward, structs, *held, ordered=True)


def _to_host(arrays: Sequence[jax.Array]) -> list[np.ndarray]:
    return [np.asarray(array, np.float32) for array in arrays]
