"""Maps between tops' coordinates, worked out by hand, and the crops they give."""

import numpy as np
import pytest

from jaxcaffe.errors import CaffeError
from jaxcaffe.pycaffe import coord_map as maps
from jaxcaffe.pycaffe.coord_map import coord_map_from_to, crop
from jaxcaffe.pycaffe.net_spec import layers as L  # noqa: N812 - as in Caffe
from jaxcaffe.pycaffe.net_spec import to_proto


@pytest.fixture
def data():
    return L.Input(shape={"dim": [1, 3, 64, 64]})


def check(found, axis, scale, shift):
    assert found[0] == axis
    np.testing.assert_allclose(np.atleast_1d(found[1]), scale, rtol=1e-12)
    np.testing.assert_allclose(np.atleast_1d(found[2]), shift, rtol=1e-12)


def test_convolution_maps_a_pixel_to_where_its_window_is_centred(data):
    # Window j covers the pixels 2 j - 1 ... 2 j + 3, their middle is 2 j + 1.
    top = L.Convolution(data, kernel_size=5, stride=2, pad=1)
    check(coord_map_from_to(data, top), 1, [0.5], [-0.5])
    check(coord_map_from_to(top, data), 1, [2], [1])


def test_dilation_widens_the_window(data):
    top = L.Convolution(data, kernel_size=3, dilation=4, stride=2)
    check(coord_map_from_to(top, data), 1, [2], [4])


def test_deconvolution_is_the_convolution_the_other_way(data):
    params = {"kernel_size": 7, "stride": 3, "pad": 2}
    there = coord_map_from_to(data, L.Deconvolution(data, convolution_param=params))
    back = coord_map_from_to(L.Convolution(data, **params), data)
    check(there, 1, back[1], back[2])
    check(there, 1, [3], [1])


@pytest.mark.parametrize("own", [True, False])
def test_pooling_is_mapped_whichever_way_its_parameters_are_given(data, own):
    params = {"kernel_size": 3, "stride": 2, "pad": 1}
    top = L.Pooling(data, **(params if own else {"pooling_param": params}))
    check(coord_map_from_to(top, data), 1, [2], [0])


def test_rows_and_columns_are_mapped_by_themselves(data):
    top = L.Convolution(data, kernel_size=[3, 5], stride=[1, 2], pad=[0, 4])
    check(coord_map_from_to(top, data), 1, [1, 2], [1, -2])


def test_layers_in_a_row_are_composed(data):
    top = L.ReLU(L.Pooling(data, kernel_size=2, stride=2))
    top = L.Deconvolution(top, convolution_param={"kernel_size": 4, "stride": 2})
    # A pixel of the pooling lies on 2 i + 1/2, and is spread around 2 i + 3/2.
    check(coord_map_from_to(top, data), 1, [1], [-1])


def test_common_bottom_need_not_be_one_of_the_two(data):
    common = L.ReLU(data)
    first = L.Convolution(common, kernel_size=3)
    second = L.Convolution(common, kernel_size=7)
    check(coord_map_from_to(first, second), 1, [1], [-2])


@pytest.mark.parametrize("type_", maps.PASS_THROUGH_LAYERS)
def test_layer_that_keeps_pixels_maps_them_onto_themselves(data, type_):
    assert coord_map_from_to(getattr(L, type_)(data), data) == (None, 1, 0)


def test_crop_layer_shifts_and_hides_its_second_bottom(data):
    other = L.Input()
    top = L.Crop(data, other, axis=2, offset=[3, 5])
    check(coord_map_from_to(top, data), 1, [1], [3, 5])
    with pytest.raises(RuntimeError, match="Could not compute map between tops"):
        coord_map_from_to(top, other)


def test_crop_cuts_what_lies_over_the_other_top(data):
    small = L.Pooling(
        L.Convolution(data, kernel_size=3, pad=20), kernel_size=4, stride=4
    )
    large = L.Deconvolution(
        small, convolution_param={"num_output": 2, "kernel_size": 8, "stride": 4}
    )
    layer = to_proto(crop(large, data)).layer[-1]
    assert list(layer.bottom) == ["Deconvolution1", "Input1"]
    # 20 of the padding less 1 for the window, and 2 more from spreading.
    assert (layer.crop_param.axis, list(layer.crop_param.offset)) == (2, [21])


def test_crop_of_tops_with_like_pixels_cuts_rows_and_columns(data):
    layer = to_proto(crop(L.ReLU(data), data)).layer[-1]
    assert (layer.crop_param.axis, list(layer.crop_param.offset)) == (2, [0])


def upsample(bottom, kernel_size, stride, pad=0):
    params = {"kernel_size": kernel_size, "stride": stride, "pad": pad}
    return L.Deconvolution(bottom, convolution_param=params)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ((4, 4), r"scale mismatch on crop \(a = \[0\.5\]\). Accepted: a = 1"),
        ((4, 2, 3), r"cannot crop negative offset \(b = \[2\.\]\)"),
        ((5, 2), r"cannot crop noninteger offset \(b = \[-1\.5\]\)"),
    ],
)
def test_crop_that_cannot_be_raises_as_in_caffe(data, params, message):
    small = L.Pooling(data, kernel_size=2, stride=2)
    with pytest.raises(AssertionError, match=message) as caught:
        crop(upsample(small, *params), data)
    assert isinstance(caught.value, CaffeError)


@pytest.mark.parametrize(
    "stop",
    [
        lambda bottom: L.InnerProduct(bottom, num_output=3),
        lambda bottom: L.Pooling(bottom, global_pooling=True),
        lambda bottom: L.Concat(bottom),
    ],
)
def test_tops_that_no_spatial_layers_join_raise(data, stop):
    with pytest.raises(RuntimeError, match="connected by spatial layers"):
        coord_map_from_to(stop(data), data)


def test_layers_of_other_axes_raise(data):
    first = L.Convolution(data, kernel_size=3)
    second = L.Convolution(first, kernel_size=3, axis=2)
    with pytest.raises(maps.AxisMismatchException, match="after axis 2 and axis 1"):
        coord_map_from_to(second, data)


@pytest.mark.parametrize("field", ["kernel_h", "pad_w", "stride_h"])
def test_older_names_of_sizes_raise(data, field):
    top = L.Convolution(data, **{"kernel_size": 3, field: 1})
    with pytest.raises(AssertionError, match=f"legacy _h/_w params: {field}. Accepted"):
        coord_map_from_to(top, data)
