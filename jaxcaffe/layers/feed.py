"""Layers without bottoms: those whose tops the caller gives, and DummyData.

Tops that the caller gives, all float32; N is batch_size:

  Data, ImageData, MemoryData, WindowData
              (N, C, H, W) images, (N,) labels, which Data may leave out
  HDF5Data    (N, ...) rows of the data set that is named as the top is
  Input       the shapes of input_param

Follows caffe/src/caffe/layers/base_data_layer.cpp, hdf5_data_layer.cpp, input_layer.cpp
and dummy_data_layer.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
from flax import nnx

from jaxcaffe.errors import LayerError, plural
from jaxcaffe.layers.fillers import fill
from jaxcaffe.layers.registry import register, register_feed
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.spec import Shape

register_feed("Data", tops=(1, 2))
register_feed("HDF5Data", tops=(1, None))
register_feed("ImageData", tops=2)
register_feed("Input", tops=(1, None))
register_feed("MemoryData", tops=2)
register_feed("WindowData", tops=2)


@register("DummyData", bottoms=0, tops=(1, None), random=True)
class DummyData(nnx.Module):
    """Makes its tops with fillers, anew in each forward pass.

    data_filler is given once, once per top or not at all (constant 0); shape, or num,
    channels, height and width, once or once per top.

    Args of the call:
      key: JAX random key of this forward pass.

    Returns:
      One float32 array per top.

    Raises:
      LayerError: a wrong number of fillers or shapes; both shape and the four old
        fields; whatever the filler refuses.

    Source: caffe/src/caffe/layers/dummy_data_layer.cpp. Differs: random numbers come
    from JAX's generator.
    """

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        bottom_shapes: Sequence[Shape],
        phase: int,
        rngs: nnx.Rngs,
    ) -> None:
        param = layer.dummy_data_param
        tops = len(layer.top)
        fillers = param.data_filler or [caffe_pb2.FillerParameter(type="constant")]
        # As bytes: a module's settings must be hashable, messages are not.
        self.data_filler = tuple(
            filler.SerializeToString()
            for filler in _one_per_top("data_filler", fillers, tops)
        )
        self.shape = _shapes(param, tops)
        jax.eval_shape(self, key=rngs.params())  # lets the fillers refuse now

    def __call__(self, *, key: jax.Array) -> tuple[jax.Array, ...]:
        """Makes the tops; see the class."""
        keys = jax.random.split(key, len(self.shape))
        return tuple(
            fill(caffe_pb2.FillerParameter.FromString(filler), top_key, shape)
            for filler, top_key, shape in zip(
                self.data_filler, keys, self.shape, strict=True
            )
        )


def _shapes(param: caffe_pb2.DummyDataParameter, tops: int) -> tuple[Shape, ...]:
    old = [
        (field, getattr(param, field))
        for field in ("num", "channels", "height", "width")
    ]
    given = [field for field, values in old if values]
    if given and param.shape:
        raise LayerError(
            f"shape and {', '.join(given)} are both set",
            "shape, or num with channels, height and width",
        )
    if given:
        lengths = [_one_per_top(field, values, tops) for field, values in old]
        return tuple(zip(*lengths, strict=True))
    return tuple(tuple(shape.dim) for shape in _one_per_top("shape", param.shape, tops))


def _one_per_top(field: str, values: Sequence, tops: int) -> list:
    if len(values) not in (1, tops):
        raise LayerError(
            f"{field} is given {len(values)} times for {plural(tops, 'top')}",
            f"{field} once, or {tops} times",
        )
    return [values[0]] * tops if len(values) == 1 else list(values)
