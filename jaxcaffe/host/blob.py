"""Blobs as the user's Python layers see them: numpy arrays that stay where they are.

Follows the Blob and BlobVec of caffe/python/caffe/_caffe.cpp.
"""

from __future__ import annotations

import math

import numpy as np

from jaxcaffe.host.blob_shape import BlobShape, check_lengths
from jaxcaffe.spec import Shape


class Blob(BlobShape):
    """An array and its gradient, both float32 numpy arrays in C order.

    The arrays stay the same ones until a reshape changes how many values there are, so
    whoever keeps one sees every later value, as in Caffe.

    Args:
      shape: lengths of the axes.
      writable: whether the user may write to `data`; the net would not see it in the
        bottom of a layer that does not work in place.
    """

    def __init__(self, shape: Shape = (), writable: bool = True) -> None:
        self._shape = shape
        self._writable = writable
        self._data: np.ndarray | None = None
        self._diff: np.ndarray | None = None

    @property
    def data(self) -> np.ndarray:
        """The values: a view of shape `shape`."""
        view = self.own_data().view()
        view.flags.writeable = self._writable
        return view

    @property
    def diff(self) -> np.ndarray:
        """The gradient: a view of shape `shape`."""
        return self.own_diff().view()

    def reshape(self, *shape: int) -> None:
        """Changes the shape; with as many values as before, they stay."""
        lengths = check_lengths(shape)
        if math.prod(lengths) == self.count:
            self._data = None if self._data is None else self._data.reshape(lengths)
            self._diff = None if self._diff is None else self._diff.reshape(lengths)
        else:
            self._data = self._diff = None
        self._shape = lengths

    def freeze(self) -> None:
        """Makes `data` read-only to the user from now on."""
        self._writable = False

    def own_data(self) -> np.ndarray:
        """Returns the array behind `data`, always writable."""
        if self._data is None:
            self._data = np.zeros(self._shape, np.float32)
        return self._data

    def own_diff(self) -> np.ndarray:
        """Returns the array behind `diff`."""
        if self._diff is None:
            self._diff = np.zeros(self._shape, np.float32)
        return self._diff


class BlobVec(list[Blob]):
    """A layer's bottoms, its tops, or the learned blobs it adds in setup."""

    def add_blob(self, *shape: int) -> None:
        """Appends a blob of zeros."""
        self.append(Blob())
        self[-1].reshape(*shape)
