"""The class that the user's Python layers derive from, `caffe.Layer`.

Follows caffe/include/caffe/layers/python_layer.hpp and the Layer of
caffe/python/caffe/_caffe.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxcaffe.host.blob import BlobVec
from jaxcaffe.proto import caffe_pb2


class Layer:
    """A layer in Python: derive from it, and define what the layer does.

    A class defines `forward`, `reshape` unless `setup` shapes the tops once and for
    all, and `backward` if a gradient is to pass. All get BlobVec: `bottom[i].data`,
    `top[i].data[...] = `, `top[i].reshape(...)`, `bottom[i].diff[...] = `.

    Attributes:
      blobs: the learned blobs, which `setup` adds: `self.blobs.add_blob(3, 4)`.
      phase: caffe.TRAIN or caffe.TEST.
      param_str: of the layer's python_param; `param_str_` is its older name.

    Source: caffe/include/caffe/layers/python_layer.hpp. Differs: a setup or reshape
    that is left out does nothing.
    """

    blobs: BlobVec
    phase: int
    param_str: str

    def __new__(cls, *args: Any, **kwargs: Any) -> Layer:
        """Makes the attributes, as a class need not call our __init__."""
        layer = super().__new__(cls)
        layer.blobs = BlobVec()
        layer.phase = caffe_pb2.TRAIN
        layer.param_str = ""
        return layer

    def __init__(self, layer_param: caffe_pb2.LayerParameter) -> None:
        self.layer_param = layer_param

    @property
    def param_str_(self) -> str:
        """The older name of `param_str`."""
        return self.param_str

    @property
    def type(self) -> str:
        """Caffe's type string."""
        return "Python"

    def setup(self, bottom: BlobVec, top: BlobVec) -> None:
        """Reads param_str, adds learned blobs; called once, when the net is built."""

    def reshape(self, bottom: BlobVec, top: BlobVec) -> None:
        """Shapes the tops by the bottoms; called after setup and before forward."""

    def forward(self, bottom: BlobVec, top: BlobVec) -> None:
        """Computes `top[i].data`."""
        raise NotImplementedError(f"{type(self).__name__} does not define forward")

    def backward(
        self, top: BlobVec, propagate_down: Sequence[bool], bottom: BlobVec
    ) -> None:
        """Computes `bottom[i].diff` where propagate_down[i], and of its own blobs."""
        raise NotImplementedError(f"{type(self).__name__} does not define backward")
