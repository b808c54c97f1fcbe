"""One test net over its batches.

Follows Test of caffe/src/caffe/solver.cpp.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax

from jaxcaffe.display import Outputs
from jaxcaffe.prefetch import DeviceFeed
from jaxcaffe.signals import Requests
from jaxcaffe.spec import Blobs, Net, Params, Stats
from jaxcaffe.state import TrainState, add_hidden


class TestJob(NamedTuple):
    """One test net, compiled, with its records."""

    net: Net
    eval_step: Callable[..., tuple[Blobs, Stats]]  # see step.make_eval_step
    zero_sums: Callable[[], Blobs]
    own: Params  # weights of layers that the train net lacks
    feed: DeviceFeed
    test_iter: int
    # (params, stats, batch, key) of a batch; logs what debug_info asks for
    probe: Callable[[Params, Stats, Blobs, jax.Array], None] | None = None


def run_test(
    test: TestJob,
    index: int,
    state: TrainState,
    iteration: int,
    poll: Callable[[], Requests],
    save: Callable[[], None],
) -> tuple[Outputs | None, Stats]:
    """Runs one test net over test_iter batches.

    Args:
      test: the net and its records, which go on where the last test ended.
      index: its number, which random layers' keys depend on.
      state: its params, stats and hidden states are used, not changed.
      iteration: updates done.
      poll: looked at between batches.
      save: takes the snapshot for which a signal asks.

    Returns:
      For each output, and under "" for the total loss, the sum over the batches, or
      None if a signal asked to stop; and what the net remembers of them.

    Source: caffe/src/caffe/solver.cpp, Test. Differs: none.
    """
    # Far from the keys of training iterations, which are folded from 0 upwards.
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), 2**31 - 1 - index)
    key = jax.random.fold_in(key, iteration)
    params = {**test.own, **state.params}
    hidden = state.hidden[index]
    sums = test.zero_sums()
    for number in range(test.test_iter):
        asked = poll()
        if asked.snapshot and not asked.stop:
            save()
        if asked.stop:
            return None, hidden
        batch = next(test.feed)
        batch_key = jax.random.fold_in(key, number)
        if test.probe is not None:
            test.probe(params, add_hidden(state.stats, hidden), batch, batch_key)
        sums, hidden = test.eval_step(
            params, state.stats, hidden, sums, batch, batch_key
        )
    return jax.device_get(sums), hidden
