"""The shape of a blob, by axes and by Caffe's names for the first four.

Follows the Blob of caffe/python/caffe/_caffe.cpp.
"""

from __future__ import annotations

import math

from jaxcaffe.spec import Shape


class BlobShape:
    """What a blob says of its shape, which a subclass keeps in `_shape`."""

    _shape: Shape

    @property
    def shape(self) -> Shape:
        """Lengths of the axes."""
        return self._shape

    @property
    def count(self) -> int:
        """Number of values."""
        return math.prod(self._shape)

    @property
    def num(self) -> int:
        """Length of the first axis of a blob of at most four."""
        return self._legacy(0)

    @property
    def channels(self) -> int:
        """Length of the second axis; 1 where there is none."""
        return self._legacy(1)

    @property
    def height(self) -> int:
        """Length of the third axis; 1 where there is none."""
        return self._legacy(2)

    @property
    def width(self) -> int:
        """Length of the fourth axis; 1 where there is none."""
        return self._legacy(3)

    def _legacy(self, axis: int) -> int:
        if len(self._shape) > 4:
            raise ValueError(
                f"a blob of {len(self._shape)} axes has no num, channels, height and "
                "width"
            )
        return self._shape[axis] if axis < len(self._shape) else 1


def check_lengths(shape: tuple[int, ...]) -> Shape:
    """Returns the lengths that a reshape asks for.

    Raises:
      ValueError: one of them is negative.
    """
    lengths = tuple(int(length) for length in shape)
    if any(length < 0 for length in lengths):
        raise ValueError(f"shape {lengths} has a negative length")
    return lengths
