"""Axis numbers of prototxts, which may count from the end.

Follows CanonicalAxisIndex of caffe/include/caffe/blob.hpp.
"""

from __future__ import annotations

from jaxcaffe.errors import LayerError
from jaxcaffe.spec import Shape


def canonical_axis(field: str, value: int, shape: Shape) -> int:
    """Returns the axis counted from the front, 0 to len(shape) - 1.

    Args:
      field: the prototxt's field, for the message.
      value: -len(shape) to len(shape) - 1; negative numbers count from the end.
      shape: of the bottom.

    Raises:
      LayerError: the bottom has no such axis.
    """
    if not -len(shape) <= value < len(shape):
        raise LayerError(
            f"{field} is {value} for a bottom of shape {shape}",
            f"{-len(shape)} to {len(shape) - 1}" if shape else "a bottom with axes",
        )
    return value % len(shape)
