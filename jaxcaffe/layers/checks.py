"""What several layer types refuse alike: bottoms that do not fit, settings of 0.

Follows caffe/src/caffe/layers/loss_layer.cpp, Reshape, and the checks of the layers
that call these.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from jaxcaffe.errors import LayerError
from jaxcaffe.spec import Shape


def check_images(shape: Shape) -> None:
    """Refuses a bottom without exactly 4 axes, with a LayerError."""
    if len(shape) != 4:
        raise LayerError(
            f"the bottom has shape {shape}", "a bottom of 4 axes, N x C x H x W"
        )


def check_channels(shape: Shape) -> None:
    """Refuses a bottom of fewer than 2 axes, with a LayerError."""
    if len(shape) < 2:
        raise LayerError(
            f"the bottom has shape {shape}", "a bottom of 2 or more axes, N x C"
        )


def check_alike(bottom_shapes: Sequence[Shape]) -> None:
    """Refuses bottoms of different shapes, with a LayerError."""
    for index, shape in enumerate(bottom_shapes):
        if shape != bottom_shapes[0]:
            raise LayerError(
                f"bottom {index} has shape {shape}, bottom 0 {bottom_shapes[0]}",
                "bottoms of one shape",
            )


def check_batch(shape_0: Shape, shape_1: Shape) -> None:
    """Refuses bottoms of unequal first lengths, with a LayerError."""
    if not shape_0 or not shape_1 or shape_0[0] != shape_1[0]:
        raise LayerError(
            f"bottoms have shapes {shape_0} and {shape_1}",
            "two bottoms whose first axes have one length",
        )


def check_count(shape_0: Shape, shape_1: Shape) -> None:
    """Refuses bottoms of unequal numbers of elements, with a LayerError."""
    if math.prod(shape_0) != math.prod(shape_1):
        raise LayerError(
            f"bottoms have shapes {shape_0} and {shape_1}",
            "two bottoms with one number of elements",
        )


def check_positive(field: str, value: int) -> None:
    """Refuses a setting of 0, with a LayerError."""
    if value == 0:
        raise LayerError(f"{field} is 0", f"{field} of 1 or more")


def label_shape(scores: Shape, labels: Shape, axis: int) -> tuple[int, int, int]:
    """Returns (outer, C, inner): what lies before, along and behind the class axis.

    Args:
      scores: classes along axis.
      labels: of any axes; one label for each position along the others of scores.
      axis: 0 to len(scores) - 1.

    Raises:
      LayerError: there are more or fewer labels.
    """
    outer = math.prod(scores[:axis])
    inner = math.prod(scores[axis + 1 :])
    if math.prod(labels) != outer * inner:
        raise LayerError(
            f"labels of shape {labels} do not fit scores of shape {scores}",
            f"{outer * inner} labels: one per position along the axes other than "
            f"{axis}",
        )
    return outer, scores[axis], inner
