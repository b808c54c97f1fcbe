import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcaffe.ops.convolution import convolution, convolution_plain
from jaxcaffe.ops.convolution_cpu import find_forms

# The forms sum in different orders, in float32.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}

CASES = {
    "two groups": ((2, 4, 7, 6), (6, 2, 3, 3), {"group": 2}),
    "depthwise": ((2, 4, 7, 6), (4, 1, 3, 3), {"group": 4}),
    "depthwise, two filters each, strided": (
        (2, 3, 8, 7),
        (6, 1, 3, 2),
        {"group": 3, "stride": (2, 3), "pad": ((1, 2), (0, 1))},
    ),
    "depthwise, dilated, one axis": (
        (2, 3, 11),
        (3, 1, 3),
        {"group": 3, "stride": (2,), "pad": ((2, 2),), "dilation": (2,)},
    ),
    "depthwise, many taps": ((1, 2, 10, 9), (2, 1, 9, 9), {"group": 2}),
    "one pixel": ((2, 4, 7, 6), (6, 4, 1, 1), {}),
    "one pixel, strided": ((2, 4, 7, 6), (6, 4, 1, 1), {"stride": (3, 2)}),
    "one pixel, dilated, padded": (
        (2, 4, 7, 6),
        (6, 4, 1, 1),
        {"pad": ((1, 0), (0, 2)), "dilation": (2, 3)},
    ),
    "one pixel, large image": ((2, 4, 24, 25), (6, 4, 1, 1), {}),
    "one pixel, large image, many filters": ((2, 90, 24, 25), (110, 90, 1, 1), {}),
    "one pixel, large image, strided": (
        (2, 3, 49, 50),
        (5, 3, 1, 1),
        {"stride": (2, 2)},
    ),
    "few channels": ((2, 3, 10, 11), (6, 3, 5, 5), {"pad": ((2, 2), (2, 2))}),
    "few channels, oblong, uneven pads": (
        (2, 3, 9, 12),
        (5, 3, 2, 3),
        {"pad": ((1, 0), (0, 2))},
    ),
    "one channel": ((2, 1, 12, 13), (6, 1, 5, 5), {}),
    "one channel, wide": ((2, 1, 4, 19), (3, 1, 1, 7), {"pad": ((0, 0), (3, 1))}),
    "large stride": ((2, 3, 19, 22), (6, 3, 7, 7), {"stride": (4, 4)}),
    "large stride, many windows": ((2, 3, 47, 50), (6, 3, 7, 7), {"stride": (4, 4)}),
    "large stride, oblong, uneven pads, pixels past the last window": (
        (2, 2, 15, 23),
        (5, 2, 3, 9),
        {"stride": (2, 5), "pad": ((1, 0), (3, 2))},
    ),
    "large stride, few pixels": ((2, 1, 6, 5), (3, 1, 2, 5), {"stride": (4, 4)}),
    "small top": ((2, 5, 7, 6), (4, 5, 3, 5), {}),
    "small top, padded": ((2, 5, 6, 7), (4, 5, 6, 3), {"pad": ((1, 2), (0, 1))}),
    "small top, one column": ((2, 5, 9, 4), (4, 5, 7, 1), {}),
    "top of one pixel": ((2, 5, 4, 3), (4, 5, 4, 3), {}),
    "one element, one axis": ((2, 4, 7), (6, 4, 1), {"stride": (2,)}),
    "strided, dilated, padded": (
        (2, 5, 13, 12),
        (4, 5, 3, 2),
        {"stride": (2, 3), "pad": ((1, 2), (0, 1)), "dilation": (2, 1)},
    ),
    "dilated, one axis, pixels past the last window": (
        (2, 5, 16),
        (4, 5, 3),
        {"stride": (3,), "dilation": (2,)},
    ),
    "padded beyond the filter": ((2, 5, 4, 5), (6, 5, 2, 3), {"pad": ((3, 2), (4, 3))}),
    "no spatial axis, one group": ((2, 4), (6, 4), {}),
    "no spatial axis": ((2, 4), (6, 2), {"group": 2}),
    "no spatial axis, depthwise": ((2, 4), (8, 1), {"group": 4}),
    "depthwise, pixels past the last window": (
        (2, 3, 9, 10),
        (3, 1, 3, 3),
        {"group": 3, "stride": (4, 3), "pad": ((0, 0), (1, 0))},
    ),
    "depthwise, padded beyond the filter": (
        (2, 3, 5, 4),
        (3, 1, 2, 2),
        {"group": 3, "stride": (2, 1), "pad": ((3, 2), (2, 3))},
    ),
}


def _operands(case):
    bottom_shape, weight_shape, settings = CASES[case]
    axes = len(bottom_shape) - 2
    settings = {
        "stride": (1,) * axes,
        "pad": ((0, 0),) * axes,
        "dilation": (1,) * axes,
        **settings,
    }
    draw = np.random.RandomState(0)
    bottom = draw.randn(*bottom_shape).astype(np.float32)
    weight = draw.randn(*weight_shape).astype(np.float32)
    return jnp.asarray(bottom), jnp.asarray(weight), settings


@pytest.mark.parametrize("case", CASES)
def test_convolution_fast_form_equals_plain_with_its_gradients(case):
    bottom, weight, settings = _operands(case)

    def run(form):
        def both(bottom, weight):
            top, pull = jax.vjp(lambda b, w: form(b, w, **settings), bottom, weight)
            return top, pull(jnp.cos(jnp.arange(top.size)).reshape(top.shape))

        return jax.jit(both)(bottom, weight)

    fast, plain = run(convolution), run(convolution_plain)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, **TOLERANCE), fast, plain
    )


def test_convolution_in_groups_is_chosen_for_the_platform():
    bottom, weight, settings = _operands("two groups")
    traced = jax.jit(lambda b, w: convolution(b, w, **settings)).trace(bottom, weight)
    cpu = traced.lower(lowering_platforms=("cpu",)).as_text()
    cuda = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert cpu.count("stablehlo.convolution") == 2
    assert cuda.count("stablehlo.convolution") == 1
    assert "feature_group_count = 2" in cuda


def test_convolution_of_one_pixel_is_chosen_for_the_platform():
    bottom, weight, settings = _operands("one pixel")
    both = jax.grad(lambda b, w: convolution(b, w, **settings).sum(), (0, 1))
    traced = jax.jit(both).trace(bottom, weight)
    assert "stablehlo.convolution" not in traced.lower().as_text()
    for platform in ("cuda", "tpu"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert text.count("stablehlo.convolution") == 2
        assert "dot_general" not in text


def test_convolution_of_few_channels_is_chosen_for_the_platform():
    bottom, weight, settings = _operands("few channels")
    traced = jax.jit(lambda b, w: convolution(b, w, **settings)).trace(bottom, weight)
    # Four columns of 6 filters, over two blocks of four columns of 3 channels.
    assert "tensor<5x2x12x24xf32>" in traced.lower().as_text()
    for platform in ("cuda", "tpu"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert text.count("stablehlo.convolution") == 1
        assert "reshape" not in text


def test_convolution_gradient_of_a_small_top_is_chosen_for_the_platform():
    bottom, weight, settings = _operands("small top")
    gradient = jax.grad(lambda b, w: convolution(b, w, **settings).sum())
    traced = jax.jit(gradient).trace(bottom, weight)
    assert "dot_general" in traced.lower().as_text()
    for platform in ("cuda", "tpu"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert "dot_general" not in text
        assert "reduce_window" not in text


def test_convolution_forms_leave_ordinary_convolutions_alone():
    def forms(bottom, weight, stride=1, pad=1, dilation=1):
        settings = {
            "stride": (stride, stride),
            "pad": ((pad, pad), (pad, pad)),
            "dilation": (dilation, dilation),
        }
        return find_forms(bottom, weight, **settings)

    assert not any(forms((8, 64, 56, 56), (64, 64, 3, 3)))
    assert not any(forms((8, 3, 224, 224), (64, 3, 7, 7), stride=2, pad=3))
    assert not any(forms((8, 512, 28, 28), (512, 512, 3, 3), pad=2, dilation=2))
    assert forms((8, 3, 224, 224), (64, 3, 3, 3)) == (True, False, False, False)
    assert forms((8, 3, 227, 227), (96, 3, 11, 11), stride=4, pad=0).strided


def test_convolution_forms_have_second_gradients():
    for case in ("one channel", "small top", "large stride"):
        bottom, weight, settings = _operands(case)

        def second(form, bottom=bottom, weight=weight, settings=settings):
            def slope(bottom, weight):
                loss = lambda b, w: jnp.sin(form(b, w, **settings)).sum()  # noqa: E731
                grads = jax.grad(loss, (0, 1))(bottom, weight)
                return sum(jnp.sum(g**2) for g in grads)

            return jax.jit(jax.grad(slope, (0, 1)))(bottom, weight)

        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-2),
            second(convolution),
            second(convolution_plain),
        )


IN_LOOPS = [
    "two groups",
    "few channels",
    "one channel",
    "large stride, many windows",
    "small top, padded",
    "strided, dilated, padded",
]


@pytest.mark.parametrize("case", IN_LOOPS)
def test_convolution_in_a_loop_keeps_the_order_that_xla_computes_fast(case):
    bottom, weight, settings = _operands(case)

    def loss(b, w):
        return (convolution(b, w, **settings) ** 2).sum()

    def loop(b, w):
        def body(_, carry):
            gradients = jax.grad(loss, (0, 1))(*carry)
            return jax.tree.map(lambda x, d: x - 1e-3 * d, carry, gradients)

        return jax.lax.fori_loop(0, 3, body, (b, w))

    text = jax.jit(loop).lower(bottom, weight).compile().as_text()
    orders = set(re.findall(r" convolution\(.*dim_labels=(\S+?),", text))
    assert orders == {"b01f_01io->b01f"}


def test_convolution_takes_the_ambient_precision():
    bottom, weight, settings = _operands("two groups")

    def lowered():
        return jax.jit(lambda b, w: convolution(b, w, **settings)).lower(bottom, weight)

    with jax.default_matmul_precision("highest"):
        assert "HIGHEST" in lowered().as_text()
    with jax.default_matmul_precision("default"):
        assert "HIGHEST" not in lowered().as_text()


def test_convolution_on_a_split_batch_equals_one_device(run_on_devices):
    run_on_devices(
        """
        from jaxcaffe.ops.convolution import convolution

        kwargs = dict(stride=(1, 1), pad=((1, 1), (1, 1)), dilation=(1, 1))
        bottom = jnp.asarray(draw.randn(16, 4, 6, 6), jnp.float32)
        for shape, group in [((6, 2, 3, 3), 2), ((4, 1, 3, 3), 4)]:
            weight = jnp.asarray(draw.randn(*shape), jnp.float32)
            loss = lambda b, w: (convolution(b, w, group=group, **kwargs) ** 2).sum()
            check(jax.grad(loss, (0, 1)), (bottom, weight), 1)

        kwargs = dict(stride=(1, 1), pad=((0, 0), (0, 0)), dilation=(1, 1))
        for channels, kernel in [(1, 5), (6, 4)]:
            bottom = jnp.asarray(draw.randn(16, channels, 12, 12), jnp.float32)
            weight = jnp.asarray(draw.randn(6, channels, kernel, kernel), jnp.float32)
            loss = lambda b, w: (convolution(b, w, **kwargs) ** 2).mean()
            check(jax.grad(loss, (0, 1)), (bottom, weight), 1)

        # Where the compiler, not the types, says how arrays are divided.
        mesh = jax.sharding.Mesh(np.asarray(jax.devices()), ("batch",))
        for shape in [(30, 120, 1, 1), (90, 120, 1, 1), (5, 120, 2, 3)]:
            bottom = jnp.asarray(draw.randn(16, 120, 23, 23), jnp.float32)
            weight = jnp.asarray(draw.randn(*shape), jnp.float32)
            loss = lambda b, w: (convolution(b, w, **kwargs) ** 2).mean()
            check(jax.grad(loss, (0, 1)), (bottom, weight), 1)
        """
    )
