import jax.numpy as jnp
import numpy as np
import pytest

from jaxcaffe.errors import LayerError


def _ip(fields):
    return f'type: "InnerProduct" inner_product_param {{ {fields} }}'


def _scale(fields=""):
    return f'type: "Scale" scale_param {{ {fields} }}'


def _bias(fields=""):
    return f'type: "Bias" bias_param {{ {fields} }}'


def _random(*shape):
    return np.random.RandomState(0).randn(*shape).astype(np.float32)


def test_innerproduct_hand_flattens_and_adds_bias(make_layer):
    layer = make_layer(_ip("num_output: 2 bias_filler { value: 1 }"), (1, 2, 2))
    layer.weight.set_value(jnp.asarray([[1.0, 2, 3, 4], [0, 0, 0, 10]]))
    top = layer(jnp.asarray([[[1.0, 1], [2, 3]]]))
    np.testing.assert_allclose(top, [[1 + 2 + 6 + 12 + 1, 31]])


def test_innerproduct_transpose_holds_the_weight_the_other_way(make_layer):
    plain = make_layer(_ip("num_output: 5 bias_term: false"), (2, 3))
    turned = make_layer(_ip("num_output: 5 bias_term: false transpose: true"), (2, 3))
    assert turned.weight.get_value().shape == (3, 5)
    weight, bottom = _random(5, 3), _random(2, 3)
    plain.weight.set_value(jnp.asarray(weight))
    turned.weight.set_value(jnp.asarray(weight.T))
    np.testing.assert_allclose(plain(bottom), bottom @ weight.T, rtol=1e-5)
    np.testing.assert_allclose(turned(bottom), plain(bottom), rtol=1e-5)


@pytest.mark.parametrize(
    ("axis", "weight", "top"),
    [(0, (7, 24), (7,)), (1, (7, 12), (2, 7)), (-1, (7, 4), (2, 3, 7))],
)
def test_innerproduct_axis_splits_the_shape(make_layer, axis, weight, top):
    layer = make_layer(_ip(f"num_output: 7 axis: {axis}"), (2, 3, 4))
    assert layer.weight.get_value().shape == weight
    assert layer(jnp.zeros((2, 3, 4))).shape == top


def test_innerproduct_golden_case_matches_caffe(run_golden, golden_case):
    run_golden(golden_case)


@pytest.mark.parametrize("fields", ["", "axis: 2", "transpose: true"])
def test_innerproduct_gradient_is_that_of_differences(
    make_layer, check_gradient, fields
):
    fields = f'num_output: 3 weight_filler {{ type: "xavier" }} {fields}'
    check_gradient(make_layer(_ip(fields), (2, 3, 4)), _random(2, 3, 4))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("", "num_output is 0"),
        ("num_output: 2 axis: 2", r"axis is 2.*\(3, 4\). Accepted: -2 to 1"),
    ],
)
def test_innerproduct_bad_settings_are_refused(make_layer, fields, message):
    with pytest.raises(LayerError, match=message):
        make_layer(_ip(fields), (3, 4))


def test_scale_hand_multiplies_channels_and_adds_bias(make_layer):
    layer = make_layer(_scale("bias_term: true"), (1, 2, 2))
    layer.scale.set_value(jnp.asarray([2.0, 10.0]))
    layer.bias.set_value(jnp.asarray([0.5, 1.0]))
    top = layer(jnp.asarray([[[1.0, 2.0], [3.0, 4.0]]]))
    np.testing.assert_allclose(top, [[[2.5, 4.5], [31.0, 41.0]]])


def test_scale_without_filler_leaves_the_bottom_alone(make_layer):
    bottom = _random(2, 3, 4)
    layer = make_layer(_scale("bias_term: true"), (2, 3, 4))
    np.testing.assert_array_equal(layer(bottom), bottom)


def test_scale_filler_replaces_the_default_of_one(make_layer):
    layer = make_layer(_scale("filler { }"), (2, 3))  # constant 0, as fillers go
    np.testing.assert_array_equal(layer(_random(2, 3)), np.zeros((2, 3)))


@pytest.mark.parametrize(
    ("fields", "shape"),
    [
        ("", (3,)),
        ("axis: 0", (2,)),
        ("axis: -1", (5,)),
        ("num_axes: 2", (3, 4)),
        ("num_axes: -1", (3, 4, 5)),
        ("axis: 0 num_axes: -1", (2, 3, 4, 5)),
        ("num_axes: 0", ()),
    ],
)
def test_scale_and_bias_blobs_cover_num_axes_from_axis(make_layer, fields, shape):
    scale = make_layer(_scale(f"bias_term: true {fields}"), (2, 3, 4, 5))
    assert scale.scale.get_value().shape == shape
    assert scale.bias.get_value().shape == shape
    bias = make_layer(_bias(fields), (2, 3, 4, 5))
    assert bias.bias.get_value().shape == shape


def test_scale_second_bottom_is_the_factor_and_bias_takes_its_shape(make_layer):
    layer = make_layer(
        _scale("bias_term: true num_axes: 1 bias_filler { value: 1 }"),
        (2, 3, 4),
        (3, 4),
    )
    assert layer.scale is None
    assert layer.bias.get_value().shape == (3, 4)
    bottom, factor = _random(2, 3, 4), _random(3, 4)
    np.testing.assert_allclose(layer(bottom, factor), bottom * factor + 1, rtol=1e-6)


def test_scale_golden_case_matches_caffe(run_golden, golden_case):
    run_golden(golden_case)


@pytest.mark.parametrize(
    "fields", ["bias_term: true", "axis: 0", "num_axes: 0", "num_axes: -1"]
)
def test_scale_gradient_is_that_of_differences(make_layer, check_gradient, fields):
    check_gradient(make_layer(_scale(fields), (2, 3, 4)), _random(2, 3, 4))


def test_scale_gradient_reaches_both_bottoms(make_layer, check_gradient):
    layer = make_layer(_scale(), (2, 3, 4), (3,))
    check_gradient(layer, _random(2, 3, 4), _random(3))


@pytest.mark.parametrize(
    ("fields", "shapes", "message"),
    [
        ("axis: 3", [(2, 3, 4)], "axis is 3.*Accepted: -3 to 2"),
        ("num_axes: -2", [(2, 3, 4)], "num_axes is -2"),
        ("axis: 2 num_axes: 2", [(2, 3, 4)], "reach past.*num_axes up to 1, or -1"),
        ("", [(2, 3, 4), (4,)], r"bottom 1 of shape \(4,\) does not fit bottom 0"),
        ("", [(2, 3), (3, 1)], r"bottom 1 of shape \(3, 1\).*from axis 1"),
    ],
)
def test_scale_bad_settings_are_refused(make_layer, fields, shapes, message):
    with pytest.raises(LayerError, match=message):
        make_layer(_scale(fields), *shapes)


def test_bias_hand_adds_by_channel(make_layer):
    layer = make_layer(_bias("filler { value: 7 }"), (1, 2, 2))
    layer.bias.set_value(layer.bias.get_value() * jnp.asarray([1.0, 2.0]))
    top = layer(jnp.asarray([[[1.0, 2.0], [3.0, 4.0]]]))
    np.testing.assert_allclose(top, [[[8.0, 9.0], [17.0, 18.0]]])


def test_bias_scalar_second_bottom_fits_any_axis(make_layer):
    layer = make_layer(_bias("axis: 5"), (2, 3), ())
    assert layer.bias is None
    np.testing.assert_allclose(layer(jnp.zeros((2, 3)), jnp.asarray(2.0)), 2.0)


def test_bias_golden_case_matches_caffe(run_golden, golden_case):
    run_golden(golden_case)


def test_bias_gradient_is_that_of_differences(make_layer, check_gradient):
    check_gradient(make_layer(_bias("num_axes: 2"), (2, 3, 4)), _random(2, 3, 4))
    two = make_layer(_bias("axis: 0"), (2, 3, 4), (2,))
    check_gradient(two, _random(2, 3, 4), _random(2))


def test_bias_bad_second_bottom_is_refused(make_layer):
    with pytest.raises(LayerError, match=r"\(4,\) does not fit.*begins \(3, 4\)"):
        make_layer(_bias(), (2, 3, 4), (4,))
