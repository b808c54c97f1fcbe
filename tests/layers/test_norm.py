import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcaffe.errors import LayerError
from jaxcaffe.proto import caffe_pb2

# A few float32 roundings.
RTOL = 1e-6


def _lrn(fields):
    return f'type: "LRN" lrn_param {{ {fields} }}'


def _bn(fields=""):
    return f'type: "BatchNorm" batch_norm_param {{ {fields} }}'


def test_lrn_hand_across_channels(make_layer):
    # Squares 1 4 9: sums over three neighbours 5 14 13, alpha / 3 = 1, k = 2.
    layer = make_layer(_lrn("local_size: 3 alpha: 3 beta: 1 k: 2"), (1, 3, 1, 1))
    top = layer(jnp.asarray([1.0, 2.0, 3.0]).reshape(1, 3, 1, 1))
    np.testing.assert_allclose(top.ravel(), [1 / 7, 2 / 16, 3 / 15], rtol=RTOL)


@pytest.mark.parametrize("k", [1, 5])
def test_lrn_hand_within_channel_divides_by_whole_square_and_ignores_k(make_layer, k):
    # Ones, 3 x 3: the corner's square holds 4 ones of 9, the edge's 6, the middle's 9.
    layer = make_layer(
        _lrn(f"norm_region: WITHIN_CHANNEL local_size: 3 alpha: 9 beta: 1 k: {k}"),
        (1, 1, 3, 3),
    )
    top = layer(jnp.ones((1, 1, 3, 3)))
    edges = [[1 / 5, 1 / 7, 1 / 5], [1 / 7, 1 / 10, 1 / 7], [1 / 5, 1 / 7, 1 / 5]]
    np.testing.assert_allclose(top[0, 0], edges, rtol=RTOL)


def test_lrn_of_local_size_one_stays_within_its_pixel(make_layer):
    bottom = jnp.arange(1.0, 9).reshape(1, 2, 2, 2)
    for region in ["ACROSS_CHANNELS", "WITHIN_CHANNEL"]:
        fields = f"norm_region: {region} local_size: 1 alpha: 0.5 beta: 0.5"
        top = make_layer(_lrn(fields), (1, 2, 2, 2))(bottom)
        np.testing.assert_allclose(
            top, bottom / np.sqrt(1 + 0.5 * np.square(bottom)), rtol=RTOL
        )


def test_lrn_golden_case_matches_caffe(run_golden, golden_case):
    run_golden(golden_case)


@pytest.mark.parametrize("region", ["ACROSS_CHANNELS", "WITHIN_CHANNEL"])
@pytest.mark.parametrize("beta", [0.75, 0.5, 0.6])
def test_lrn_gradient_is_that_of_differences(make_layer, check_gradient, region, beta):
    shape = (2, 7, 3, 4)
    layer = make_layer(
        _lrn(f"norm_region: {region} local_size: 3 alpha: 0.7 beta: {beta} k: 1.5"),
        shape,
    )
    check_gradient(layer, np.random.RandomState(0).randn(*shape).astype(np.float32))


@pytest.mark.parametrize(
    ("fields", "shape", "message"),
    [
        ("local_size: 4", (1, 2, 3, 3), "local_size is 4. Accepted: an odd"),
        ("", (1, 2), r"shape \(1, 2\).*4 axes"),
    ],
)
def test_lrn_bad_settings_are_refused(make_layer, fields, shape, message):
    with pytest.raises(LayerError, match=message):
        make_layer(_lrn(fields), shape)


def test_batchnorm_hand_train_normalises_and_stores(make_layer):
    # Channel 0: 1 3 (mean 2, variance 1, unbiased 2); channel 1: 10 10.
    layer = make_layer(_bn("eps: 3 moving_average_fraction: 0.5"), (2, 2))
    bottom = jnp.asarray([[1.0, 10.0], [3.0, 10.0]])
    for expected in [1.0, 1.5]:  # moving sums of equal batches
        top = layer(bottom)
        np.testing.assert_allclose(top, [[-0.5, 0.0], [0.5, 0.0]], rtol=RTOL)
        np.testing.assert_allclose(layer.scale_factor.get_value(), [expected])
        np.testing.assert_allclose(
            layer.mean.get_value(), expected * np.asarray([2.0, 10.0])
        )
        np.testing.assert_allclose(
            layer.variance.get_value(), expected * np.asarray([2.0, 0.0])
        )


def test_batchnorm_hand_test_uses_stored_blobs_and_leaves_them(make_layer):
    layer = make_layer(_bn("eps: 0"), (1, 1, 1, 2), phase=caffe_pb2.TEST)
    layer.mean.set_value(jnp.asarray([6.0]))
    layer.variance.set_value(jnp.asarray([8.0]))
    layer.scale_factor.set_value(jnp.asarray([2.0]))
    top = layer(jnp.asarray([[[[3.0, 7.0]]]]))
    np.testing.assert_allclose(top, [[[[0.0, 2.0]]]], rtol=RTOL)
    assert [float(getattr(layer, blob)[0]) for blob in layer.blobs] == [6.0, 8.0, 2.0]


def test_batchnorm_factor_zero_counts_blobs_as_zero(make_layer):
    layer = make_layer(_bn("eps: 0.25"), (1, 1), phase=caffe_pb2.TEST)
    layer.mean.set_value(jnp.asarray([5.0]))
    np.testing.assert_allclose(layer(jnp.asarray([[3.0]])), [[6.0]], rtol=RTOL)


@pytest.mark.parametrize("phase", [caffe_pb2.TRAIN, caffe_pb2.TEST])
def test_batchnorm_use_global_stats_beats_the_phase(make_layer, phase):
    bottom = jnp.asarray([[1.0], [3.0]])
    stored = make_layer(_bn("use_global_stats: true eps: 1"), (2, 1), phase=phase)
    np.testing.assert_allclose(stored(bottom), bottom, rtol=RTOL)
    np.testing.assert_array_equal(stored.scale_factor.get_value(), [0.0])
    batch = make_layer(_bn("use_global_stats: false"), (2, 1), phase=phase)
    np.testing.assert_allclose(batch(bottom), [[-1.0], [1.0]], rtol=1e-4)
    np.testing.assert_array_equal(batch.scale_factor.get_value(), [1.0])


def test_batchnorm_single_element_stores_its_variance_uncorrected(make_layer):
    layer = make_layer(_bn(), (1, 1))
    np.testing.assert_array_equal(layer(jnp.asarray([[4.0]])), [[0.0]])
    np.testing.assert_array_equal(layer.mean.get_value(), [4.0])
    np.testing.assert_array_equal(layer.variance.get_value(), [0.0])


def test_batchnorm_golden_case_matches_caffe(run_golden, golden_case):
    run_golden(golden_case)


@pytest.mark.parametrize("phase", [caffe_pb2.TRAIN, caffe_pb2.TEST])
def test_batchnorm_gradient_is_that_of_differences(make_layer, check_gradient, phase):
    shape = (3, 2, 2, 3)
    layer = make_layer(_bn("eps: 0.01"), shape, phase=phase)
    layer.variance.set_value(jnp.asarray([1.0, 2.0]))
    layer.scale_factor.set_value(jnp.asarray([0.5]))
    bottom = np.random.RandomState(0).randn(*shape).astype(np.float32)
    check_gradient(layer, bottom)


def test_batchnorm_bad_bottom_of_one_axis_is_refused(make_layer):
    with pytest.raises(LayerError, match=r"shape \(4,\). Accepted: .* 2 or more axes"):
        make_layer(_bn(), (4,))


def mvn_text(**settings) -> str:
    fields = " ".join(f"{k}: {str(v).lower()}" for k, v in settings.items())
    return f'type: "MVN" mvn_param {{ {fields} }}'


def test_mvn_hand_each_channel_by_itself(make_layer):
    bottom = jnp.array([[[[1.0, 3.0]], [[10.0, 20.0]]]])
    top = make_layer(mvn_text(), bottom.shape)(bottom)
    np.testing.assert_allclose(top, [[[[-1, 1]], [[-1, 1]]]], rtol=1e-6)
    top = make_layer(mvn_text(eps=1), bottom.shape)(bottom)
    np.testing.assert_allclose(top[0, 0], [[-0.5, 0.5]], rtol=1e-6)


def test_mvn_hand_across_channels_and_without_variance(make_layer):
    bottom = jnp.array([[[[1.0]], [[3.0]]], [[[5.0]], [[9.0]]]])
    text = mvn_text(across_channels=True, normalize_variance=False)
    np.testing.assert_array_equal(
        make_layer(text, bottom.shape)(bottom).ravel(), [-1, 1, -2, 2]
    )


def test_mvn_hand_top_has_four_axes_and_constant_images_no_nan(make_layer):
    module = make_layer(mvn_text(), (2, 3))
    bottom = jnp.ones((2, 3))
    assert module(bottom).shape == (2, 3, 1, 1)
    weights = jnp.arange(6.0).reshape(2, 3, 1, 1)
    diff = jax.grad(lambda b: (module(b) * weights).sum())(bottom)
    np.testing.assert_array_equal(diff, np.zeros((2, 3)))


def test_mvn_golden_case_matches_caffe(run_golden, golden_case):
    run_golden(golden_case)


@pytest.mark.parametrize("across_channels", [False, True])
@pytest.mark.parametrize("normalize_variance", [False, True])
def test_mvn_gradient_matches_differences(
    make_layer, check_gradient, across_channels, normalize_variance
):
    text = mvn_text(
        across_channels=across_channels, normalize_variance=normalize_variance
    )
    draw = np.random.default_rng(0)
    bottom = draw.normal(size=(2, 3, 4, 5)).astype(np.float32)
    check_gradient(make_layer(text, bottom.shape), bottom)


def test_mvn_bad_number_of_axes_is_refused(make_layer):
    with pytest.raises(
        LayerError, match=r"\(1, 2, 3, 4, 5\)\. Accepted: at most 4 axes"
    ):
        make_layer(mvn_text(), (1, 2, 3, 4, 5))
