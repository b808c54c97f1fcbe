"""Times a net on its own data, in Caffe's words: `jaxcaffe time`.

Follows the time command of caffe/tools/caffe.cpp.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from jaxcaffe import errors, log, sharding
from jaxcaffe.log import logger
from jaxcaffe.own_net import OwnNet, add_net_flags, check_net_flags, open_own_net
from jaxcaffe.prefetch import DeviceFeed
from jaxcaffe.profiling.from_config import time_feeds
from jaxcaffe.profiling.from_net import make_loss
from jaxcaffe.profiling.layers import time_layers
from jaxcaffe.profiling.timing import time_call
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.spec import Blobs, Params, Stats
from jaxcaffe.tools import cli

DESCRIPTION = """\
Times the forward and backward passes of a net on the batches of its data layers.

  jaxcaffe time -model train_val.prototxt -iterations 10
  jaxcaffe time -model deploy.prototxt -phase TEST

The passes are timed as they run, each one compiled program, and the layers each by
itself. XLA fuses layers, so the layers' times add up to more. jaxcaffe profile tells
more, also of a run with its updates."""


class Passes(NamedTuple):
    """What is timed, compiled on its first call."""

    feed: Callable[[], Blobs]  # gives the next batch, as the data layers read it
    forward: Callable[[Blobs], jax.Array]  # batch -> loss
    both: Callable[[Blobs], Any]  # batch -> loss and gradients


def main(argv: Sequence[str]) -> int:
    """Runs the command line; see --help. Returns the exit status.

    Raises:
      CaffeError: whatever the files, the data or the flags say that cannot be.
    """
    parser = cli.Parser("jaxcaffe time", DESCRIPTION)
    add_net_flags(parser)
    parser.flag("phase", "TRAIN", "of the net", choices=("TRAIN", "TEST"))
    flags = parser.parse(argv)
    check_net_flags("jaxcaffe time", flags)
    with log.logging_to(None), errors.from_callbacks():
        own = open_own_net(flags, caffe_pb2.Phase.Value(flags.phase))
        feed = own.open_feed()
        try:
            _print_times(own, feed, flags.iterations)
        finally:
            feed.close()
    return 0


def _print_times(own: OwnNet, feed: DeviceFeed, iterations: int) -> None:
    """Measures and logs everything, in Caffe's order."""
    net, fed = own.fed.net, own.fed
    fill_key, key = jax.random.split(jax.random.key(0))
    whole = sharding.replicated(own.mesh)
    params, stats = jax.jit(net.init, out_shardings=whole)(fill_key)
    passes = _make_passes(own, feed, params, stats, key)
    batch = passes.feed()
    logger.info("Performing Forward")
    logger.info("Initial loss: %g", passes.forward(batch))
    logger.info("Performing Backward")
    jax.block_until_ready(passes.both(batch))

    logger.info("*** Benchmark begins ***")
    logger.info("Testing for %d iterations.", iterations)
    total = 0.0
    for number in range(1, iterations + 1):
        begin = time.perf_counter()
        jax.block_until_ready(passes.both(passes.feed()))
        taken = (time.perf_counter() - begin) * 1e3
        total += taken
        logger.info("Iteration: %d forward-backward time: %g ms.", number, taken)
    forward = time_call(lambda: passes.forward(passes.feed()), iterations)
    logger.info("Average time per layer: ")
    reading = dict(time_feeds(fed, batch, key, iterations)) if fed.feeds else {}
    feeds = jax.jit(fed.augment)(batch, key)
    for name, ahead, back in _layer_rows(
        own, params, stats, feeds, reading, key, iterations
    ):
        logger.info("%10s\tforward: %g ms.", name, ahead)
        logger.info("%10s\tbackward: %g ms.", name, back)
    logger.info("Average Forward pass: %g ms.", forward)
    # The two are measured apart; noise must not make time negative.
    logger.info("Average Backward pass: %g ms.", max(total / iterations - forward, 0.0))
    logger.info("Average Forward-Backward: %g ms.", total / iterations)
    logger.info("Total Time: %g ms.", total)
    logger.info("*** Benchmark ends ***")


def _make_passes(
    own: OwnNet,
    feed: DeviceFeed,
    params: Params,
    stats: Stats,
    key: jax.Array,
) -> Passes:
    net, augment = own.fed.net, own.fed.augment
    whole = sharding.replicated(own.mesh)
    loss_of = make_loss(net)

    def loss(params: Params, stats: Stats, batch: Blobs) -> jax.Array:
        augment_key, net_key = jax.random.split(key)
        return loss_of(params, stats, augment(batch, augment_key), net_key)

    both = jax.value_and_grad(loss) if params else loss
    run_forward = jax.jit(loss, out_shardings=whole)
    run_both = jax.jit(both, out_shardings=whole)
    return Passes(
        lambda: next(feed) if own.fed.feeds else {},
        functools.partial(run_forward, params, stats),
        functools.partial(run_both, params, stats),
    )


def _layer_rows(
    own: OwnNet,
    params: Params,
    stats: Stats,
    feeds: Blobs,
    reading: Mapping[str, float],
    key: jax.Array,
    iterations: int,
) -> Iterator[tuple[str, float, float]]:
    """Yields name, forward and backward in ms of each layer, then of what is no layer.

    A data layer's forward is the reading of a batch; what transform_param asks for is
    done on the device, for all data layers together, and has a row of its own.
    """
    # Layers are timed on one device, on whole batches.
    one = own.mesh.devices.flat[0]
    params, stats, feeds = jax.device_put((params, stats, feeds), one)
    rest = dict(reading)
    for row in time_layers(own.fed.net, params, stats, feeds, key, iterations):
        yield row.name, rest.pop(row.name, row.forward), row.backward
    yield from ((name, taken, 0.0) for name, taken in rest.items())


if __name__ == "__main__":
    cli.run(main)
