"""HDF5Output: writes two blobs, batch after batch, to a file.

Follows caffe/src/caffe/layers/hdf5_output_layer.cpp and SaveBlobs there.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence

import h5py
import jax
import numpy as np
from flax import nnx
from jax.experimental import io_callback

from jaxcaffe.errors import DataError, LayerError, describe_layer
from jaxcaffe.layers.registry import register
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.spec import Shape, Slot

_DATASETS = ("data", "label")
_AXES = 4


@register("HDF5Output", bottoms=2, tops=0, no_gradient=(0, 1), host=True)
class HDF5Output(nnx.Module):
    """Writes its bottoms to the datasets "data" and "label" of a new HDF5 file.

    Each forward pass appends its N rows. The file, which hdf5_output_param's file_name
    names from the working directory on, is made by the first pass and is whole and
    closed between passes.

    Args of the call:
      data: (N, ...) float32, at most 4 axes; missing ones are written as length 1.
      label: likewise, with the same N.

    Returns:
      No top.

    Raises:
      LayerError: no file_name, a file of that name, a folder that is not there; more
        than 4 axes; batches of two sizes.
      DataError: of the compiled net, as Python's UserCodeError: the file cannot be
        written.

    Source: caffe/src/caffe/layers/hdf5_output_layer.cpp. Differs: Caffe replaces a file
    that is there, and stops at the second pass.
    """

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        bottom_shapes: Sequence[Shape],
        phase: int,
        rngs: nnx.Rngs,
        slot: Slot | None = None,
    ) -> None:
        for index, shape in enumerate(bottom_shapes):
            if len(shape) > _AXES:
                raise LayerError(
                    f"bottom {index} has shape {shape}", f"at most {_AXES} axes"
                )
        first, second = (shape[0] if shape else 1 for shape in bottom_shapes)
        if first != second:
            raise LayerError(
                f"bottom 0 has {first} items, bottom 1 {second}", "bottoms of one batch"
            )
        slot = slot or Slot()
        if slot.value is None:
            slot.value = _Writer(layer, slot.where)
        self.writer: _Writer = slot.value

    def __call__(self, data: jax.Array, label: jax.Array) -> tuple[()]:
        """Writes data and label; see the class."""
        held = jax.lax.stop_gradient((data, label))
        io_callback(self.writer.append, None, *held, ordered=True)
        return ()


class _Writer:
    """The file of one layer; the rows of a net that is built anew go there too."""

    def __init__(self, layer: caffe_pb2.LayerParameter, where: str) -> None:
        self._path = layer.hdf5_output_param.file_name
        self._where, self._name, self._type = where, layer.name, layer.type
        self._started = False
        if not self._path:
            raise LayerError("there is no file_name", 'file_name: "features.h5"')
        folder = os.path.dirname(self._path)
        if folder and not os.path.isdir(folder):
            raise LayerError(
                f'file_name is "{self._path}", and there is no folder "{folder}"',
                "a file in a folder that exists",
            )
        if os.path.lexists(self._path):
            raise LayerError(*_exists(self._path))

    def append(self, data: jax.Array, label: jax.Array) -> None:
        """Writes the rows of one pass."""
        blobs = [_four_axes(np.asarray(blob)) for blob in (data, label)]
        try:
            if self._started:
                with h5py.File(self._path, "a") as file:
                    for name, blob in zip(_DATASETS, blobs, strict=True):
                        start = len(file[name])
                        file[name].resize(start + len(blob), axis=0)
                        file[name][start:] = blob
            else:
                self._start(blobs)
        except (OSError, KeyError, TypeError, ValueError) as error:
            problem = f'"{self._path}" cannot be written: {error}'
            raise self._error(" ".join(problem.split()), "") from error

    def _start(self, blobs: Sequence[np.ndarray]) -> None:
        if os.path.lexists(self._path):
            raise self._error(*_exists(self._path))
        temporary = f"{self._path}.{secrets.token_hex(4)}.tmp"
        try:
            with h5py.File(temporary, "x") as file:
                for name, blob in zip(_DATASETS, blobs, strict=True):
                    limits = (None, *blob.shape[1:])
                    file.create_dataset(name, data=blob, maxshape=limits)
            os.replace(temporary, self._path)
        finally:
            if os.path.exists(temporary):
                os.remove(temporary)
        self._started = True

    def _error(self, problem: str, accepted: str) -> DataError:
        return DataError(
            describe_layer(self._where, self._name, self._type, problem, accepted)
        )


def _exists(path: str) -> tuple[str, str]:
    return f'file_name is "{path}", which exists', "a new file; move the old one away"


def _four_axes(blob: np.ndarray) -> np.ndarray:
    return blob.reshape(blob.shape + (1,) * (_AXES - blob.ndim))
