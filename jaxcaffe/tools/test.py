"""Scores a net on the data of its own data layers: `jaxcaffe test`.

Follows the test command of caffe/tools/caffe.cpp.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxcaffe import errors, log, sharding
from jaxcaffe.display import loss_weights
from jaxcaffe.log import logger
from jaxcaffe.own_net import OwnNet, add_net_flags, check_net_flags, open_own_net
from jaxcaffe.pretrained import load_pretrained
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.spec import Blobs, Params, Stats
from jaxcaffe.tools import cli

DESCRIPTION = """\
Scores a net: runs it in phase TEST on the batches of its data layers and logs the
outputs of each, then the mean loss and the mean of each output.

  jaxcaffe test -model train_val.prototxt -weights net.caffemodel
  jaxcaffe test -model train_val.prototxt -weights runs/digits/snapshots/400 \\
    -iterations 6"""

_IN_FLIGHT = 2  # batches that the device may be behind what is logged


def main(argv: Sequence[str]) -> int:
    """Runs the command line; see --help. Returns the exit status.

    Raises:
      CaffeError: whatever the files, the data or the flags say that cannot be.
    """
    log.quieten_libraries()
    parser = cli.Parser("jaxcaffe test", DESCRIPTION)
    parser.flag("weights", "", "a .caffemodel, a .caffemodel.h5 or a snapshot's folder")
    add_net_flags(parser)
    flags = parser.parse(argv)
    check_net_flags("jaxcaffe test", flags)
    if not flags.weights:
        raise errors.ConfigError(
            errors.describe(
                "jaxcaffe test", "no weights are given", "-weights net.caffemodel"
            )
        )
    with log.logging_to(None), errors.from_callbacks():
        own = open_own_net(flags, caffe_pb2.TEST)
        params, stats = load_pretrained(own.fed.net, flags.weights)
        logger.info("Running for %d iterations.", flags.iterations)
        score(own, params, stats, flags.iterations)
    return 0


def score(
    own: OwnNet, params: Params, stats: Stats, iterations: int
) -> Mapping[str, np.ndarray]:
    """Runs a net over its batches and logs what comes out.

    Args:
      own: the net with its data.
      params: its weights.
      stats: its statistics; what a batch adds to them is there for the next one.
      iterations: how many batches.

    Returns:
      The mean of each output over the batches, and under "" that of the loss.

    Source: caffe/tools/caffe.cpp, test. Differs: none.
    """
    sums: dict[str, Any] = {}
    for batch, outputs in enumerate(_run(own, params, stats, iterations)):
        for name, values in outputs.items():
            for value in np.ravel(values) if name else ():
                logger.info("Batch %d, %s = %g", batch, name, value)
        sums = {n: v + sums[n] if sums else np.asarray(v) for n, v in outputs.items()}
    means = {name: total / np.float32(iterations) for name, total in sums.items()}
    logger.info("Loss: %g", means[""])
    weights = loss_weights(own.fed.net)
    for name, values in means.items():
        weight = weights.get(name, 0.0)
        for value in np.ravel(values) if name else ():
            share = f" (* {weight:g} = {weight * value:g} loss)" if weight else ""
            logger.info("%s = %g%s", name, value, share)
    return means


def _run(own: OwnNet, params: Params, stats: Stats, iterations: int) -> Iterator[Blobs]:
    """Yields the outputs of each batch on the host, under "" its loss."""
    forward = _make_forward(own)
    whole = sharding.replicated(own.mesh)
    params, stats = jax.device_put((params, stats), whole)
    key = jax.random.key(0)
    feed = own.open_feed()
    waiting: deque[Any] = deque()
    try:
        for number in range(iterations):
            batch = next(feed) if own.fed.feeds else {}
            outputs, stats = forward(
                params, stats, batch, jax.random.fold_in(key, number)
            )
            waiting.append(outputs)
            if len(waiting) > _IN_FLIGHT:
                yield jax.device_get(waiting.popleft())
        while waiting:
            yield jax.device_get(waiting.popleft())
    finally:
        feed.close()


def _make_forward(own: OwnNet) -> Callable[..., tuple[Blobs, Stats]]:
    net, augment = own.fed.net, own.fed.augment

    def forward(
        params: Params, stats: Stats, batch: Blobs, key: jax.Array
    ) -> tuple[Blobs, Stats]:
        augment_key, net_key = jax.random.split(key)
        out = net.apply(params, stats, augment(batch, augment_key), net_key)
        outputs = {name: out.blobs[name] for name in net.graph.outputs}
        return {"": out.loss, **outputs}, out.stats

    return jax.jit(forward, out_shardings=sharding.replicated(own.mesh))


if __name__ == "__main__":
    cli.run(main)
