"""What one iteration hands to the next."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxcaffe.spec import Net, Params, Stats


class TrainState(NamedTuple):
    """Everything that a training step reads and replaces; all of it is snapshotted.

    Random numbers of iteration i come from fold_in(key, i), so no generator state
    moves along.
    """

    iter: jax.Array  # () int32: updates done
    params: Params
    stats: Stats
    opt_state: optax.OptState
    key: jax.Array  # (2,) uint32: data of the PRNG key, the same for the whole run
    losses: jax.Array  # (average_loss,) float32: the latest losses, in a ring
    loss_count: jax.Array  # () int32: losses entered into the ring
    finite: jax.Array  # () bool: False once a loss was not; then nothing changes
    hidden: tuple[Stats, ...] = ()  # per test net, what `pick_hidden` gives


def init_state(
    params: Params,
    stats: Stats,
    tx: optax.GradientTransformation,
    key: jax.Array,
    average_loss: int,
    hidden: tuple[Stats, ...] = (),
) -> TrainState:
    """Returns the state before iteration 0; pure, so jit and eval_shape take it.

    Args:
      params: learned blobs, owners only.
      stats: blobs that forward passes update.
      tx: from solver.build.build_tx.
      key: () PRNG key from which every iteration's random numbers derive.
      average_loss: length of the loss window, in iterations.
      hidden: per test net, as `pick_hidden` gives it.
    """
    return TrainState(
        iter=jnp.zeros((), jnp.int32),
        params=params,
        stats=stats,
        opt_state=tx.init(params),
        key=jax.random.key_data(key),
        losses=jnp.zeros((average_loss,), jnp.float32),
        loss_count=jnp.zeros((), jnp.int32),
        finite=jnp.ones((), bool),
        hidden=hidden,
    )


def pick_hidden(test_net: Net, train_net: Net, stats: Stats) -> Stats:
    """Returns what a test net remembers for itself between batches and tests.

    That are the hidden states of its recurrent layers, whose batch may be of another
    size than the train net's, and the statistics of layers that the train net lacks.
    Statistics that are blobs of both nets are shared and left out.

    Args:
      test_net: a net of phase TEST.
      train_net: the net that it is tested for.
      stats: of the test net.

    Source: caffe/src/caffe/net.cpp, ShareTrainedLayersWith. Differs: none.
    """
    shared = {info.owner for info in train_net.params if info.is_stat}
    picked = {
        layer: {blob: x for blob, x in blobs.items() if (layer, blob) not in shared}
        for layer, blobs in stats.items()
    }
    return {layer: blobs for layer, blobs in picked.items() if blobs}


def add_hidden(stats: Stats, hidden: Stats) -> Stats:
    """Returns the train net's stats with a test net's own in their places."""
    own = {layer: {**stats.get(layer, {}), **h} for layer, h in hidden.items()}
    return {**stats, **own}


def find_non_finite(state: TrainState) -> str | None:
    """Returns the name of a learned blob or statistic that is not finite, or None."""
    for tree in (state.params, state.stats):
        verdicts = jax.device_get(_all_finite(tree))
        for layer, blobs in verdicts.items():
            for blob, finite in blobs.items():
                if not finite:
                    return f'blob "{blob}" of layer "{layer}"'
    return None


@jax.jit
def _all_finite(tree: Any) -> Any:
    return jax.tree.map(lambda x: jnp.all(jnp.isfinite(x)), tree)


def enter_loss(state: TrainState, loss: jax.Array) -> TrainState:
    """Returns the state with a () float32 loss in place of the oldest in the ring."""
    slot = state.loss_count % state.losses.shape[0]
    return state._replace(
        losses=state.losses.at[slot].set(loss), loss_count=state.loss_count + 1
    )


def fit_window(state: TrainState, average_loss: int) -> TrainState:
    """Returns the state with a ring of another length, holding the latest losses.

    Args:
      state: as a snapshot held it; returned as it is if the length fits.
      average_loss: the new length, in iterations.
    """
    length = state.losses.shape[0]
    if length == average_loss:
        return state
    count = int(state.loss_count)
    order = [(count - 1 - back) % length for back in range(min(count, length))]
    latest = state.losses[jnp.array(order[:average_loss][::-1], jnp.int32)]
    ring = jnp.zeros((average_loss,), jnp.float32).at[: len(latest)].set(latest)
    return state._replace(
        losses=ring, loss_count=jnp.array(len(latest), state.loss_count.dtype)
    )


def smoothed_loss(state: TrainState) -> jax.Array:
    """Returns the mean of the losses in the ring, () float32.

    Source: caffe/src/caffe/solver.cpp, UpdateSmoothedLoss. Differs: the window also
    survives a snapshot.
    """
    held = jnp.minimum(state.loss_count, state.losses.shape[0])
    return jnp.sum(state.losses) / jnp.maximum(held, 1)
