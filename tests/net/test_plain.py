"""Nets differentiated forwards: every operation with a gradient of its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcaffe.ops.plain import is_plain, plain

FILLER = 'weight_filler { type: "gaussian" std: 0.3 }'
IMAGES = """
layer { name: "x" type: "Input" top: "x" top: "label"
  input_param { shape { dim: 3 dim: 2 dim: 13 dim: 13 } shape { dim: 3 } } }
"""
LOSS = f"""
layer {{ name: "fc" type: "InnerProduct" bottom: "y" top: "fc"
  inner_product_param {{ num_output: 5 {FILLER} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss"
  bottom: "fc" bottom: "label" top: "loss" }}
"""
BODIES = {
    "groups, LRN and maxima": f"""
layer {{ name: "a" type: "Convolution" bottom: "x" top: "a"
  convolution_param {{ num_output: 4 kernel_size: 3 group: 2 {FILLER} }} }}
layer {{ name: "r" type: "ReLU" bottom: "a" top: "a" }}
layer {{ name: "n" type: "LRN" bottom: "a" top: "n" lrn_param {{ local_size: 3 }} }}
layer {{ name: "y" type: "Pooling" bottom: "n" top: "y"
  pooling_param {{ pool: MAX kernel_size: 3 stride: 2 }} }}""",
    "large stride and means": f"""
layer {{ name: "a" type: "Convolution" bottom: "x" top: "a"
  convolution_param {{ num_output: 4 kernel_size: 5 stride: 4 {FILLER} }} }}
layer {{ name: "y" type: "Pooling" bottom: "a" top: "y"
  pooling_param {{ pool: AVE kernel_size: 2 }} }}""",
    "depthwise, one pixel, BatchNorm and Scale": f"""
layer {{ name: "a" type: "Convolution" bottom: "x" top: "a"
  convolution_param {{ num_output: 2 kernel_size: 3 group: 2 {FILLER} }} }}
layer {{ name: "b" type: "BatchNorm" bottom: "a" top: "b" }}
layer {{ name: "s" type: "Scale" bottom: "b" top: "s"
  scale_param {{ bias_term: true }} }}
layer {{ name: "y" type: "Convolution" bottom: "s" top: "y"
  convolution_param {{ num_output: 3 kernel_size: 1 {FILLER} }} }}""",
    "few channels and small top": f"""
layer {{ name: "a" type: "Convolution" bottom: "x" top: "a"
  convolution_param {{ num_output: 3 kernel_size: 5 pad: 2 {FILLER} }} }}
layer {{ name: "y" type: "Convolution" bottom: "a" top: "y"
  convolution_param {{ num_output: 3 kernel_size: 7 {FILLER} }} }}""",
    "deviations": """
layer { name: "y" type: "MVN" bottom: "x" top: "y" }""",
}
SEQUENCE = f"""
layer {{ name: "x" type: "Input" top: "x" top: "cont" top: "label"
  input_param {{ shape {{ dim: 4 dim: 3 dim: 6 }} shape {{ dim: 4 dim: 3 }}
    shape {{ dim: 12 }} }} }}
layer {{ name: "l" type: "LSTM" bottom: "x" bottom: "cont" top: "l"
  recurrent_param {{ num_output: 5 {FILLER} }} }}
layer {{ name: "y" type: "Reshape" bottom: "l" top: "y"
  reshape_param {{ shape {{ dim: 12 dim: 5 }} }} }}
"""
NETS = {name: IMAGES + body + LOSS for name, body in BODIES.items()}
NETS["LSTM"] = SEQUENCE + LOSS


@pytest.fixture(params=NETS)
def loss_of(request, net_of, key):
    """(params -> loss, params, direction), of nets that between them have all forms."""
    net = net_of(NETS[request.param])
    params, stats = net.init(key)
    keys = iter(jax.random.split(key, 100))

    def noise(array):
        return jax.random.normal(next(keys), array.shape)

    feeds = {name: noise(net.structs[name]) for name in ("x",)}
    if "cont" in net.structs:
        feeds["cont"] = jnp.ones((4, 3)).at[0].set(0).at[2, 1].set(0)
    feeds["label"] = jnp.arange(net.structs["label"].shape[0]) % 5.0

    def loss(params):
        return net.apply(params, stats, feeds, key).loss

    return loss, params, jax.tree.map(noise, params)


def dot(a, b):
    return sum(jax.tree.leaves(jax.tree.map(jnp.vdot, a, b)))


def test_plain_slope_forwards_equals_gradient_times_direction(loss_of):
    loss, params, direction = loss_of
    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    with plain():
        forwards = jax.jit(lambda p, d: jax.jvp(loss, (p,), (d,)))
        found, slope = forwards(params, direction)
        plain_gradient = jax.jit(jax.grad(loss))(params)
    np.testing.assert_allclose(found, value, rtol=1e-5)
    np.testing.assert_allclose(slope, dot(gradient, direction), rtol=1e-3, atol=1e-4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
        plain_gradient,
        gradient,
    )


def test_plain_hessian_product_equals_gradient_of_the_gradient(loss_of):
    loss, params, direction = loss_of

    def slope(params):
        return dot(jax.grad(loss)(params), direction)

    expected = jax.jit(jax.grad(slope))(params)
    with plain():
        product = jax.jit(lambda p, d: jax.jvp(jax.grad(loss), (p,), (d,))[1])
        found = product(params, direction)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-3),
        found,
        expected,
    )


def test_plain_jitted_function_is_compiled_apart(net_of, key):
    net = net_of(NETS["groups, LRN and maxima"])
    params, stats = net.init(key)
    feeds = {n: jnp.ones(net.structs[n].shape) for n in ("x", "label")}

    @jax.jit
    def loss(params):
        return net.apply(params, stats, feeds, key).loss

    loss(params)  # must not be what is run inside
    with plain():
        assert is_plain()
        jax.jvp(loss, (params,), (params,))
    assert not is_plain()
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(loss, (params,), (params,))
