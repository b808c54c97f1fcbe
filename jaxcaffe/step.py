"""One training iteration and one test batch, each a single compiled program.

Follows the body of Solver::Step and Solver::Test in caffe/src/caffe/solver.cpp.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxcaffe.ops.update import update_if
from jaxcaffe.spec import Blobs, Net, NetOutput, Params, Stats
from jaxcaffe.state import TrainState, add_hidden, enter_loss, smoothed_loss

Augment = Callable[[Blobs, jax.Array], Blobs]
"""(host batch, key) -> float32 tops of the feed layers."""

Mask = Mapping[str, Mapping[str, bool]]
"""Layer -> blob -> whether the solver trains it."""


class StepReport(NamedTuple):
    """What a training step shows; nothing that the next step uses up."""

    outputs: Blobs  # blobs that no layer consumes, before the update
    loss: jax.Array  # () float32, smoothed over average_loss iterations
    rate: jax.Array  # () float32, the global learning rate of this update
    finite: jax.Array  # () bool: no loss so far was other than finite
    updates: Params | None = None  # what the update added, if it is kept
    # () float32: L2 norm of the summed gradients, if clip_gradients limits it
    norm: jax.Array | None = None


def make_train_step(
    *,
    net: Net,
    augment: Augment,
    tx: optax.GradientTransformation,
    schedule: optax.Schedule,
    trainable: Mask,
    iter_size: int,
    keep_updates: bool = False,
    sum_norm: Callable[[Params], jax.Array] | None = None,
) -> Callable[[TrainState, Blobs], tuple[TrainState, StepReport]]:
    """Returns step(state, batch) -> (state, report).

    The gradients of iter_size batches are summed and handed to `tx`, which divides.
    A loss that is not finite leaves the state as it was, with `finite` False, so the
    weights of the last good iteration survive and state.iter names the bad one.

    Args:
      net: the TRAIN net.
      augment: transforms a raw batch; part of the compiled program.
      tx: from solver.build.build_tx.
      schedule: from solver.schedule.make_schedule, for the report alone.
      trainable: blobs that get a gradient; the others are constants to autodiff.
      iter_size: batches per iteration; above 1 each array of `batch` has a leading
        axis of that length.
      keep_updates: the report holds the updates, which snapshot_diff asks for.
      sum_norm: gradients -> their norm, for the report; None leaves it out.

    Returns:
      A function to be jitted with the state donated. The report's outputs are those
      of the last batch.
    """

    def loss_and_outputs(
        train: Params, held: Params, stats: Stats, batch: Blobs, key: jax.Array
    ) -> tuple[jax.Array, tuple[Blobs, Stats]]:
        out = _forward(net, augment, _merge(train, held), stats, batch, key)
        outputs = {name: out.blobs[name] for name in net.graph.outputs}
        return out.loss, (outputs, out.stats)

    value_and_grad = jax.value_and_grad(loss_and_outputs, has_aux=True)

    def apply_update(
        old: tuple[Params, optax.OptState], grads: Params
    ) -> tuple[tuple[Params, optax.OptState], Params | None]:
        params, opt_state = old
        updates, opt_state = tx.update(grads, opt_state, params)
        new = optax.apply_updates(params, updates), opt_state
        return new, updates if keep_updates else None

    def step(state: TrainState, batch: Blobs) -> tuple[TrainState, StepReport]:
        train, held = _split(state.params, trainable)
        key = iteration_key(state)
        if iter_size == 1:
            (loss, (outputs, stats)), grads = value_and_grad(
                train, held, state.stats, batch, jax.random.fold_in(key, 0)
            )
        else:

            def accumulate(carry, part):
                grads, loss, stats = carry
                index, batch = part
                (value, (outputs, stats)), more = value_and_grad(
                    train, held, stats, batch, jax.random.fold_in(key, index)
                )
                grads = jax.tree.map(jnp.add, grads, more)
                return (grads, loss + value, stats), outputs

            zero = jax.tree.map(jnp.zeros_like, train)
            start = (zero, jnp.zeros((), jnp.float32), state.stats)
            (grads, loss, stats), outputs = jax.lax.scan(
                accumulate, start, (jnp.arange(iter_size), batch)
            )
            loss = loss / iter_size
            outputs = jax.tree.map(lambda x: x[-1], outputs)

        norm = sum_norm(grads) if sum_norm else None
        grads = _merge(grads, jax.tree.map(jnp.zeros_like, held))
        good = state.finite & jnp.isfinite(loss)
        learned, updates = update_if(
            good, apply_update, (state.params, state.opt_state), grads
        )
        rest = enter_loss(state, loss)._replace(iter=state.iter + 1, stats=stats)
        rest = jax.tree.map(
            lambda a, b: jnp.where(good, a, b),
            rest._replace(params={}, opt_state=()),
            state._replace(params={}, opt_state=()),
        )
        new = rest._replace(params=learned[0], opt_state=learned[1], finite=good)
        report = StepReport(
            outputs,
            smoothed_loss(new),
            schedule(state.iter),
            good,
            updates,
            norm,
        )
        return new, report

    return step


def make_eval_step(*, net: Net, augment: Augment) -> Callable[..., tuple[Blobs, Stats]]:
    """Returns eval_step(params, stats, hidden, sums, batch, key) -> (sums, hidden).

    `params` and `stats` are the train net's, with the weights of layers that it lacks.
    `hidden` is what the net remembers for itself, see state.pick_hidden; the rest of
    what a forward pass adds to the statistics is dropped.

    `sums` holds for each output of the net the sum over test batches so far, and
    under "" the sum of total losses; `zero_sums` starts it. Nothing reaches the host
    until the caller asks for the sums.
    """

    def eval_step(
        params: Params,
        stats: Stats,
        hidden: Stats,
        sums: Blobs,
        batch: Blobs,
        key: jax.Array,
    ) -> tuple[Blobs, Stats]:
        stats = add_hidden(stats, hidden)
        out = _forward(net, augment, params, stats, batch, key)
        sums = {
            name: total + (out.blobs[name] if name else out.loss)
            for name, total in sums.items()
        }
        hidden = {
            layer: {blob: out.stats[layer][blob] for blob in blobs}
            for layer, blobs in hidden.items()
        }
        return sums, hidden

    return eval_step


def zero_sums(net: Net) -> Blobs:
    """Returns zeros shaped like the net's outputs, and a () zero under ""."""
    sums = {
        name: jnp.zeros(net.structs[name].shape, jnp.float32)
        for name in net.graph.outputs
    }
    return {**sums, "": jnp.zeros((), jnp.float32)}


def make_loss_step(
    *, net: Net, augment: Augment
) -> Callable[[TrainState, Blobs], tuple[jax.Array, Stats]]:
    """Returns loss_step(state, batch) -> (loss, stats): a forward pass, no update.

    The loss is smoothed, () float32; the statistics are those after the pass.
    """

    def loss_step(state: TrainState, batch: Blobs) -> tuple[jax.Array, Stats]:
        key = jax.random.fold_in(iteration_key(state), 0)
        out = _forward(net, augment, state.params, state.stats, batch, key)
        return smoothed_loss(enter_loss(state, out.loss)), out.stats

    return loss_step


def make_finite_check(
    *, net: Net, augment: Augment
) -> Callable[[TrainState, Blobs, int], Mapping[str, jax.Array]]:
    """Returns check(state, batch, part) -> per blob, () bool: all values are finite.

    Runs the very forward pass whose loss was not finite, with the same random
    numbers, to find the first layer to blame. `batch` is number `part` of the
    iter_size batches of its iteration.
    """

    def check(state: TrainState, batch: Blobs, part: int) -> Mapping[str, jax.Array]:
        key = jax.random.fold_in(iteration_key(state), part)
        out = _forward(net, augment, state.params, state.stats, batch, key)
        return {name: jnp.all(jnp.isfinite(x)) for name, x in out.blobs.items()}

    return check


def _forward(
    net: Net,
    augment: Augment,
    params: Params,
    stats: Stats,
    batch: Blobs,
    key: jax.Array,
) -> NetOutput:
    augment_key, net_key = jax.random.split(key)
    return net.apply(params, stats, augment(batch, augment_key), net_key)


def iteration_key(state: TrainState) -> jax.Array:
    """Returns the key of the iteration that comes next; part i folds i into it."""
    return jax.random.fold_in(jax.random.wrap_key_data(state.key), state.iter)


def _split(params: Params, trainable: Mask) -> tuple[Params, Params]:
    def keep(wanted: bool) -> Params:
        return {
            layer: {b: x for b, x in blobs.items() if trainable[layer][b] == wanted}
            for layer, blobs in params.items()
        }

    return keep(True), keep(False)


def _merge(a: Params, b: Params) -> Params:
    return {layer: {**blobs, **b[layer]} for layer, blobs in a.items()}
