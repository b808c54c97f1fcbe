"""Blobs as pycaffe shows them: numpy arrays that may be kept, read and written.

Follows caffe/src/caffe/syncedmem.cpp and the Blob of caffe/python/caffe/_caffe.cpp.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxcaffe.host.blob_shape import BlobShape, check_lengths
from jaxcaffe.spec import Shape

Fetch = Callable[[], jax.Array]
"""Computes a value when somebody asks for it."""


class _Side:
    """The data or the diff of a blob: one host array and one device array in step.

    Caffe's arrays are the memory that layers write to, so whoever has kept one sees
    every later value, and whatever he writes counts. Here a host array is made when it
    is first asked for and lent out as views; while a view is alive the array is brought
    up to date at once, otherwise only when it is asked for again.
    """

    __slots__ = ("_device", "_fetch", "_host", "_lent", "_room", "_shape", "_stale")

    def __init__(self, shape: Shape) -> None:
        self.renew(shape)

    def renew(self, shape: Shape) -> None:
        """Starts anew with zeros of another shape."""
        self._shape = shape
        self._room = math.prod(shape)  # most values that fit the memory
        self._host: np.ndarray | None = None  # flat
        self._device: jax.Array | None = None
        self._fetch: Fetch | None = None
        self._stale = False  # the host array is older than the device's
        self._lent = False  # somebody may have written to the host array

    def reshape(self, shape: Shape) -> None:
        """Takes another shape on the same memory, where that is large enough."""
        if math.prod(shape) > self._room:
            self.renew(shape)
            return
        if not self.is_zero:
            self._refresh()
            self._device = None
            self._lent = True
        self._shape = shape

    @property
    def is_zero(self) -> bool:
        """Whether nothing has been put here yet."""
        return self._host is None and self._device is None and self._fetch is None

    def lend(self) -> np.ndarray:
        """Returns a writable view of the present values, float32 in C order."""
        view = self._refresh()
        self._lent = True
        return view

    def to_device(self) -> jax.Array:
        """Returns the present values for a program."""
        if self._lent:
            # A copy: the array lent out goes on changing while programs run.
            self._device = jax.device_put(self._view().copy())
            self._fetch = None
            self._stale = False
            self._lent = self._is_kept()
        elif self._fetch is not None:
            self._device, self._fetch = self._fetch(), None
        elif self._device is None:
            self._device = jnp.zeros(self._shape, jnp.float32)
        return self._device

    def was_written(self) -> bool:
        """Returns whether the array lent out differs from what was last put here."""
        if not self._lent or self._host is None:
            return False
        view = self._view()
        if self._device is None:
            return bool(np.any(view))
        return not np.array_equal(view, np.asarray(self._device), equal_nan=True)

    def still_holds(self, value: jax.Array) -> bool:
        """Returns whether the present values are those that a program was given."""
        if self._device is value and not self.was_written():
            return True
        self._refresh()
        return np.array_equal(self._view(), np.asarray(value), equal_nan=True)

    def is_still(self, value: jax.Array) -> bool:
        """Returns whether nothing was put or could be written here since `value`."""
        return self._device is value and not self._lent

    def awaits(self, fetch: Fetch) -> bool:
        """Returns whether `fetch` was put here and nobody has asked since."""
        return self._fetch is fetch and not self._lent

    def let_go(self) -> None:
        """Gives the device's memory back where the host array holds the same values."""
        if self._host is not None and not self._stale:
            self._device = None
            self._lent = True

    def put(self, value: jax.Array | Fetch) -> None:
        """Takes a new value, or what will compute it when it is asked for."""
        if callable(value):
            self._device, self._fetch = None, value
        else:
            self._device, self._fetch = value, None
        self._stale = self._host is not None
        self._lent = False
        if self._is_kept():
            self._refresh()
            self._lent = True

    def _refresh(self) -> np.ndarray:
        """Brings the host array up to date, and returns a view of it."""
        if self._host is None:
            self._host = np.zeros(self._room, np.float32)
            self._stale = self._device is not None or self._fetch is not None
        view = self._view()
        if self._stale:
            np.copyto(view, np.asarray(self.to_device()).reshape(self._shape))
            self._stale = False
        return view

    def _view(self) -> np.ndarray:
        assert self._host is not None
        return self._host[: math.prod(self._shape)].reshape(self._shape)

    def _is_kept(self) -> bool:
        # Views have the array as base. One reference is ours, one is the argument's.
        return self._host is not None and sys.getrefcount(self._host) > 2


class Blob(BlobShape):
    """An array and its gradient, both float32.

    `data` and `diff` are numpy arrays in C order that may be kept and written to, as in
    Caffe: a later forward pass shows in an array taken before it, and reads what was
    written into it. What nobody reads stays on the device.

    Args:
      shape: lengths of the axes.

    Source: caffe/python/caffe/_caffe.cpp, Blob. Differs: none.
    """

    def __init__(self, shape: Shape = ()) -> None:
        self._shape = tuple(int(length) for length in shape)
        self.data_side = _Side(self._shape)
        self.diff_side = _Side(self._shape)

    @property
    def data(self) -> np.ndarray:
        """The values: a view of shape `shape`."""
        return self.data_side.lend()

    @property
    def diff(self) -> np.ndarray:
        """The gradient: a view of shape `shape`."""
        return self.diff_side.lend()

    def reshape(self, *shape: int) -> None:
        """Changes the shape; a net takes it up in its next reshape or forward pass.

        The values stay, in C order, up to the largest count that the blob has had;
        beyond it there are new zeros.

        Source: caffe/src/caffe/blob.cpp, Reshape. Differs: none.
        """
        lengths = check_lengths(shape)
        if lengths != self._shape:
            self._shape = lengths
            self.data_side.reshape(lengths)
            self.diff_side.reshape(lengths)

    def renew(self, shape: Shape) -> None:
        """Takes another shape and new zeros, where a net works its shapes out anew."""
        if shape != self._shape:
            self._shape = shape
            self.data_side.renew(shape)
            self.diff_side.renew(shape)


class SharedBlob(Blob):
    """A blob on another's memory, in a shape of its own (share_mode PERMISSIVE)."""

    def __init__(self, owner: Blob, shape: Shape) -> None:
        self._shape = tuple(shape)
        self._owner = owner

    @property
    def data_side(self) -> _Side:  # type: ignore[override]
        """The owner's, which may come to share another net's."""
        return self._owner.data_side

    @property
    def diff_side(self) -> _Side:  # type: ignore[override]
        """The owner's."""
        return self._owner.diff_side

    @property
    def data(self) -> np.ndarray:
        """The owner's values, in this blob's shape."""
        return self.data_side.lend().reshape(self._shape)

    @property
    def diff(self) -> np.ndarray:
        """The owner's gradient, in this blob's shape."""
        return self.diff_side.lend().reshape(self._shape)

    def reshape(self, *shape: int) -> None:
        """Refuses: the memory is another's."""
        raise ValueError("a shared blob cannot be reshaped; reshape its owner")


class BlobVec(list[Blob]):
    """The learned blobs of a layer; a Python layer adds its own."""

    def add_blob(self, *shape: int) -> None:
        """Appends a blob of zeros."""
        self.append(Blob(shape))
