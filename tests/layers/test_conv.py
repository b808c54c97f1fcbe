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


DECONV = 'type: "Deconvolution" convolution_param {{ num_output: {} {} }}'


def test_deconvolution_hand_adds_a_filter_at_every_pixel(make_layer):
    text = DECONV.format(1, "kernel_size: 2 stride: 2 pad: 1 bias_term: true")
    layer = make_layer(text, (1, 1, 2, 2))
    layer.weight.set_value(jnp.array([[[[1.0, 2.0], [3.0, 4.0]]]]))
    layer.bias.set_value(jnp.array([10.0]))
    # Without pad: 4 x 4, each pixel's filter beside the next; pad cuts off the rim.
    top = layer(jnp.array([[[[1.0, 10.0], [100.0, 1000.0]]]]))
    np.testing.assert_array_equal(top[0, 0], [[14, 40], [210, 1010]])


def test_deconvolution_hand_bilinear_filler_enlarges(make_layer):
    settings = """kernel_size: 4 stride: 2 pad: 1 group: 2 bias_term: false
                  weight_filler { type: "bilinear" }"""
    layer = make_layer(DECONV.format(2, settings), (1, 2, 3, 3))
    bottom = jnp.arange(18.0).reshape(1, 2, 3, 3)
    top = layer(bottom)
    assert layer.weight.get_value().shape == (2, 1, 4, 4)
    assert top.shape == (1, 2, 6, 6)
    # Inside, halfway between pixels at a quarter of the way from each.
    np.testing.assert_allclose(top[0, 0, 1:3, 1], [0.25 * 3 + 0.25, 2.25 + 0.25])


def test_deconvolution_hand_is_the_gradient_of_convolution(make_layer):
    settings = "kernel_size: 3 stride: 2 pad: 1 dilation: 2 group: 2 bias_term: false"
    shape = (2, 4, 5, 6)
    layer = make_layer(DECONV.format(6, settings), shape)
    draw = np.random.default_rng(0)
    weight = jnp.asarray(draw.normal(size=(4, 3, 3, 3)), jnp.float32)
    layer.weight.set_value(weight)
    bottom = jnp.asarray(draw.normal(size=shape), jnp.float32)
    top = layer(bottom)
    back = make_layer(
        'type: "Convolution" convolution_param { num_output: 4 ' + settings + " }",
        top.shape,
    )
    back.weight.set_value(weight)
    other = jnp.asarray(draw.normal(size=top.shape), jnp.float32)
    np.testing.assert_allclose(
        jnp.vdot(top, other), jnp.vdot(bottom, back(other)), rtol=1e-4
    )


def test_deconvolution_golden_case_matches_caffe(run_golden, golden_case):
    run_golden(golden_case)


@pytest.mark.parametrize(
    ("shape", "settings"),
    [
        ((2, 4, 3, 4), "kernel_size: 3 stride: 2 pad: 1"),
        ((2, 4, 3, 4), "kernel_size: 4 stride: 2 group: 4"),
        ((2, 4, 3, 4), "kernel_h: 2 kernel_w: 3 dilation: 2 group: 2"),
        ((2, 4, 5), "kernel_size: 3 stride: 3"),
        ((1, 2, 2, 2, 3), "kernel_size: 2 stride: 2"),
    ],
)
def test_deconvolution_gradient_matches_differences(
    make_layer, check_gradient, shape, settings
):
    filler = 'weight_filler { type: "gaussian" std: 0.5 }'
    layer = make_layer(DECONV.format(4, f"{settings} {filler}"), shape)
    bottom = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    check_gradient(layer, bottom)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("kernel_size: 3 pad: 4", r"pad \(4, 4\) leaves a top of \(-3, -3\) pixels"),
        ("kernel_size: 3 group: 2", r"group 2 does not divide channels 3"),
        ("kernel_size: 3 stride: 0", r"stride is 0"),
        ("", r"no kernel_size"),
    ],
)
def test_deconvolution_bad_settings_are_refused(make_layer, settings, message):
    with pytest.raises(LayerError, match=message):
        make_layer(DECONV.format(2, settings), (1, 3, 3, 3))


def test_deconvolution_bad_bottoms_of_two_shapes_are_refused(make_layer):
    text = DECONV.format(2, "kernel_size: 3")
    with pytest.raises(LayerError, match=r"bottom 1 has shape \(1, 3, 4, 4\)"):
        make_layer(text, (1, 3, 3, 3), (1, 3, 4, 4))


IM2COL = 'type: "Im2col" convolution_param {{ {} }}'


def test_im2col_hand_windows_become_channels(make_layer):
    bottom = jnp.arange(12.0).reshape(1, 2, 2, 3)
    top = make_layer(IM2COL.format("kernel_h: 1 kernel_w: 2"), bottom.shape)(bottom)
    assert top.shape == (1, 4, 2, 2)
    np.testing.assert_array_equal(top[0, 1], [[1, 2], [4, 5]])  # channel 0, column 1
    np.testing.assert_array_equal(top[0, 2], [[6, 7], [9, 10]])


def test_im2col_hand_times_weights_is_convolution(make_layer):
    settings = "kernel_size: 3 stride: 2 pad: 1 dilation: 2"
    shape = (2, 3, 7, 6)
    bottom = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
    conv = make_layer(
        'type: "Convolution" convolution_param { num_output: 4 bias_term: false '
        + settings
        + ' weight_filler { type: "xavier" } }',
        shape,
    )
    columns = make_layer(IM2COL.format(settings), shape)(bottom)
    weight = conv.weight.get_value().reshape(4, -1)
    np.testing.assert_allclose(
        jnp.einsum("kc,nchw->nkhw", weight, columns), conv(bottom), atol=1e-5
    )


def test_im2col_golden_case_matches_caffe(run_golden, golden_case):
    run_golden(golden_case)


def test_im2col_gradient_matches_differences(make_layer, check_gradient):
    shape = (2, 2, 4, 5)
    layer = make_layer(IM2COL.format("kernel_size: 3 stride: 2 pad: 1"), shape)
    check_gradient(layer, np.random.default_rng(0).normal(size=shape).astype("f"))


@pytest.mark.parametrize(
    ("shape", "settings", "message"),
    [
        ((2, 3), "kernel_size: 2", r"nothing lies behind axis 1"),
        ((1, 1, 2, 2), "kernel_size: 4", r"filters cover 4 pixels"),
        ((1, 1, 2, 2), "", r"no kernel_size"),
    ],
)
def test_im2col_bad_settings_are_refused(make_layer, shape, settings, message):
    with pytest.raises(LayerError, match=message):
        make_layer(IM2COL.format(settings), shape)
