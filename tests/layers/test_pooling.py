import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcaffe.errors import LayerError
from jaxcaffe.proto import caffe_pb2

FLT_MAX = np.finfo(np.float32).max


def _layer(fields, tops=1):
    top = "".join(f'top: "t{i}" ' for i in range(tops))
    return f'type: "Pooling" {top} pooling_param {{ {fields} }}'


def _plane(rows):
    return jnp.asarray(rows, jnp.float32)[None, None]


def test_pooling_hand_max_and_mask(make_layer):
    # 1 5 2     windows of 2 x 2, stride 1:  5 5    flat index:  1 1
    # 4 3 0                                  4 6                 3 7
    # 1 6 0 -> 6 is at row 2, column 1
    layer = make_layer(_layer("kernel_size: 2", tops=2), (1, 1, 3, 3))
    top, mask = layer(_plane([[1, 5, 2], [4, 3, 0], [1, 6, 0]]))
    np.testing.assert_array_equal(top[0, 0], [[5, 5], [6, 6]])
    np.testing.assert_array_equal(mask[0, 0], [[1, 1], [7, 7]])


def test_pooling_hand_ave_divides_by_area_on_padded_image(make_layer):
    # 3 x 3 of nines, kernel 2, stride 2, pad 1: H' = ceil((3+2-2)/2)+1 = 3, and the
    # third window would begin at row 3, inside the far padding: it stays only where
    # it begins before row 3 + 1, so its area there is 1 (one padded row).
    layer = make_layer(
        _layer("pool: AVE kernel_size: 2 stride: 2 pad: 1"), (1, 1, 3, 3)
    )
    top = layer(jnp.full((1, 1, 3, 3), 9.0))[0, 0]
    np.testing.assert_allclose(top, [[9 / 4, 9 / 2], [9 / 2, 9]])


@pytest.mark.parametrize(
    ("fields", "size", "pooled"),
    [
        ("kernel_size: 3 stride: 2", 32, 16),  # ceil
        ("kernel_size: 3 stride: 2 round_mode: FLOOR", 32, 15),
        ("kernel_size: 2 stride: 2 pad: 1", 4, 3),  # windows begin at -1, 1, 3
        ("kernel_size: 2 stride: 2 pad: 1", 3, 2),  # a third would begin at 3
        ("kernel_size: 3 stride: 2", 2, 1),  # larger than the bottom
        ("global_pooling: true", 7, 1),
    ],
)
@pytest.mark.parametrize("pool", ["MAX", "AVE"])
def test_pooling_sizes_are_caffes(make_layer, pool, fields, size, pooled):
    shape = (1, 2, size, size)
    layer = make_layer(_layer(f"pool: {pool} {fields}"), shape)
    top = jax.eval_shape(layer, jax.ShapeDtypeStruct(shape, jnp.float32))
    assert top.shape == (1, 2, pooled, pooled)


def test_pooling_padding_of_one_axis_drops_the_last_window_of_both(make_layer):
    # Along the columns: ceil((4 - 1) / 3) + 1 = 2 windows, at 0 and 3. With kernel 1
    # and 3 columns a second would begin at column 3, beyond the image.
    fields = "kernel_h: 2 kernel_w: 1 stride_h: 1 stride_w: 3 pad_h: 1 pad_w: 0"
    layer = make_layer(_layer(fields), (1, 1, 2, 3))
    assert layer(jnp.zeros((1, 1, 2, 3))).shape == (1, 1, 3, 1)


def test_pooling_max_ignores_padding_of_negative_image(make_layer):
    layer = make_layer(_layer("kernel_size: 3 stride: 1 pad: 1"), (1, 1, 2, 2))
    np.testing.assert_array_equal(
        layer(_plane([[-4, -3], [-2, -1]]))[0, 0], [[-1, -1], [-1, -1]]
    )


def test_pooling_window_without_pixel_gives_least_float_or_zero(make_layer):
    # Kernel 1, stride 3 on 5 columns: windows at 0, 3 and 6.
    text, shape = "kernel_size: 1 stride: 3", (1, 1, 5, 5)
    top, mask = make_layer(_layer(text, tops=2), shape)(jnp.ones(shape))
    np.testing.assert_array_equal(top[0, 0, 0], [1, 1, -FLT_MAX])
    np.testing.assert_array_equal(mask[0, 0, 0], [0, 3, -1])
    mean = make_layer(_layer(f"pool: AVE {text}"), shape)(jnp.ones(shape))
    np.testing.assert_array_equal(mean[0, 0, 0], [1, 1, 0])


def test_pooling_stochastic_draws_by_value_in_train(make_layer):
    shape = (1, 1, 200, 200)
    layer = make_layer(_layer("pool: STOCHASTIC kernel_size: 2 stride: 2"), shape)
    bottom = jnp.tile(_plane([[0, 1], [1, 2]]), (1, 1, 100, 100))
    top = np.asarray(layer(bottom, key=jax.random.key(0)))
    assert set(np.unique(top)) == {1.0, 2.0}  # 0 is never drawn
    # 10000 fair draws: three standard deviations are 0.015.
    assert abs((top == 2).mean() - 0.5) < 0.015


def test_pooling_stochastic_weights_by_value_in_test(make_layer):
    layer = make_layer(
        _layer("pool: STOCHASTIC kernel_size: 2 stride: 2"),
        (1, 1, 2, 4),
        phase=caffe_pb2.TEST,
    )
    top = layer(_plane([[0, 1, 0, 0], [1, 2, 0, 0]]))
    np.testing.assert_allclose(top[0, 0], [[6 / 4, 0]])


def test_pooling_golden_case_matches_caffe(run_golden, golden_case):
    run_golden(golden_case)


@pytest.mark.parametrize(
    "fields",
    [
        "kernel_size: 3 stride: 2",
        "kernel_size: 3 stride: 2 pad: 1",
        "pool: AVE kernel_size: 3 stride: 2 pad: 1",
        "kernel_h: 2 kernel_w: 3 stride_h: 3 stride_w: 1 round_mode: FLOOR",
        "pool: AVE global_pooling: true",
    ],
)
def test_pooling_gradient_is_that_of_differences(make_layer, check_gradient, fields):
    shape = (2, 3, 6, 5)
    # All elements differ by more than the step, so no maximum changes place.
    bottom = np.random.RandomState(0).permutation(180) / 20
    layer = make_layer(_layer(fields), shape)
    check_gradient(layer, bottom.reshape(shape).astype(np.float32))


def test_pooling_gradient_of_stochastic_goes_to_the_drawn(make_layer):
    shape = (1, 1, 4, 4)
    layer = make_layer(_layer("pool: STOCHASTIC kernel_size: 2 stride: 2"), shape)
    bottom = jnp.arange(1.0, 17).reshape(shape)
    top, pull = jax.vjp(lambda x: layer(x, key=jax.random.key(1)), bottom)
    (diff,) = pull(jnp.ones_like(top))
    assert diff.sum() == 4
    np.testing.assert_array_equal(np.sort(bottom[diff == 1]), np.sort(top.ravel()))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("pool: MAX", "no kernel_size"),
        ("kernel_size: 0", "kernel_size is 0 x 0"),
        ("kernel_size: 2 kernel_h: 2 kernel_w: 2", "kernel_size and kernel_h are both"),
        ("kernel_h: 2", "kernel_h is set alone. Accepted: kernel_size, or kernel_h"),
        ("kernel_size: 2 stride: 2 stride_w: 1", "stride and stride_w are both set"),
        ("kernel_size: 2 stride: 0", "stride is 0 x 0"),
        ("kernel_size: 2 pad_h: 1", "pad_h is set alone"),
        ("kernel_size: 2 pad: 2", "pad 2 x 2 is not smaller than kernel_size 2 x 2"),
        ("global_pooling: true kernel_size: 5", "global_pooling and kernel_size are"),
        ("global_pooling: true stride: 2", "global_pooling with pad 0 x 0 and stride"),
        ("kernel_size: 9", "no window of 9 x 9 fits the bottom of 5 x 5"),
        ("pool: STOCHASTIC kernel_size: 3 pad: 1", "STOCHASTIC with padding"),
    ],
)
def test_pooling_bad_settings_are_refused(make_layer, fields, message):
    with pytest.raises(LayerError, match=message):
        make_layer(_layer(fields), (2, 3, 5, 5))


def test_pooling_bad_mask_of_mean_is_refused(make_layer):
    with pytest.raises(LayerError, match=r"pool AVE has two tops.*one top"):
        make_layer(_layer("pool: AVE kernel_size: 2", tops=2), (1, 1, 4, 4))


def test_pooling_bad_bottom_of_three_axes_is_refused(make_layer):
    with pytest.raises(LayerError, match=r"shape \(3, 4, 4\).*4 axes"):
        make_layer(_layer("kernel_size: 2"), (3, 4, 4))


def _spp(height, pool="MAX"):
    return f'type: "SPP" top: "y" spp_param {{ pyramid_height: {height} pool: {pool} }}'


def test_spp_hand_levels_stand_one_after_another(make_layer):
    plane = _plane(np.arange(16).reshape(4, 4))
    top = make_layer(_spp(3), plane.shape)(plane)
    np.testing.assert_array_equal(top[0], [15, 5, 7, 13, 15, *range(16)])


def test_spp_hand_odd_sides_are_padded_before_the_image(make_layer):
    # 3 pixels in 2 bins of 2: one row of padding, before the image.
    plane = _plane([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    top = make_layer(_spp(2), plane.shape)(plane)
    np.testing.assert_array_equal(top[0], [9, 1, 3, 7, 9])
    top = make_layer(_spp(2, "AVE"), plane.shape)(plane)
    np.testing.assert_allclose(top[0], [5, 1 / 4, 5 / 4, 11 / 4, 28 / 4])


def test_spp_hand_one_level_keeps_four_axes(make_layer):
    plane = _plane([[1, 2], [4, 3]])
    assert make_layer(_spp(1), plane.shape)(plane).shape == (1, 1, 1, 1)


def test_spp_hand_stochastic_draws_from_each_window(make_layer):
    plane = _plane([[0, 2], [0, 0]])
    layer = make_layer(_spp(2, "STOCHASTIC"), plane.shape)
    top = layer(plane, key=jax.random.key(0))
    np.testing.assert_array_equal(top[0], [2, 0, 2, 0, 0])
    layer = make_layer(_spp(2, "STOCHASTIC"), plane.shape, phase=caffe_pb2.TEST)
    np.testing.assert_array_equal(layer(plane)[0], [2, 0, 2, 0, 0])


def test_spp_golden_case_matches_caffe(run_golden, golden_case):
    run_golden(golden_case)


@pytest.mark.parametrize("pool", ["MAX", "AVE"])
def test_spp_gradient_matches_differences(make_layer, check_gradient, pool):
    shape = (2, 2, 6, 7)
    # Far enough apart that a small step changes no maximum.
    bottom = np.random.default_rng(0).permutation(2 * 2 * 6 * 7) * np.float32(0.1)
    layer = make_layer(_spp(2, pool), shape)
    check_gradient(layer, bottom.reshape(shape).astype(np.float32))


@pytest.mark.parametrize(
    ("shape", "text", "message"),
    [
        ((1, 2, 3), _spp(1), r"shape \(1, 2, 3\)\. Accepted: a bottom of 4 axes"),
        ((1, 1, 4, 4), _spp(0), r"pyramid_height is 0"),
        (
            (1, 1, 5, 4),
            _spp(3),
            r"4 x 4 windows do not fit a bottom of 5 x 4 \(level 2",
        ),
        ((1, 1, 3, 4), _spp(2, "STOCHASTIC"), r"needs padding 1 x 0 at level 1"),
    ],
)
def test_spp_bad_settings_are_refused(make_layer, shape, text, message):
    with pytest.raises(LayerError, match=message):
        make_layer(text, shape)
