"""The seven fillers: exact where Caffe's are, by distribution where they are random."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcaffe.errors import LayerError
from jaxcaffe.layers.fillers import fill
from jaxcaffe.proto import caffe_pb2

SHAPE = (40, 25, 10, 10)  # 100 000 values
# Standard errors of the tests' means and deviations are below 0.4 % of the deviation
# at that many values; five of them, so that no honest generator fails.
SHARE = 0.02

# Compiles far sooner than the default generator, and fillers take any key.
IMPL = "rbg"


def fill_text(text: str, shape=SHAPE, seed: int = 0) -> np.ndarray:
    filler = text_format.Parse(text, caffe_pb2.FillerParameter())
    return np.asarray(fill(filler, jax.random.key(seed, impl=IMPL), shape))


def assert_uniform(values: np.ndarray, low: float, high: float) -> None:
    assert values.min() >= low
    assert values.max() <= high
    counts, _ = np.histogram(values, bins=10, range=(low, high))
    np.testing.assert_allclose(counts, values.size / 10, rtol=5 * SHARE)


def assert_normal(values: np.ndarray, mean: float, std: float) -> None:
    assert abs(values.mean() - mean) < SHARE * std
    assert abs(values.std() - std) < SHARE * std
    for sigmas in (1, 2):
        inside = np.mean(np.abs(values - mean) < sigmas * std)
        assert abs(inside - math.erf(sigmas / math.sqrt(2))) < SHARE


def test_fill_without_type_is_constant():
    np.testing.assert_array_equal(
        fill_text("value: 0.25", (2, 3)), np.full((2, 3), 0.25)
    )
    np.testing.assert_array_equal(fill_text("", (2,)), np.zeros(2))


def test_fill_scalar_shape_is_filled():
    assert fill_text("value: 3", ()) == 3


@pytest.mark.parametrize(
    "text",
    [
        'type: "constant"',
        'type: "uniform"',
        'type: "gaussian"',
        'type: "positive_unitball"',
        'type: "xavier"',
        'type: "msra"',
        'type: "bilinear"',
    ],
)
def test_fill_every_type_can_be_traced_and_gives_float32(text):
    filler = text_format.Parse(text, caffe_pb2.FillerParameter())
    top = jax.eval_shape(lambda key: fill(filler, key, (3, 2, 4, 4)), jax.random.key(0))
    assert top.shape == (3, 2, 4, 4)
    assert top.dtype == jnp.float32


@pytest.mark.parametrize("type_", ["uniform", "gaussian", "xavier", "msra"])
def test_fill_key_decides_values(type_):
    text = f'type: "{type_}"'
    np.testing.assert_array_equal(fill_text(text, seed=1), fill_text(text, seed=1))
    assert (fill_text(text, seed=1) != fill_text(text, seed=2)).mean() > 0.99


def test_fill_uniform_spans_min_to_max():
    assert_uniform(fill_text('type: "uniform" min: -2 max: 3'), -2, 3)


def test_fill_gaussian_has_mean_and_std():
    assert_normal(fill_text('type: "gaussian" mean: 5 std: 0.1'), 5, 0.1)


def test_fill_large_blob_is_drawn_anew_all_over_it():
    values = fill_text('type: "gaussian" mean: 5 std: 0.1', (2100, 1000))
    assert_normal(values, 5, 0.1)
    # Independent rows correlate by 1 / sqrt(1000) = 0.03; none repeats another.
    found = np.corrcoef(values[::7])
    assert np.abs(found[np.triu_indices_from(found, 1)]).max() < 0.25


def test_fill_large_blob_takes_little_temporary_memory():
    shape = (4096, 4096)
    filler = text_format.Parse('type: "gaussian"', caffe_pb2.FillerParameter())
    lowered = jax.jit(lambda key: fill(filler, key, shape)).lower(jax.random.key(0))
    taken = lowered.compile().memory_analysis().temp_size_in_bytes
    assert taken < 4 * 4096 * 4096  # the blob; drawn at once, four times that


def test_fill_sparse_gaussian_keeps_the_share_of_outputs():
    values = fill_text('type: "gaussian" std: 2 sparse: 10')
    kept = values[values != 0]
    # 10 of 40 outputs: a quarter.
    assert abs(kept.size / values.size - 0.25) < SHARE
    assert_normal(kept, 0, 2)


def test_fill_sparse_zero_keeps_nothing():
    assert not fill_text('type: "gaussian" std: 2 sparse: 0').any()


def test_fill_positive_unitball_rows_sum_to_one():
    values = fill_text('type: "positive_unitball"', (7, 3, 5))
    assert (values >= 0).all()
    np.testing.assert_allclose(values.sum(axis=(1, 2)), np.ones(7), rtol=1e-6)
    assert values.std() > 0


# fan_in = 25 * 10 * 10 = 2500, fan_out = 40 * 10 * 10 = 4000.
FANS = {"": 2500, "FAN_IN": 2500, "FAN_OUT": 4000, "AVERAGE": 3250}


@pytest.mark.parametrize(("norm", "n"), FANS.items())
def test_fill_xavier_scales_with_fan(norm, n):
    text = 'type: "xavier"' + (f" variance_norm: {norm}" if norm else "")
    scale = math.sqrt(3 / n)
    assert_uniform(fill_text(text), -scale, np.nextafter(np.float32(scale), 1))


@pytest.mark.parametrize(("norm", "n"), FANS.items())
def test_fill_msra_scales_with_fan(norm, n):
    text = 'type: "msra"' + (f" variance_norm: {norm}" if norm else "")
    assert_normal(fill_text(text), 0, math.sqrt(2 / n))


def test_fill_fan_of_one_axis_is_one_in_and_all_out():
    size = 100_000
    assert_normal(fill_text('type: "msra"', (size,)), 0, math.sqrt(2))
    values = fill_text('type: "msra" variance_norm: FAN_OUT', (size,))
    assert_normal(values, 0, math.sqrt(2 / size))


def test_fill_bilinear_even_kernel_by_hand():
    # Upsampling by 2: each line is 1/4 3/4 3/4 1/4.
    line = np.array([0.25, 0.75, 0.75, 0.25])
    values = fill_text('type: "bilinear"', (3, 1, 4, 4))
    np.testing.assert_array_equal(values, np.tile(np.outer(line, line), (3, 1, 1, 1)))


def test_fill_bilinear_odd_kernel_by_hand():
    # f = 2, c = 1/2: 1/2 1 1/2.
    line = np.array([0.5, 1, 0.5])
    np.testing.assert_array_equal(
        fill_text('type: "bilinear"', (1, 1, 3, 3))[0, 0], np.outer(line, line)
    )


@settings(max_examples=20, deadline=None)
@given(factor=st.integers(1, 6))
def test_fill_bilinear_upsampling_keeps_a_constant_image(factor):
    size = 2 * factor - factor % 2
    kernel = fill_text('type: "bilinear"', (1, 1, size, size))[0, 0]
    # Each output pixel sees every factor-th weight; those add up to one.
    for row in range(factor):
        for column in range(factor):
            assert math.isclose(
                kernel[row::factor, column::factor].sum(), 1, abs_tol=1e-6
            )


@pytest.mark.parametrize(
    ("text", "shape", "message"),
    [
        ('type: "xaiver"', (2, 3), r'filler type "xaiver" is unknown\. .*xavier'),
        (
            'type: "gabor"',
            (2, 3),
            r'^Caffe 1\.0 has no filler type "gabor"; it comes from Intel Caffe '
            r"\(intel/caffe\), a fork of Caffe\. Accepted: constant, .*, bilinear\.$",
        ),
        ('type: ""', (2, 3), r"is unknown\. Accepted: .*bilinear.*xavier"),
        ('type: "uniform" min: 1 max: 0', (2,), "min 1 above max 0"),
        ('type: "gaussian" std: 0', (2,), r"std 0\. Accepted: std above 0"),
        ('type: "gaussian" sparse: -2', (2,), "sparse -2"),
        ('type: "gaussian" sparse: 3', (2, 9), r"sparse 3 for 2 outputs.*0 to 2"),
        ('type: "gaussian" sparse: 0', (), "blob without axes"),
        ('type: "xavier" sparse: 1', (2, 3), "xavier does not take sparse"),
        ('type: "msra"', (), "blob without axes"),
        ('type: "positive_unitball"', (), "blob without axes"),
        ('type: "constant"', (2, 0), r"empty blob of shape \(2, 0\)"),
        ('type: "bilinear"', (1, 1, 3, 4), r"shape \(1, 1, 3, 4\)\. .*square"),
        ('type: "bilinear"', (3, 3), r"shape \(3, 3\)\. Accepted: 4 axes"),
    ],
)
def test_fill_impossible_request_is_refused(text, shape, message):
    with pytest.raises(LayerError, match=message):
        fill_text(text, shape)
