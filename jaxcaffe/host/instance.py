"""One object of a user's Python layer: set up once, called with numpy arrays.

Follows caffe/include/caffe/layers/python_layer.hpp.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxcaffe.errors import LayerError, UserCodeError, describe_layer
from jaxcaffe.host.blob import Blob, BlobVec
from jaxcaffe.host.layer import Layer
from jaxcaffe.host.modules import blame, import_class, user_code
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.spec import Shape


class Instance:
    """An object of the user's class, with its blobs.

    Bottoms and tops keep their memory from call to call, as Caffe's blobs do, so what a
    forward pass does not write stays as it was.

    Args:
      layer: of type Python.
      phase: caffe_pb2.TRAIN or caffe_pb2.TEST.
      where: "file:line" of the layer; the file's folder is searched for its module.
      bottom_shapes: one shape per bottom, which `setup` and `reshape` see.

    Attributes:
      blobs: what `setup` put into each learned blob; float32.
      failure: the last error of the user's code while the net ran. (What fails while
        it is built is the cause of the LayerError.)

    Raises:
      LayerError: the module or class is not there or is no caffe.Layer; setup or
        reshape fails.

    Source: caffe/include/caffe/layers/python_layer.hpp, LayerSetUp and Reshape.
    Differs: learned blobs and, unless a top has their name, bottoms are read-only to
    the user's code.
    """

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        phase: int,
        where: str,
        bottom_shapes: Sequence[Shape],
    ) -> None:
        self.failure: Exception | None = None
        self._layer = layer
        self._where = where
        self._folders = ("", os.path.dirname(where))
        param = layer.python_param
        for field in ("module", "layer"):
            if not getattr(param, field):
                raise LayerError(
                    f"python_param has no {field}",
                    'python_param { module: "my_layers" layer: "MyLayer" }',
                )
        class_ = import_class(param.module, param.layer, self._folders)
        if not issubclass(class_, Layer):
            raise LayerError(
                f'class "{param.layer}" of module "{param.module}" is no caffe.Layer',
                f"class {param.layer}(caffe.Layer)",
            )
        self._file = getattr(sys.modules.get(class_.__module__), "__file__", None)
        self._bottom_shapes = tuple(bottom_shapes)
        blobs = {
            name: Blob(shape, writable=name in layer.top)
            for name, shape in zip(layer.bottom, bottom_shapes, strict=True)
        }
        self._bottoms = BlobVec(blobs[name] for name in layer.bottom)
        # In place, both are one blob, as in Caffe.
        self._tops = BlobVec(blobs.setdefault(name, Blob()) for name in layer.top)
        self._user: Layer = self._build(class_, layer)
        self._user.param_str = param.param_str
        self._user.phase = phase
        self._build(self._user.setup, self._bottoms, self._tops)
        self._build(self._user.reshape, self._bottoms, self._tops)
        self.blobs = tuple(blob.own_data().copy() for blob in self._user.blobs)
        for blob in self._user.blobs:
            blob.freeze()

    @property
    def user(self) -> Layer:
        """The user's own object."""
        return self._user

    def reshape(self, bottom_shapes: Sequence[Shape]) -> tuple[Shape, ...]:
        """Returns the shapes of the tops for bottoms of other shapes.

        Raises:
          LayerError: the user's reshape fails.
        """
        if self._bottom_shapes != tuple(bottom_shapes):
            self._shape_bottoms(bottom_shapes)
            self._build(self._user.reshape, self._bottoms, self._tops)
        return tuple(top.shape for top in self._tops)

    def forward(
        self,
        top_shapes: Sequence[Shape],
        bottoms: Sequence[np.ndarray],
        blobs: Sequence[np.ndarray],
    ) -> list[np.ndarray]:
        """Runs the user's reshape and forward.

        Args:
          top_shapes: the shapes that the compiled net expects.
          bottoms: one float32 array per bottom.
          blobs: one float32 array per learned blob.

        Returns:
          One float32 array per top.

        Raises:
          UserCodeError: the user's code fails, or gives tops of other shapes.
        """
        self._enter(bottoms, blobs)
        self._call(self._user.reshape, self._bottoms, self._tops)
        self._check_shapes(top_shapes, "reshape")
        self._call(self._user.forward, self._bottoms, self._tops)
        self._check_shapes(top_shapes, "forward")
        return [top.own_data().copy() for top in self._tops]

    def backward(
        self,
        propagate_down: Sequence[bool],
        tops: Sequence[np.ndarray],
        top_diffs: Sequence[np.ndarray],
        bottoms: Sequence[np.ndarray],
        blobs: Sequence[np.ndarray],
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Runs the user's backward; diffs start at zero.

        Args:
          propagate_down: which bottoms need a gradient.
          tops: what forward returned for these bottoms and blobs.
          top_diffs: the gradient of each top.
          bottoms: as in forward.
          blobs: as in forward.

        Returns:
          The gradients of the bottoms, zero where none is needed, and of the learned
          blobs.

        Raises:
          UserCodeError: the user's code fails.
        """
        self._enter(bottoms, blobs)
        for top, shape in zip(self._tops, map(np.shape, tops), strict=True):
            if top.shape != shape:
                top.reshape(*shape)
        for blob in (*self._bottoms, *self._user.blobs):
            blob.own_diff()[...] = 0
        for top, data, diff in zip(self._tops, tops, top_diffs, strict=True):
            np.copyto(top.own_data(), data)
            np.copyto(top.own_diff(), diff)
        self._call(self._user.backward, self._tops, list(propagate_down), self._bottoms)
        return (
            [
                bottom.own_diff().copy() if down else np.zeros(bottom.shape, np.float32)
                for bottom, down in zip(self._bottoms, propagate_down, strict=True)
            ],
            [blob.own_diff().copy() for blob in self._user.blobs],
        )

    def _shape_bottoms(self, shapes: Sequence[Shape]) -> None:
        self._bottom_shapes = tuple(shapes)
        for bottom, shape in zip(self._bottoms, shapes, strict=True):
            if bottom.shape != shape:
                bottom.reshape(*shape)

    def _enter(
        self, bottoms: Sequence[np.ndarray], blobs: Sequence[np.ndarray]
    ) -> None:
        self._shape_bottoms([bottom.shape for bottom in bottoms])
        for blob, array in zip(self._bottoms, bottoms, strict=True):
            np.copyto(blob.own_data(), array)
        for blob, array in zip(self._user.blobs, blobs, strict=True):
            np.copyto(blob.own_data(), array)

    def _build(self, call: Callable[..., Any], *args: Any) -> Any:
        """Calls the user's code while the net is built."""
        try:
            with user_code(self._folders):
                return call(*args)
        except Exception as error:
            raise LayerError(*blame(error, self._file)) from error

    def _call(self, call: Callable[..., Any], *args: Any) -> None:
        """Calls the user's code while the net runs."""
        try:
            with user_code(self._folders):
                call(*args)
        except Exception as error:
            self.failure = error
            raise self._error(*blame(error, self._file)) from error

    def _check_shapes(self, top_shapes: Sequence[Shape], method: str) -> None:
        for name, top, shape in zip(
            self._layer.top, self._tops, top_shapes, strict=True
        ):
            if top.shape != shape:
                raise self._error(
                    f'{method} gave top "{name}" shape {top.shape}, where the compiled '
                    f"net has {shape}",
                    "tops whose shapes follow from those of the bottoms; images of "
                    "one size, padded or resized",
                )

    def _error(self, problem: str, accepted: str) -> UserCodeError:
        name, type_ = self._layer.name, self._layer.type
        return UserCodeError(
            describe_layer(self._where, name, type_, problem, accepted)
        )
