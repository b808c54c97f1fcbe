"""Reads and transforms batches in jaxcaffe, as input_speed.py asks for them."""

from __future__ import annotations

import json
import sys

import jax
from turns import serve

from jaxcaffe import sharding
from jaxcaffe.augment import make_augment
from jaxcaffe.data import pipeline
from jaxcaffe.prefetch import DeviceFeed
from jaxcaffe.proto import caffe_pb2, text


def main(task: dict) -> None:
    """Opens the data layer that `task` describes, and serves its batches."""
    net = text.parse_net(task["layer"], "")[0]
    layer = net.layer[0]
    options = pipeline.FeedOptions(
        threads=task["readers"], processes=task["processes"], prefetch=task["prefetch"]
    )
    feed = pipeline.open_feed(layer, caffe_pb2.TRAIN, options, "")
    augment = jax.jit(make_augment([layer], feed.structs, caffe_pb2.TRAIN))
    where = sharding.split_batch(sharding.make_mesh())
    batches = DeviceFeed(
        pipeline.FeedReader((feed,), options),
        lambda batch: sharding.put_batch(batch, where),
    )
    key = jax.random.key(0)

    def run(steps: int) -> None:
        # As in training: a batch is used while the next ones are read.
        for _ in range(steps):
            tops = augment(next(batches), key)
        jax.block_until_ready(tops)

    run(3)
    serve(run)
    batches.close()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
