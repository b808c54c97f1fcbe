"""Learned blobs, made and filled as a layer's message asks.

Follows caffe/src/caffe/layers/base_conv_layer.cpp, inner_product_layer.cpp and
embed_layer.cpp, LayerSetUp, which do it alike.
"""

from __future__ import annotations

from flax import nnx

from jaxcaffe.layers.fillers import fill
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.spec import Shape

_Filtering = (
    caffe_pb2.ConvolutionParameter
    | caffe_pb2.InnerProductParameter
    | caffe_pb2.EmbedParameter
)


def make_blob(
    filler: caffe_pb2.FillerParameter, rngs: nnx.Rngs, shape: Shape
) -> nnx.Param:
    """Returns a learned blob, float32 of a shape, filled with the next key of rngs.

    Raises:
      LayerError: whatever the filler refuses.
    """
    return nnx.Param(fill(filler, rngs.params(), shape))


def make_weight_and_bias(
    param: _Filtering, rngs: nnx.Rngs, weight_shape: Shape
) -> tuple[nnx.Param, nnx.Param | None]:
    """Returns weight and, unless bias_term is false, bias (num_output,), float32.

    Raises:
      LayerError: whatever a filler refuses.
    """
    weight = make_blob(param.weight_filler, rngs, weight_shape)
    if not param.bias_term:
        return weight, None
    return weight, make_blob(param.bias_filler, rngs, (param.num_output,))
