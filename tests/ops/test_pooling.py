import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcaffe.ops.pooling import (
    ave_pool,
    ave_pool_plain,
    max_mask,
    max_pool,
    max_pool_plain,
)
from jaxcaffe.ops.windows import Windows, pooled_size

LAYS = {
    "overlapping": ((7, 7), (3, 3), (2, 2), (0, 0), True),
    "sticking out": ((8, 6), (3, 3), (2, 2), (0, 0), True),
    "cut short": ((8, 8), (3, 3), (2, 2), (0, 0), False),
    "padded": ((7, 6), (3, 3), (2, 2), (1, 1), True),
    "dense": ((5, 6), (3, 3), (1, 1), (1, 1), True),
    "rectangular": ((9, 7), (2, 4), (3, 1), (1, 2), True),
    "apart": ((8, 9), (2, 2), (3, 4), (0, 0), False),
    "whole": ((5, 4), (5, 4), (1, 1), (0, 0), True),
}


def _windows(lay):
    size, kernel, stride, pad, ceil = LAYS[lay]
    pooled = tuple(
        pooled_size(*axis, ceil, padded=any(pad))
        for axis in zip(size, kernel, stride, pad, strict=True)
    )
    return Windows(size, kernel, stride, pad, pooled)


def _run(form, bottom, windows):
    @jax.jit
    def both(bottom):
        top, pull = jax.vjp(lambda x: form(x, windows), bottom)
        return top, pull(jnp.cos(jnp.arange(top.size)).reshape(top.shape))[0]

    return both(bottom)


def _max_by_loop(bottom, windows):
    """Spells out the rule: the first of equal maxima has the gradient."""
    N, C, H, W = bottom.shape
    (kernel_h, kernel_w), (stride_h, stride_w) = windows.kernel, windows.stride
    top = np.zeros((N, C, *windows.pooled), np.float32)
    mask = np.zeros(top.shape, np.float32)
    for n, c, i, j in np.ndindex(top.shape):
        row, column = i * stride_h - windows.pad[0], j * stride_w - windows.pad[1]
        rows = range(max(row, 0), min(row + kernel_h, H))
        columns = range(max(column, 0), min(column + kernel_w, W))
        pixels = [(bottom[n, c, y, x], -(y * W + x)) for y in rows for x in columns]
        top[n, c, i, j], index = max(pixels)
        mask[n, c, i, j] = -index
    diff = np.zeros((N, C, H * W), np.float32)
    top_diff = np.cos(np.arange(top.size)).reshape(top.shape)
    for n, c, i, j in np.ndindex(top.shape):
        diff[n, c, int(mask[n, c, i, j])] += top_diff[n, c, i, j]
    return top, mask, diff.reshape(bottom.shape)


@pytest.mark.parametrize("form", [max_pool, max_pool_plain])
@pytest.mark.parametrize("lay", LAYS)
def test_max_pool_with_ties_sends_the_gradient_to_the_first(form, lay):
    windows = _windows(lay)
    shape = (2, 2, *windows.size)
    bottom = np.random.RandomState(0).randint(-2, 1, shape).astype(np.float32)
    want_top, want_mask, want_diff = _max_by_loop(bottom, windows)
    top, diff = _run(form, jnp.asarray(bottom), windows)
    np.testing.assert_array_equal(top, want_top)
    np.testing.assert_allclose(diff, want_diff, atol=1e-5)
    mask = jax.jit(max_mask, static_argnums=1)(jnp.asarray(bottom), windows)
    np.testing.assert_array_equal(mask, want_mask)


def test_max_pool_of_large_windows_equals_plain():
    windows = Windows((12, 11), (9, 10), (2, 1), (0, 0), (3, 2))
    bottom = jnp.asarray(np.random.RandomState(0).randn(1, 2, 12, 11), jnp.float32)
    fast, plain = (_run(form, bottom, windows) for form in (max_pool, max_pool_plain))
    jax.tree.map(np.testing.assert_array_equal, fast, plain)


def test_max_pool_of_nan_is_nan():
    windows = Windows((2, 4), (2, 2), (2, 2), (0, 0), (1, 2))
    bottom = jnp.asarray([[[[1, jnp.nan, 1, 2], [3, 4, 3, 4]]]], jnp.float32)
    for form in (max_pool, max_pool_plain):
        np.testing.assert_array_equal(form(bottom, windows)[0, 0], [[np.nan, 4]])


@pytest.mark.parametrize("lay", LAYS)
def test_ave_pool_by_axis_equals_plain_with_its_gradient(lay):
    windows = _windows(lay)
    shape = (2, 2, *windows.size)
    bottom = jnp.asarray(np.random.RandomState(0).randn(*shape), jnp.float32)
    fast, plain = (_run(form, bottom, windows) for form in (ave_pool, ave_pool_plain))
    for a, b in zip(fast, plain, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_max_pool_by_axis_is_chosen_for_the_platform():
    windows = _windows("overlapping")
    bottom = jax.ShapeDtypeStruct((1, 1, 7, 7), jnp.float32)
    gradient = jax.jit(jax.grad(lambda x: max_pool(x, windows).sum()))
    traced = gradient.trace(bottom)
    cpu = traced.lower(lowering_platforms=("cpu",)).as_text()
    cuda = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert "select_and_scatter" not in cpu
    assert "select_and_scatter" in cuda


def test_max_pool_on_a_split_batch_equals_one_device(run_on_devices):
    run_on_devices(
        """
        from jaxcaffe.ops.pooling import ave_pool, max_pool
        from jaxcaffe.ops.windows import Windows

        windows = Windows((7, 7), (3, 3), (2, 2), (0, 0), (3, 3))
        bottom = jnp.asarray(draw.randint(0, 3, (16, 2, 7, 7)), jnp.float32)
        for form in (max_pool, ave_pool):
            loss = lambda x: (form(x, windows) ** 2).sum()
            check(jax.grad(loss), (bottom,), 1)
        """
    )
