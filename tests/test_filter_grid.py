import numpy as np
import pytest

from jaxcaffe.filter_grid import tile_filters


def test_tile_filters_colour_filters_are_red_green_blue():
    weight = np.zeros((2, 3, 1, 2), np.float32)
    weight[0, 0] = 1  # blue
    weight[1, 2, 0, 1] = 1  # red, in the second column
    blue, red, black, white = [0, 0, 255], [255, 0, 0], [0, 0, 0], [255] * 3
    grid = tile_filters(weight)
    assert grid.tolist() == [[blue, blue, white, black, red]]
    assert tile_filters(weight, is_bgr=False).tolist() == [
        [red, red, white, black, blue]
    ]


def test_tile_filters_levels_are_linear_from_lowest_to_highest():
    weight = np.array([-1, 0, 3], np.float32).reshape(3, 1, 1, 1)
    grid = tile_filters(weight, gap=0)
    assert grid[..., 0].ravel().tolist() == [0, 64, 255]
    same = tile_filters(np.ones((1, 1, 2, 2), np.float32))
    assert same.tolist() == np.zeros((2, 2, 3)).tolist()


def test_tile_filters_other_channels_are_a_row_for_each_filter():
    weight = np.arange(2 * 4, dtype=np.float32).reshape(2, 4, 1, 1)
    grid = tile_filters(weight, gap=0)
    assert grid.shape == (2, 4, 3)
    assert (np.diff(grid[0, :, 0].astype(int)) > 0).all()


@pytest.mark.parametrize(
    ("count", "rows", "columns"), [(32, 4, 8), (96, 8, 12), (20, 4, 5), (7, 3, 3)]
)
def test_tile_filters_grid_has_no_hole_if_it_can(count, rows, columns):
    weight = np.zeros((count, 3, 5, 5), np.float32)
    assert tile_filters(weight, gap=2).shape == (7 * rows - 2, 7 * columns - 2, 3)
