"""Layers with a memory: LSTM and RNN over whole sequences, and one LSTM timestep.

Follows caffe/src/caffe/layers/recurrent_layer.cpp, lstm_layer.cpp, rnn_layer.cpp and
lstm_unit_layer.cpp. T counts timesteps, N streams that run side by side, H outputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from jaxcaffe.errors import LayerError, plural
from jaxcaffe.layers.blobs import make_blob
from jaxcaffe.layers.checks import check_positive
from jaxcaffe.layers.registry import register
from jaxcaffe.ops.lstm import lstm, lstm_unit
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.spec import Shape


@register("LSTM", bottoms=(2, 5), tops=(1, 3), no_gradient=(1,))
class LSTM(nnx.Module):
    """Long short-term memory over T timesteps.

    With h and c of the timestep before, 0 where cont_t is 0:
    gates_t = W_xc x_t + b_c + W_xc_static x_static + W_hc h_{t-1}, cut into i, f, o, g;
    c_t = sigmoid(f) * c_{t-1} + sigmoid(i) * tanh(g); h_t = sigmoid(o) * tanh(c_t).

    Before the first timestep stand the h and c that the last forward pass ended with,
    zeros in the first one; with expose_hidden they come as bottoms and leave as tops.
    No gradient goes back beyond the first timestep.

    Blobs: W_xc (4 H, D) float32; b_c (4 H,); W_xc_static (4 H, S) only with x_static;
    W_hc (4 H, H). D and S are the elements of one x_t and one x_static.

    Args of the call:
      x: (T, N, ...) float32.
      cont: (T, N) float32: 0 where a sequence starts, 1 where it goes on.
      x_static: (N, ...) float32, optional: the same at every timestep.
      h_0, c_0: (1, N, H) float32, with expose_hidden only.

    Returns:
      h (T, N, H) float32; with expose_hidden also the last h and c, (1, N, H).

    Raises:
      LayerError: num_output 0; lengths that do not agree; a wrong number of bottoms or
        tops; whatever a filler refuses.

    Source: caffe/src/caffe/layers/lstm_layer.cpp and recurrent_layer.cpp. Differs:
    debug_info shows nothing more.
    """

    blobs = ("W_xc", "b_c", "W_xc_static", "W_hc")

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        bottom_shapes: Sequence[Shape],
        phase: int,
        rngs: nnx.Rngs,
    ) -> None:
        param = layer.recurrent_param
        _check(layer, bottom_shapes, ("h_0", "c_0"))
        self.expose_hidden = param.expose_hidden
        H = param.num_output
        self.W_xc, self.b_c, self.W_xc_static = _input_blobs(
            param, bottom_shapes, 4 * H, rngs, static=len(bottom_shapes) in (3, 5)
        )
        self.W_hc = make_blob(param.weight_filler, rngs, (4 * H, H))
        if not self.expose_hidden:
            state = jnp.zeros((bottom_shapes[0][1], H), jnp.float32)
            self.h, self.c = nnx.BatchStat(state), nnx.BatchStat(state)

    def __call__(
        self, x: jax.Array, cont: jax.Array, *others: jax.Array
    ) -> jax.Array | tuple[jax.Array, ...]:
        """Runs the sequences; see the class."""
        x_gates = _project(x, self.W_xc, self.b_c, self.W_xc_static, others)
        if self.expose_hidden:
            h_0, c_0 = (state[0] for state in others[-2:])
        else:
            h_0, c_0 = self.h.get_value(), self.c.get_value()
        h, c_T = lstm(x_gates, self.W_hc.get_value(), cont, h_0, c_0)
        h_T, c_T = lax.stop_gradient((h[-1], c_T))
        if self.expose_hidden:
            return h, h_T[None], c_T[None]
        self.h.set_value(h_T)
        self.c.set_value(c_T)
        return h


@register("RNN", bottoms=(2, 4), tops=(1, 2), no_gradient=(1,))
class RNN(nnx.Module):
    """A simple recurrent net over T timesteps.

    With h of the timestep before, 0 where cont_t is 0:
    h_t = tanh(W_hh h_{t-1} + W_xh x_t + b_h + W_xh_static x_static);
    o_t = tanh(W_ho h_t + b_o).

    Before the first timestep stands the h that the last forward pass ended with, zeros
    in the first one; with expose_hidden it comes as a bottom and leaves as a top. No
    gradient goes back beyond the first timestep.

    Blobs: W_xh (H, D) float32; b_h (H,); W_xh_static (H, S) only with x_static;
    W_hh (H, H); W_ho (H, H); b_o (H,). D and S are the elements of one x_t and one
    x_static.

    Args of the call:
      x: (T, N, ...) float32.
      cont: (T, N) float32: 0 where a sequence starts, 1 where it goes on.
      x_static: (N, ...) float32, optional: the same at every timestep.
      h_0: (1, N, H) float32, with expose_hidden only.

    Returns:
      o (T, N, H) float32; with expose_hidden also the last h, (1, N, H).

    Raises:
      LayerError: num_output 0; lengths that do not agree; a wrong number of bottoms or
        tops; whatever a filler refuses.

    Source: caffe/src/caffe/layers/rnn_layer.cpp and recurrent_layer.cpp. Differs:
    debug_info shows nothing more.
    """

    blobs = ("W_xh", "b_h", "W_xh_static", "W_hh", "W_ho", "b_o")

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        bottom_shapes: Sequence[Shape],
        phase: int,
        rngs: nnx.Rngs,
    ) -> None:
        param = layer.recurrent_param
        _check(layer, bottom_shapes, ("h_0",))
        self.expose_hidden = param.expose_hidden
        H = param.num_output
        self.W_xh, self.b_h, self.W_xh_static = _input_blobs(
            param,
            bottom_shapes,
            H,
            rngs,
            static=len(bottom_shapes) > 2 + param.expose_hidden,
        )
        self.W_hh = make_blob(param.weight_filler, rngs, (H, H))
        self.W_ho = make_blob(param.weight_filler, rngs, (H, H))
        self.b_o = make_blob(param.bias_filler, rngs, (H,))
        if not self.expose_hidden:
            state = jnp.zeros((bottom_shapes[0][1], H), jnp.float32)
            self.h = nnx.BatchStat(state)

    def __call__(
        self, x: jax.Array, cont: jax.Array, *others: jax.Array
    ) -> jax.Array | tuple[jax.Array, ...]:
        """Runs the sequences; see the class."""
        x_sums = _project(x, self.W_xh, self.b_h, self.W_xh_static, others)
        h_0 = others[-1][0] if self.expose_hidden else self.h.get_value()
        W_hh = self.W_hh.get_value()

        def step(
            h: jax.Array, inputs: tuple[jax.Array, jax.Array]
        ) -> tuple[jax.Array, jax.Array]:
            x_sum, cont_t = inputs
            h = jnp.tanh(x_sum + (cont_t[:, None] * h) @ W_hh.T)
            return h, h

        h_T, h = lax.scan(step, lax.stop_gradient(h_0), (x_sums, cont))
        h_T = lax.stop_gradient(h_T)
        o = jnp.tanh(h @ self.W_ho.get_value().T + self.b_o.get_value())
        if self.expose_hidden:
            return o, h_T[None]
        self.h.set_value(h_T)
        return o


@register("LSTMUnit", bottoms=3, tops=2, no_gradient=(2,))
class LSTMUnit(nnx.Module):
    """One timestep of an LSTM without its products.

    c = cont * sigmoid(f) * c_prev + sigmoid(i) * tanh(g); h = sigmoid(o) * tanh(c).

    Args of the call:
      c_prev: (1, N, H) float32.
      gates: (1, N, 4 H) float32: i, f, o, g one after another.
      cont: (1, N) float32: 0 where a sequence starts, 1 where it goes on.

    Returns:
      c and h, each (1, N, H) float32.

    Raises:
      LayerError: shapes that do not agree.

    Source: caffe/src/caffe/layers/lstm_unit_layer.cpp. Differs: none.
    """

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        bottom_shapes: Sequence[Shape],
        phase: int,
        rngs: nnx.Rngs,
    ) -> None:
        c_prev, gates, cont = bottom_shapes
        N, H = c_prev[1:] if len(c_prev) == 3 else (0, 0)
        if (c_prev, gates, cont) != ((1, N, H), (1, N, 4 * H), (1, N)):
            raise LayerError(
                f"bottoms have shapes {c_prev}, {gates} and {cont}",
                "1 x N x H, 1 x N x 4H and 1 x N",
            )

    def __call__(
        self, c_prev: jax.Array, gates: jax.Array, cont: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Computes one timestep; see the class."""
        return lstm_unit(c_prev, gates, cont)


def _input_blobs(
    param: caffe_pb2.RecurrentParameter,
    bottom_shapes: Sequence[Shape],
    outputs: int,
    rngs: nnx.Rngs,
    static: bool,
) -> tuple[nnx.Param, nnx.Param, nnx.Param | None]:
    """Returns what x, 1 and x_static are multiplied by."""

    def weight(inputs: Shape) -> nnx.Param:
        return make_blob(param.weight_filler, rngs, (outputs, math.prod(inputs)))

    x = weight(bottom_shapes[0][2:])
    bias = make_blob(param.bias_filler, rngs, (outputs,))
    return x, bias, weight(bottom_shapes[2][1:]) if static else None


def _project(
    x: jax.Array,
    weight: nnx.Param,
    bias: nnx.Param,
    static_weight: nnx.Param | None,
    others: Sequence[jax.Array],
) -> jax.Array:
    """Returns the inputs' share of all timesteps at once, (T, N, outputs)."""
    T, N = x.shape[:2]
    rows = x.reshape(T * N, -1) @ weight.get_value().T
    sums = rows.reshape(T, N, -1) + bias.get_value()
    if static_weight is not None:
        sums += others[0].reshape(N, -1) @ static_weight.get_value().T
    return sums


def _check(
    layer: caffe_pb2.LayerParameter,
    bottom_shapes: Sequence[Shape],
    states: tuple[str, ...],
) -> None:
    param = layer.recurrent_param
    check_positive("num_output", param.num_output)
    hidden = len(states) if param.expose_hidden else 0
    names = ", ".join(("x", "cont", "[x_static]", *states[:hidden]))
    if not 2 <= len(bottom_shapes) - hidden <= 3:
        raise LayerError(plural(len(bottom_shapes), "bottom"), f"bottoms {names}")
    if len(layer.top) != 1 + hidden:
        exposed = "with" if hidden else "without"
        raise LayerError(
            f"{plural(len(layer.top), 'top')} {exposed} expose_hidden", f"{1 + hidden}"
        )
    x, cont, *others = bottom_shapes
    if len(x) < 2:
        raise LayerError(f"bottom 0 has shape {x}", "timesteps x streams x ...")
    if cont != x[:2]:
        raise LayerError(
            f"bottom 1 (cont) has shape {cont}, bottom 0 {x}",
            f"{x[:2]}: timesteps x streams",
        )
    N = x[1]
    if len(others) > hidden and others[0][:1] != (N,):
        raise LayerError(
            f"bottom 2 (x_static) has shape {others[0]} for {N} streams",
            "streams x ...",
        )
    for shape, name in zip(others[len(others) - hidden :], states, strict=False):
        if shape != (1, N, param.num_output):
            raise LayerError(f"{name} has shape {shape}", f"{(1, N, param.num_output)}")
