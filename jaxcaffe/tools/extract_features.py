"""Stores what a trained net computes: `extract_features WEIGHTS NET BLOB DB N lmdb`.

Follows tools/extract_features.cpp of Caffe.
"""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import NamedTuple

import jax
import numpy as np

from jaxcaffe import construction, cpu, fed_net, log
from jaxcaffe import run as runs
from jaxcaffe.augment import make_augment
from jaxcaffe.caffe_files.weights import copy_weights
from jaxcaffe.data import pipeline
from jaxcaffe.errors import (
    ConfigError,
    PrototxtError,
    SnapshotError,
    describe,
    from_callbacks,
    nearest,
    plural,
)
from jaxcaffe.net import graph, translate
from jaxcaffe.pretrained import load_pretrained
from jaxcaffe.proto import caffe_pb2, text, upgrade
from jaxcaffe.spec import Blobs, Graph, Net, Params, Stats
from jaxcaffe.tools import cli
from jaxcaffe.tools.feature_files import KINDS, check_shape, create_features
from jaxcaffe.tools.layers_flag import add_layers_flag, load_flagged_layers
from jaxcaffe.tools.mode import find_device
from jaxcaffe.tools.state_flags import add_state_flags, read_state

DESCRIPTION = """\
Runs a trained net on the records that its data layers read, and stores blobs of it, one
record for each row: Datums with float_data in an LMDB or LevelDB, or a data set named
as the blob in an HDF5 file.

  extract_features caffenet.caffemodel train_val.prototxt fc7 features 10 lmdb
  extract_features caffenet.caffemodel train_val.prototxt conv5,fc7 a,b 10 leveldb GPU 1

WEIGHTS is a .caffemodel, a .caffemodel.h5, or the folder of one snapshot of a run."""

_EVERY = 1000  # rows between two lines of the log


class Extractor(NamedTuple):
    """A net with its weights and its records."""

    net: Net
    batches: pipeline.FeedReader
    params: Params
    stats: Stats
    # (params, stats, batch, its number) -> (wanted blobs, new stats)
    forward: Callable[[Params, Stats, Blobs, int], tuple[Blobs, Stats]]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
      argv: the arguments without the program's name; None takes the process's.

    Returns:
      0.

    Raises:
      CaffeError: wrong arguments; a net, weights or records that are missing, broken or
        do not fit; a database that exists or cannot be written.

    Source: caffe/tools/extract_features.cpp. Differs: without CPU or GPU the device is
    JAX's; layers that the blobs need must have weights in the file; databases appear
    when they are whole; HDF5.
    """
    parser = cli.Parser("extract_features", DESCRIPTION)
    parser.argument("WEIGHTS", "trained weights")
    parser.argument("NET", "a prototxt with data layers")
    parser.argument("BLOBS", "names of blobs, separated by commas")
    parser.argument("DBS", "what to make, one for each blob, separated by commas")
    parser.argument("NUM_BATCHES", "batches to run")
    parser.argument("KIND", ", ".join(KINDS))
    parser.argument("MODE", "CPU or GPU", nargs="?")
    parser.argument("DEVICE", "number of the GPU, from 0", nargs="?")
    add_state_flags(parser)
    add_layers_flag(parser)
    flags = parser.parse(argv)
    load_flagged_layers(flags)
    blobs, paths, batches = _check_arguments(flags)
    cpu.tune_cpu()
    runs.set_precision("parity")
    device = find_device("extract_features", flags.MODE, flags.DEVICE)
    with log.logging_to(None), jax.default_device(device):
        used = device or jax.devices()[0]
        log.logger.info("Using %s", used.platform.upper())
        if used.platform != "cpu":
            log.logger.info("Using Device_id=%d", used.id)
        state = read_state(flags, caffe_pb2.TEST)
        extractor = open_extractor(flags.NET, flags.WEIGHTS, blobs, state)
        for blob in blobs:
            check_shape(blob, extractor.net.structs[blob].shape, flags.KIND)
        with extractor.batches, ExitStack() as stack:
            writers = {}
            for blob, path in zip(blobs, paths, strict=True):
                log.logger.info("Opening dataset %s", path)
                file = create_features(path, flags.KIND, blob)
                writers[blob] = stack.enter_context(file)
            log.logger.info("Extracting Features")
            counts = dict.fromkeys(blobs, 0)
            for features in extract(extractor, batches):
                for blob in blobs:
                    rows = features[blob]
                    writers[blob](rows)
                    before, counts[blob] = counts[blob], counts[blob] + _rows(rows)
                    if before // _EVERY < counts[blob] // _EVERY:
                        _report(blob, counts[blob])
        for blob, count in counts.items():
            _report(blob, count)
        log.logger.info("Successfully extracted the features!")
    return 0


def open_extractor(
    net_path: str, weights: str, blobs: Sequence[str], asked: caffe_pb2.NetState
) -> Extractor:
    """Reads a net, its weights and its first records.

    Args:
      net_path: a prototxt with data layers.
      weights: a weight file or the folder of a snapshot.
      blobs: names of those wanted.
      asked: phase, level and stages.

    Raises:
      CaffeError: whatever the files say that cannot be; no such blob; weights that a
        wanted blob needs are not in the file.
    """
    parameter, source = text.read_net(net_path)
    parameter = upgrade.upgrade_net(parameter, source)
    construction.log_filtering(parameter, asked)
    built = graph.build_graph(parameter, asked, source)
    unknown = [blob for blob in blobs if blob not in built.blobs]
    if unknown:
        problem = f'no blob is named "{unknown[0]}"'
        accepted = nearest(unknown[0], built.blobs)
        raise ConfigError(describe(net_path, problem, accepted))
    options = pipeline.FeedOptions()
    nodes = [node for node in built.nodes if node.layer.type in pipeline.FEED_PARAMS]
    for node in built.nodes:
        if node.layer.type in ("Input", "MemoryData"):
            problem = "nobody gives it records here"
            raise PrototxtError(
                str(graph.layer_error(node, problem, "a Data, ImageData, ... layer"))
            )
    feeds = [pipeline.open_feed(n.layer, asked.phase, options, n.where) for n in nodes]
    structs = {top: struct for feed in feeds for top, struct in feed.structs.items()}
    augment = make_augment(
        [n.layer for n in nodes], structs, asked.phase, [n.where for n in nodes]
    )
    raw = {top: jax.ShapeDtypeStruct(*struct) for top, struct in structs.items()}
    net = translate.build_net(built, jax.eval_shape(augment, raw, jax.random.key(0)))
    construction.log_construction(net, feeds)
    params, stats = _load(net, weights, blobs)

    @jax.jit
    def forward(
        params: Params, stats: Stats, batch: Blobs, number: int
    ) -> tuple[Blobs, Stats]:
        # Layers that no wanted blob needs are not computed: XLA leaves them out.
        key = jax.random.fold_in(jax.random.key(0), number)
        augment_key, net_key = jax.random.split(key)
        out = net.apply(params, stats, augment(batch, augment_key), net_key)
        return {blob: out.blobs[blob] for blob in blobs}, out.stats

    reader = pipeline.FeedReader(feeds, options, on_read=fed_net.log_reading)
    return Extractor(net, reader, params, stats, forward)


@from_callbacks()
def extract(extractor: Extractor, batches: int) -> Iterator[dict[str, np.ndarray]]:
    """Yields the wanted blobs of one batch after the other, (N, ...) float32 each.

    Args:
      extractor: of open_extractor.
      batches: how many; after the last record comes the first.
    """
    stats = extractor.stats
    waiting: Blobs = {}
    for number in range(batches):
        batch = jax.device_put(next(extractor.batches))
        found, stats = extractor.forward(extractor.params, stats, batch, number)
        if waiting:  # The caller stores one batch while the next is computed.
            yield jax.device_get(waiting)
        waiting = found
    yield jax.device_get(waiting)


def _load(net: Net, path: str, blobs: Sequence[str]) -> tuple[Params, Stats]:
    if os.path.isdir(path):
        return load_pretrained(net, path)
    params, stats = jax.jit(net.init)(jax.random.key(0))
    params, stats, report = copy_weights(net, params, stats, path)
    needed = _needed_layers(net.graph, blobs)
    missing = [name for name in report.missing if name in needed]
    if missing:
        problem = f'holds no weights for layer "{missing[0]}", which the blobs need'
        raise SnapshotError(describe(path, problem, "weights of this net"))
    for name in report.ignored:
        log.logger.info("Ignoring source layer %s", name)
    return params, stats


def _needed_layers(built: Graph, blobs: Sequence[str]) -> set[str]:
    needed, layers = set(blobs), set()
    for node in reversed(built.nodes):
        if needed.intersection(node.tops):
            needed.update(node.bottoms)
            layers.add(node.key)
    return layers


def _check_arguments(flags: Namespace) -> tuple[list[str], list[str], int]:
    tool = "extract_features"
    blobs, paths = flags.BLOBS.split(","), flags.DBS.split(",")
    if len(blobs) != len(paths):
        named = f"{plural(len(blobs), 'blob')} and {plural(len(paths), 'database')}"
        problem = f"names {named}"
        raise ConfigError(describe(tool, problem, "as many of both"))
    for what, names in (("blob", blobs), ("database", paths)):
        if "" in names or len(set(names)) < len(names):
            problem = f"the {what}s are {','.join(names)}"
            raise ConfigError(
                describe(tool, problem, "names that differ, a comma each")
            )
    if not flags.NUM_BATCHES.isdecimal() or int(flags.NUM_BATCHES) < 1:
        problem = f"NUM_BATCHES is {flags.NUM_BATCHES}"
        raise ConfigError(describe(tool, problem, "1 or more"))
    if flags.KIND not in KINDS:
        problem = f'"{flags.KIND}" is no kind of database'
        raise ConfigError(describe(tool, problem, nearest(flags.KIND, KINDS)))
    return blobs, paths, int(flags.NUM_BATCHES)


def _rows(batch: np.ndarray) -> int:
    return len(batch) if batch.ndim else 1


def _report(blob: str, count: int) -> None:
    log.logger.info(
        "Extracted features of %d query images for feature blob %s", count, blob
    )


if __name__ == "__main__":
    cli.run(main)
