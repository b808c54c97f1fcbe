"""A net's prototxt by itself, on random inputs, as a subject to profile.

Follows the time command of caffe/tools/caffe.cpp.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxcaffe.augment import make_augment
from jaxcaffe.data import pipeline
from jaxcaffe.errors import DataError, PrototxtError, describe_layer
from jaxcaffe.layers import registry
from jaxcaffe.net import graph, translate
from jaxcaffe.profiling.subject import Program, Subject
from jaxcaffe.proto import caffe_pb2, text, upgrade
from jaxcaffe.spec import Blobs, Graph, Net, Node, Params, Shape, Stats

_HINT = "--shape=C,H,W, to time the net on random numbers of that shape"


def open_net(
    path: str, asked: caffe_pb2.NetState, shape: Shape | None, precision: str
) -> Subject:
    """Builds a net, fills its weights and makes up its inputs.

    Args:
      path: a net's prototxt.
      asked: phase, level and stages.
      shape: (C, H, W) of one record of its data layers, before crop_size; None to look
        at their data.
      precision: that has been set, for the report.

    Raises:
      PrototxtError: the net is wrong.
      DataError: a data layer's data are missing, and `shape` too.
    """
    parameter, source = text.read_net(path)
    parameter = upgrade.upgrade_net(parameter, source)
    built = graph.build_graph(parameter, asked, source)
    net = translate.build_net(built, feed_structs(built, asked.phase, shape))
    fill_key, feed_key, run_key = jax.random.split(jax.random.key(0), 3)
    params, stats = jax.jit(net.init)(fill_key)
    feeds = make_feeds(net, feed_key)

    def forward(params: Params, stats: Stats, feeds: Blobs, key: jax.Array) -> Blobs:
        out = net.apply(params, stats, feeds, key)
        return {name: out.blobs[name] for name in net.graph.outputs}

    arguments = (params, stats, feeds, run_key)
    programs = [Program("Forward", jax.jit(forward), arguments)]
    if params:
        both = jax.value_and_grad(make_loss(net))
        programs.append(Program("Forward and backward", jax.jit(both), arguments))
    return Subject(
        path=path,
        net=net,
        params=params,
        stats=stats,
        feeds=feeds,
        key=run_key,
        images=next(iter(feeds.values())).shape[0] if feeds else 1,
        devices=1,
        precision=precision,
        time_feeds=lambda iterations: {},
        programs=tuple(programs),
        close=lambda: None,
    )


def make_feeds(net: Net, key: jax.Array) -> Blobs:
    """Makes up the tops of a net's feed layers, float32.

    Normally distributed numbers; zeros, which are a class everywhere, for labels: what
    a loss or Accuracy layer takes beside its first bottom, or what has one axis.
    """
    labels = _label_blobs(net)
    feeds: Blobs = {}
    for node, call in zip(net.graph.nodes, net.calls, strict=True):
        for top in node.tops if call is None else ():
            # As any in-place layer leaves it: none changes the shape of its bottom.
            shape = net.structs[top].shape
            if top in labels or len(shape) < 2:
                feeds[top] = jnp.zeros(shape, jnp.float32)
            else:
                top_key = jax.random.fold_in(key, len(feeds))
                # In a row: with several short axes they take long to compile.
                drawn = jax.random.normal(top_key, (math.prod(shape),), jnp.float32)
                feeds[top] = drawn.reshape(shape)
    return feeds


def _label_blobs(net: Net) -> set[str]:
    labels: set[str] = set()
    for node in reversed(net.graph.nodes):
        if node.layer.type == "Split" and any(top in labels for top in node.tops):
            labels.add(node.bottoms[0])
        if node.layer.type.endswith(("Loss", "Accuracy")):
            labels.update(node.bottoms[1:])
    return labels


def make_loss(
    net: Net,
) -> Callable[[Params, Stats, Blobs, jax.Array], jax.Array]:
    """Returns the loss of a net, or the sum of its outputs if it has none."""
    is_loss = any(any(node.loss_weights) for node in net.graph.nodes)

    def loss(params: Params, stats: Stats, feeds: Blobs, key: jax.Array) -> jax.Array:
        out = net.apply(params, stats, feeds, key)
        if is_loss:
            return out.loss
        return sum(
            (jnp.sum(out.blobs[name]) for name in net.graph.outputs), jnp.zeros(())
        )

    return loss


def feed_structs(
    built: Graph, phase: int, shape: Shape | None
) -> dict[str, jax.ShapeDtypeStruct]:
    """Finds the shapes of the data layers' tops; Input layers tell their own.

    Args:
      built: a net.
      phase: caffe_pb2.TRAIN or caffe_pb2.TEST.
      shape: (C, H, W) of one record, before crop_size; None to look at the data.

    Raises:
      PrototxtError: where `shape` is given, a data layer has no batch_size, or a
        crop_size larger than the record.
      DataError: a data layer's data are missing, where it is not.
    """
    nodes = [node for node in built.nodes if _needs_data(node)]
    if shape is not None:
        return {
            top: jax.ShapeDtypeStruct(
                (_batch_size(node), *(() if index else _crop(node, shape))), jnp.float32
            )
            for node in nodes
            for index, top in enumerate(node.tops)
        }
    structs: dict[str, tuple[tuple[int, ...], np.dtype]] = {}
    for node in nodes:
        try:
            feed = pipeline.open_feed(
                node.layer, phase, pipeline.FeedOptions(), node.where
            )
        except DataError as error:
            raise DataError(f"{error} Or: {_HINT}.") from error
        structs.update(feed.structs)
    augment = make_augment(
        [node.layer for node in nodes], structs, phase, [node.where for node in nodes]
    )
    batch = {top: jax.ShapeDtypeStruct(*struct) for top, struct in structs.items()}
    return jax.eval_shape(augment, batch, jax.random.key(0))


def _needs_data(node: Node) -> bool:
    kind = registry.lookup(node.layer.type)
    assert kind is not None, node.layer.type
    return kind.module is None and node.layer.type != "Input"


def _crop(node: Node, shape: Shape) -> Shape:
    """Returns what crop_size leaves of a record, where the layer's type crops."""
    size = node.layer.transform_param.crop_size
    if not size or node.layer.type not in ("Data", "ImageData", "WindowData"):
        return shape
    channels, height, width = shape
    # Windows are stretched to it, other images only cut.
    if size > min(height, width) and node.layer.type != "WindowData":
        raise PrototxtError(
            describe_layer(
                node.where,
                node.layer.name,
                node.layer.type,
                f"crop_size is {size}, the records are {channels}x{height}x{width}",
                f"at most {min(height, width)}, or records of at least {size}x{size}",
            )
        )
    return channels, size, size


def _batch_size(node: Node) -> int:
    """Returns the batch_size of whichever message the data layer has."""
    for field, message in node.layer.ListFields():
        if field.name.endswith("data_param") and message.batch_size:
            return message.batch_size
    raise PrototxtError(
        describe_layer(
            node.where,
            node.layer.name,
            node.layer.type,
            "has no batch_size",
            "batch_size of at least 1",
        )
    )
