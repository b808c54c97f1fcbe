"""Several training iterations as one compiled program, which saves starting each.

No counterpart in Caffe.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcaffe.spec import Blobs
from jaxcaffe.state import TrainState
from jaxcaffe.step import StepReport

Step = Callable[[TrainState, Blobs], tuple[TrainState, StepReport]]
"""(state, batch) -> (state, report) of one iteration."""

GroupStep = Callable[
    [TrainState, tuple[Blobs, ...], jax.typing.ArrayLike],
    tuple[TrainState, StepReport],
]
"""(state, batches, count) -> (state, report) of `count` iterations."""

Advance = Callable[[TrainState, Sequence[Blobs]], tuple[TrainState, StepReport]]
"""(state, one or more batches) -> (state, report) of as many iterations."""


def make_group_step(step: Step) -> GroupStep:
    """Returns group(state, batches, count) -> (state, report).

    It calls `step` with the first `count` of the batches, () int32, at least 1. How
    many there are is known only when the program runs, so it has one loop with one
    body for all numbers: how iterations are grouped changes no bit of their results.

    The report is the last iteration's, but for `norm`, which has one row for each
    batch, (K,) float32; rows from `count` on are 0.

    Args:
      step: from step.make_train_step.

    Returns:
      A function to be jitted with the state donated; batches of one shape.
    """

    def group(
        state: TrainState,
        batches: tuple[Blobs, ...],
        count: jax.typing.ArrayLike,
    ) -> tuple[TrainState, StepReport]:
        stacked = jax.tree.map(lambda *arrays: jnp.stack(arrays), *batches)
        struct = jax.eval_shape(step, state, batches[0])[1]
        report = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), struct)
        norms = None if report.norm is None else jnp.zeros(len(batches), jnp.float32)

        def body(
            i: jax.Array, carry: tuple[TrainState, StepReport, jax.Array | None]
        ) -> tuple[TrainState, StepReport, jax.Array | None]:
            state, _, norms = carry
            batch = jax.tree.map(
                lambda x: lax.dynamic_index_in_dim(x, i, keepdims=False), stacked
            )
            state, report = step(state, batch)
            if norms is not None:
                norms = norms.at[i].set(report.norm)
            return state, report, norms

        start = (state, report, norms)
        state, report, norms = lax.fori_loop(0, count, body, start)
        return state, report._replace(norm=norms)

    return group


def advance_by_group(group_step: GroupStep, size: int) -> Advance:
    """Returns advance(state, batches): a group step that takes up to `size` batches.

    Args:
      group_step: compiled; it always gets `size` batches, the last one repeated.
      size: the largest number of batches.
    """

    def advance(
        state: TrainState, batches: Sequence[Blobs]
    ) -> tuple[TrainState, StepReport]:
        count = len(batches)
        whole = (*batches, *[batches[-1]] * (size - count))
        return group_step(state, whole, np.int32(count))

    return advance


def advance_by_one(step: Step) -> Advance:
    """Returns advance(state, batches): a step that takes one batch.

    Args:
      step: compiled.
    """

    def advance(
        state: TrainState, batches: Sequence[Blobs]
    ) -> tuple[TrainState, StepReport]:
        (batch,) = batches
        return step(state, batch)

    return advance
