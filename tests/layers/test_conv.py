import jax.numpy as jnp
import numpy as np
import pytest

from jaxcaffe.errors import LayerError

IDENTITY = 'weight_filler { type: "constant" value: 1 }'


def _layer(fields):
    return f'type: "Convolution" convolution_param {{ {fields} }}'


def test_convolution_hand_stride_and_pad_sum_the_padded_windows(make_layer):
    # 1 2 3     windows of 2 x 2, stride 2, pad 1:  1 | 2+3
    # 4 5 6                                         4+7 | 5+6+8+9, + bias 0.5
    # 7 8 9
    layer = make_layer(
        _layer(
            f"num_output: 1 kernel_size: 2 stride: 2 pad: 1 {IDENTITY}"
            "bias_filler { value: 0.5 }"
        ),
        (1, 1, 3, 3),
    )
    top = layer(jnp.arange(1.0, 10).reshape(1, 1, 3, 3))
    np.testing.assert_allclose(top, [[[[1.5, 5.5], [11.5, 28.5]]]])


def test_convolution_filter_is_not_flipped(make_layer):
    layer = make_layer(
        _layer("num_output: 1 kernel_size: 2 bias_term: false"), (1, 1, 2, 2)
    )
    layer.weight.set_value(jnp.asarray([[[[1.0, 10.0], [100.0, 1000.0]]]]))
    top = layer(jnp.asarray([[[[1.0, 2.0], [3.0, 4.0]]]]))
    np.testing.assert_allclose(top, [[[[4321.0]]]])


def test_convolution_two_bottoms_share_the_weight(make_layer):
    layer = make_layer(
        _layer(f"num_output: 2 kernel_size: 1 {IDENTITY}"), (1, 3, 2, 2), (1, 3, 2, 2)
    )
    ones = jnp.ones((1, 3, 2, 2))
    tops = layer(ones, 2 * ones)
    assert len(tops) == 2
    np.testing.assert_allclose(tops[0], np.full((1, 2, 2, 2), 3.0))
    np.testing.assert_allclose(tops[1], np.full((1, 2, 2, 2), 6.0))


def test_convolution_group_sees_its_channels_only(make_layer):
    layer = make_layer(
        _layer(f"num_output: 2 kernel_size: 1 group: 2 {IDENTITY}"), (1, 4, 1, 1)
    )
    assert layer.weight.get_value().shape == (2, 2, 1, 1)
    top = layer(jnp.asarray([1.0, 2.0, 10.0, 20.0]).reshape(1, 4, 1, 1))
    np.testing.assert_allclose(top.ravel(), [3.0, 30.0])


def test_convolution_h_and_w_fields_set_rows_and_columns(make_layer):
    fields = "kernel_h: 3 kernel_w: 1 stride_h: 2 stride_w: 1 pad_h: 1 pad_w: 0"
    layer = make_layer(_layer(f"num_output: 1 {fields} {IDENTITY}"), (1, 1, 5, 4))
    top = layer(jnp.ones((1, 1, 5, 4)))
    np.testing.assert_allclose(top[0, 0], [[2.0] * 4, [3.0] * 4, [2.0] * 4])


def test_convolution_pad_h_alone_leaves_columns_unpadded(make_layer):
    layer = make_layer(_layer("num_output: 1 kernel_size: 1 pad_h: 2"), (1, 1, 3, 3))
    assert layer(jnp.ones((1, 1, 3, 3))).shape == (1, 1, 7, 3)


def test_convolution_without_bias_term_has_no_bias(make_layer):
    layer = make_layer(
        _layer("num_output: 1 kernel_size: 1 bias_term: false"), (1, 1, 2, 2)
    )
    assert layer.bias is None


def test_convolution_stride_rounds_a_filter_that_sticks_out_towards_zero(make_layer):
    # (2 - 3) / 2 is 0 in C++, so Caffe makes one top pixel and reads zeros beyond.
    layer = make_layer(
        _layer(f"num_output: 1 kernel_size: 3 stride: 2 {IDENTITY}"), (1, 1, 2, 2)
    )
    np.testing.assert_allclose(layer(jnp.ones((1, 1, 2, 2))), [[[[4.0]]]])


def test_convolution_engine_and_im2col_hint_change_nothing(make_layer):
    shape = (1, 1, 4, 4)
    bottom = jnp.arange(16.0).reshape(shape)
    fields = f"num_output: 1 kernel_size: 3 dilation: 1 {IDENTITY}"
    plain = make_layer(_layer(fields), shape)
    hinted = make_layer(_layer(f"{fields} engine: CUDNN force_nd_im2col: true"), shape)
    np.testing.assert_array_equal(plain(bottom), hinted(bottom))


def test_convolution_golden_case_matches_caffe(run_golden, golden_case):
    run_golden(golden_case)


@pytest.mark.parametrize(
    ("fields", "shape"),
    [
        ("kernel_size: 3 stride: 2 pad: 1", (2, 4, 5, 4)),
        ("kernel_size: 3 group: 2 dilation: 2 pad: 2", (2, 4, 5, 4)),
        ("kernel_size: 2 group: 4", (2, 4, 3, 3)),
        ("kernel_size: 2", (2, 4, 3, 3, 3)),
    ],
)
def test_convolution_gradient_is_that_of_differences(
    make_layer, check_gradient, fields, shape
):
    layer = make_layer(_layer(f"num_output: 4 {fields}"), shape)
    draw = np.random.RandomState(0)
    weight = 0.3 * draw.randn(*layer.weight.get_value().shape)
    layer.weight.set_value(jnp.asarray(weight, jnp.float32))
    check_gradient(layer, draw.randn(*shape).astype(np.float32))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("kernel_size: 3", "num_output is 0"),
        ("num_output: 2", "no kernel_size.*Accepted: sizes above 0"),
        ("num_output: 2 kernel_h: 3", r"kernel sizes are \(3, 0\)"),
        ("num_output: 2 kernel_size: 3 kernel_h: 3", "kernel_size and kernel_h are"),
        ("num_output: 2 kernel_size: 3 pad: 1 pad_w: 1", "pad and pad_w are both set"),
        ("num_output: 2 kernel_size: 3 stride: 0", "stride is 0"),
        ("num_output: 2 kernel_size: 3 stride_h: 2", "stride is 0"),
        ("num_output: 2 kernel_size: 3 dilation: 0", "dilation is 0"),
        (
            "num_output: 2 kernel_size: 1 kernel_size: 1 kernel_size: 1",
            "kernel_size is given 3 times for 2 spatial axes. Accepted: kernel_size "
            "once, or 2 times, or kernel_h with kernel_w",
        ),
        ("num_output: 2 kernel_size: 3 group: 2", "group 2 does not divide channels 3"),
        ("num_output: 2 kernel_size: 3 group: 3", "3 does not divide num_output 2"),
        ("num_output: 2 kernel_size: 3 group: 0", "group 0 does not divide"),
        ("num_output: 2 kernel_size: 7", "filters cover 7 pixels.*bottom has 5"),
        ("num_output: 2 kernel_size: 3 axis: 4", "axis is 4.*Accepted: -4 to 3"),
        ("num_output: 2 kernel_h: 1 kernel_w: 1 axis: 0", "set for 3 spatial axes"),
    ],
)
def test_convolution_bad_settings_are_refused(make_layer, fields, message):
    with pytest.raises(LayerError, match=message):
        make_layer(_layer(fields), (2, 3, 5, 5))


def test_convolution_bad_bottoms_of_two_shapes_are_refused(make_layer):
    with pytest.raises(LayerError, match=r"bottom 1 has shape \(1, 1, 3, 4\)"):
        make_layer(_layer("num_output: 1 kernel_size: 1"), (1, 1, 3, 3), (1, 1, 3, 4))
