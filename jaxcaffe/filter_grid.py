"""Filters of a convolution side by side, as one image.

Follows vis_square of caffe/examples/00-classification.ipynb.
"""

from __future__ import annotations

import math

import numpy as np


def tile_filters(
    weight: np.ndarray, *, is_bgr: bool = True, gap: int = 1
) -> np.ndarray:
    """Returns filters in rows, as near to a square as their number lets them be.

    Gray levels are linear in the weights, 0 for the lowest of all filters and 255 for
    the highest.

    Args:
      weight: (K, C, H, W), the weights of K filters. Three channels are shown as
        colours; of any other number each channel is a gray image of its own, a row of
        the grid for each filter.
      is_bgr: whether three channels are blue, green, red, and not red, green, blue.
      gap: white pixels between filters.

    Returns:
      (rows, columns, 3) uint8, red, green, blue.

    Source: caffe/examples/00-classification.ipynb, vis_square. Differs: the grid need
    not be square; channels of other than colour filters are shown too.
    """
    low, high = float(weight.min()), float(weight.max())
    shades = np.rint((weight - low) * (255 / ((high - low) or 1))).astype(np.uint8)
    if weight.shape[1] == 3:
        tiles = shades[:, ::-1] if is_bgr else shades
        columns = _columns(len(tiles))
    else:
        count, channels, height, width = shades.shape
        tiles = shades.reshape(count * channels, 1, height, width).repeat(3, axis=1)
        columns = channels if channels > 1 else _columns(count)
    height, width = tiles.shape[2:]
    rows = math.ceil(len(tiles) / columns)
    shape = (rows * (height + gap) - gap, columns * (width + gap) - gap, 3)
    grid = np.full(shape, 255, np.uint8)
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        top, left = row * (height + gap), column * (width + gap)
        grid[top : top + height, left : left + width] = tile.transpose(1, 2, 0)
    return grid


def _columns(count: int) -> int:
    """Returns how many columns leave no gap in the last row, if near a square."""
    least = math.ceil(math.sqrt(count))
    even = (c for c in range(least, 2 * least) if count % c == 0)
    return next(even, least)
