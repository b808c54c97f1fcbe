"""A net together with the records that feed it.

Follows how a Net of caffe/src/caffe/net.cpp owns its data layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from jaxcaffe import construction, errors, sharding, step
from jaxcaffe.augment import make_augment
from jaxcaffe.data import messages, pipeline
from jaxcaffe.labels import label_limits
from jaxcaffe.log import logger
from jaxcaffe.net import graph, translate
from jaxcaffe.prefetch import DeviceFeed
from jaxcaffe.proto import caffe_pb2, text
from jaxcaffe.solver import nets
from jaxcaffe.spec import Blobs, Graph, Net, ParamInfo


class FedNet(NamedTuple):
    """A net with the records that feed it."""

    net: Net
    feeds: tuple[pipeline.Feed, ...]
    options: pipeline.FeedOptions
    augment: step.Augment
    batch_structs: dict[str, jax.ShapeDtypeStruct]  # of one host batch
    sharding: jax.sharding.NamedSharding  # of one host batch
    test_iter: int  # batches of one test; 0 for the train net


def feed_net(
    config: ml_collections.ConfigDict,
    built: Graph,
    use: nets.NetUse,
    seed: int,
    mesh: jax.sharding.Mesh,
    trained: Sequence[ParamInfo] = (),
) -> FedNet:
    """Opens a net's data layers and translates the net for what they give.

    Args:
      config: its `data` says how records are read.
      built: the net's graph.
      use: its phase and test_iter.
      seed: of shuffles.
      mesh: the devices that batches are divided over.
      trained: blobs of the TRAIN net that a TEST net takes over; see build_net.

    Raises:
      CaffeError: whatever the data or the layers say that cannot be.
    """
    data = config.data
    sources = {"TRAIN": data.source_train, "TEST": data.source_test}
    options = pipeline.FeedOptions(
        seed=seed,
        shuffle=data.shuffle,
        sources={phase: source for phase, source in sources.items() if source},
        tfds_dir=data.tfds_dir or None,
        resize=data.resize,
        size=data.size,
        crop_on_host=True if data.crop_on_host else None,
        threads=data.threads,
        prefetch=data.prefetch,
        processes=data.processes,
    )
    nodes = [node for node in built.nodes if node.layer.type in pipeline.FEED_PARAMS]
    feeds = [
        pipeline.open_feed(node.layer, use.phase, options, node.where) for node in nodes
    ]
    batch_sharding = _check_batches(feeds, mesh, is_train=use.phase == caffe_pb2.TRAIN)
    structs = {top: struct for feed in feeds for top, struct in feed.structs.items()}
    augment = make_augment(
        [node.layer for node in nodes], structs, use.phase, [n.where for n in nodes]
    )
    batch_structs = {
        top: jax.ShapeDtypeStruct(*struct) for top, struct in structs.items()
    }
    feed_structs = jax.eval_shape(augment, batch_structs, jax.random.key(0))
    net = translate.build_net(built, feed_structs, trained)
    construction.log_construction(net, feeds)
    augment = _add_inputs(augment, net)
    limits = label_limits(net)
    limited = tuple(pipeline.limit_labels(feed, limits) for feed in feeds)
    return FedNet(
        net, limited, options, augment, batch_structs, batch_sharding, use.test_iter
    )


def build_fed_graph(
    net: caffe_pb2.NetParameter, use: nets.NetUse, source: text.Source
) -> Graph:
    """Connects the layers that a use of a net asks for, and logs what they are.

    Args:
      net: upgraded.
      use: its phase, level and stages.
      source: where the layers stand.

    Raises:
      PrototxtError: whatever the net says that cannot be; no layer is left.
    """
    state = nets.merge_state(use, net)
    construction.log_filtering(net, state)
    built = graph.build_graph(net, state, source)
    _refuse_empty(built, source.path)
    return built


def open_device_feed(
    fed: FedNet,
    mesh: jax.sharding.Mesh,
    positions: Mapping[str, int] | None = None,
    group: int = 1,
    at_once: int = 1,
) -> DeviceFeed:
    """Starts reading a net's records from the given positions on.

    Args:
      fed: the net.
      mesh: the devices that batches go to.
      positions: data layer -> records handed out before; None for the beginning.
      group: host batches in one device batch, stacked if there are several.
      at_once: device batches that are taken at once, at most.
    """
    where = fed.sharding if group == 1 else sharding.split_batch(mesh, leading=1)
    return DeviceFeed(
        pipeline.FeedReader(fed.feeds, fed.options, positions, log_reading),
        lambda batch: sharding.put_batch(batch, where),
        group,
        depth=max(2, at_once),
    )


def log_reading(feed: pipeline.Feed, begin: int, end: int) -> None:
    """Logs that a data layer starts anew, if it does so between two positions.

    Args:
      feed: the layer.
      begin: records read before.
      end: records read after.
    """
    for line in messages.restart_lines(feed, begin, end):
        logger.info("%s", line)


def scale_batches(built: Graph, devices: int) -> Graph:
    """Returns the graph with each data layer's batch_size times `devices`."""
    nodes = []
    for node in built.nodes:
        if node.layer.type in pipeline.FEED_PARAMS:
            layer = caffe_pb2.LayerParameter()
            layer.CopyFrom(node.layer)
            getattr(layer, pipeline.FEED_PARAMS[layer.type]).batch_size *= devices
            node = node._replace(layer=layer)
        nodes.append(node)
    return built._replace(nodes=tuple(nodes))


def _refuse_empty(built: Graph, path: str) -> None:
    """Refuses a net all of whose layers its rules keep out.

    Raises:
      PrototxtError: there is none left.
    """
    if not built.nodes:
        phase = caffe_pb2.Phase.Name(built.phase)
        raise errors.PrototxtError(
            errors.describe(
                path,
                f"the net has no layer for phase {phase}, the level and the stages "
                "asked for",
                "layers whose include and exclude rules let them in",
            )
        )


def _add_inputs(augment: step.Augment, net: Net) -> step.Augment:
    """Feeds Input layers, which nobody fills here, with zeros as Caffe does."""
    nodes = [node for node in net.graph.nodes if node.layer.type == "Input"]
    if not nodes:
        return augment
    structs = {top: net.structs[top] for node in nodes for top in node.tops}
    logger.warning("Input layers get zeros: %s", ", ".join(structs))

    def with_inputs(batch: Blobs, key: jax.Array) -> Blobs:
        zeros = {top: jnp.zeros(s.shape, s.dtype) for top, s in structs.items()}
        return {**augment(batch, key), **zeros}

    return with_inputs


def _check_batches(
    feeds: Sequence[pipeline.Feed], mesh: jax.sharding.Mesh, is_train: bool
) -> jax.sharding.NamedSharding:
    """Returns how batches lie on the devices, and logs it.

    A test batch that cannot be divided is computed whole on every device, so that test
    nets made for one device run on any number. A training batch is refused.
    """
    divided = all(feed.batch_size % mesh.size == 0 for feed in feeds)
    for feed in feeds:
        if is_train:
            where = errors.describe_layer(feed.where, feed.name, feed.layer.type, "")
            sharding.check_batch_size(feed.batch_size, mesh, where.rstrip(". :"))
        each = feed.batch_size // mesh.size if divided else feed.batch_size
        logger.info(
            "Layer %s: %d records, batches of %d (global), %d on each of %d device(s)",
            feed.name,
            feed.num_records,
            feed.batch_size,
            each,
            mesh.size,
        )
    if divided:
        return sharding.split_batch(mesh)
    return sharding.replicated(mesh)
