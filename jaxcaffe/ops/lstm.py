"""A whole LSTM sequence: products outside the loop wherever they can be.

Follows caffe/src/caffe/layers/lstm_layer.cpp and lstm_unit_layer.cpp.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from jaxcaffe.ops.plain import is_plain

_Saved = tuple[jax.Array, ...]


def lstm(
    x_gates: jax.Array,
    weight: jax.Array,
    cont: jax.Array,
    h_0: jax.Array,
    c_0: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Runs an LSTM over T timesteps of N streams.

    gates_t = x_gates_t + (cont_t * h_{t-1}) weight^T, then `lstm_unit`.

    A custom gradient: the weight's is one product over all timesteps, where autodiff
    would add up T of them. The loop backwards therefore hands out only the gradients of
    the gates.

    Args:
      x_gates: (T, N, 4 H) float32, the inputs' share of gates i, f, o, g.
      weight: (4 H, H) float32.
      cont: (T, N) float32, 0 where a sequence starts and 1 where it goes on.
      h_0: (N, H) float32, before the first timestep; gets no gradient.
      c_0: (N, H) float32, likewise.

    Returns:
      h (T, N, H) and the last c (N, H), float32; no gradient comes from the latter.
    """
    if is_plain():
        given = lax.stop_gradient((cont, h_0, c_0))
        h, c, _ = _run(x_gates, weight, *given)
        return h, lax.stop_gradient(c[-1])
    return _lstm(x_gates, weight, cont, h_0, c_0)


def lstm_unit(
    c_prev: jax.Array, gates: jax.Array, cont: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns the cells and outputs of one timestep.

    c = f * c_prev + i * g, h = o * tanh(c), with i and o the sigmoids of their gates, g
    the tanh of its gate, and f = cont * sigmoid(its gate). The gradient of f is taken
    as f * (1 - f), which is exact where cont is 0 or 1.

    Args:
      c_prev: (..., H) float32.
      gates: (..., 4 H) float32, i, f, o and g.
      cont: (...) float32; gets no gradient.

    Returns:
      c and h, each (..., H) float32.

    Source: caffe/src/caffe/layers/lstm_unit_layer.cpp.
    """
    i, f, o, g = _activate(gates, cont)
    c = f * c_prev + i * g
    return c, o * jnp.tanh(c)


@jax.custom_jvp
def _forget(gate: jax.Array, cont: jax.Array) -> jax.Array:
    # Not 0 * sigmoid, which is NaN where the gate is.
    return jnp.where(cont == 0, 0, cont * jax.nn.sigmoid(gate))


@_forget.defjvp
def _forget_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    f = _forget(*primals)
    return f, f * (1 - f) * tangents[0]


def _activate(gates: jax.Array, cont: jax.Array) -> tuple[jax.Array, ...]:
    i, f, o, g = jnp.split(gates, 4, axis=-1)
    sigmoid = jax.nn.sigmoid
    return sigmoid(i), _forget(f, cont[..., None]), sigmoid(o), jnp.tanh(g)


def _run(
    x_gates: jax.Array,
    weight: jax.Array,
    cont: jax.Array,
    h_0: jax.Array,
    c_0: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns h and c of every timestep and the full gates, each (T, N, ...)."""

    def step(carry, inputs):
        h, c = carry
        x_gates_t, cont_t = inputs
        gates = x_gates_t + (cont_t[:, None] * h) @ weight.T
        c, h = lstm_unit(c, gates, cont_t)
        return (h, c), (h, c, gates)

    return lax.scan(step, (h_0, c_0), (x_gates, cont))[1]


def _forward(
    x_gates: jax.Array,
    weight: jax.Array,
    cont: jax.Array,
    h_0: jax.Array,
    c_0: jax.Array,
) -> tuple[tuple[jax.Array, jax.Array], _Saved]:
    h, c, gates = _run(x_gates, weight, cont, h_0, c_0)
    return (h, c[-1]), (weight, cont, h_0, c_0, h, c, gates)


def _backward(
    saved: _Saved, diffs: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array | None, ...]:
    weight, cont, h_0, c_0, h, c, gates = saved
    h_diff, _ = diffs
    h_prev = jnp.concatenate([h_0[None], h[:-1]])
    c_prev = jnp.concatenate([c_0[None], c[:-1]])

    def step(carry, inputs):
        h_later, c_later = carry  # what the next timestep asks of this one
        h_diff_t, cont_t, c_prev_t, gates_t = inputs
        pull = jax.vjp(lambda c, gates: lstm_unit(c, gates, cont_t), c_prev_t, gates_t)
        c_earlier, gates_diff = pull[1]((c_later, h_diff_t + h_later))
        h_earlier = cont_t[:, None] * (gates_diff @ weight)
        return (h_earlier, c_earlier), gates_diff

    nothing = (jnp.zeros_like(h_0), jnp.zeros_like(c_0))
    inputs = (h_diff, cont, c_prev, gates)
    gates_diff = lax.scan(step, nothing, inputs, reverse=True)[1]
    weight_diff = jnp.einsum("tng,tnh->gh", gates_diff, cont[..., None] * h_prev)
    return gates_diff, weight_diff, None, None, None


_lstm = jax.custom_vjp(lambda *arrays: _forward(*arrays)[0])
_lstm.defvjp(_forward, _backward)
