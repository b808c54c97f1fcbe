"""A data layer's batches: source -> order -> checked records -> Grain -> {top: array}.

Follows caffe/src/caffe/layers/data_layer.cpp, image_data_layer.cpp, hdf5_data_layer.cpp
and memory_data_layer.cpp.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import grain
import numpy as np
from absl import flags
from grain.multiprocessing import SharedMemoryArray

from jaxcaffe.data.openers import (
    FEED_PARAMS,
    OPENERS,
    FeedOptions,
    FieldError,
    check_options,
)
from jaxcaffe.data.records import (
    SKIP,
    Batches,
    Records,
    Shuffle,
    describe_sizes,
    draw,
)
from jaxcaffe.errors import (
    ConfigError,
    DataError,
    PrototxtError,
    describe,
    describe_layer,
    nearest,
)
from jaxcaffe.proto import caffe_pb2

__all__ = [
    "FEED_PARAMS",
    "Feed",
    "FeedOptions",
    "FeedReader",
    "limit_labels",
    "open_feed",
]

BatchStruct = tuple[tuple[int, ...], np.dtype]
"""Shape and dtype of one top of a batch."""


class Feed(NamedTuple):
    """One open data layer.

    Attributes:
      name: of the layer.
      tops: of the layer.
      batch_size: of the whole batch, over all hosts.
      num_records: in one epoch.
      skip: records that rand_skip passes over, once, at the start.
      structs: top -> shape and dtype of this host's batch; those of the first batch
        where a layer with batch_size 1 and no crop_size meets images of unequal size.
      batches: endless Grain data set; element k is batch k, {top: array}.
      records: what the batches are made of.
      layer: the layer itself.
      where: "file:line" of the layer.
    """

    name: str
    tops: tuple[str, ...]
    batch_size: int
    num_records: int
    skip: int
    structs: dict[str, BatchStruct]
    batches: grain.MapDataset
    records: Records
    layer: caffe_pb2.LayerParameter
    where: str


def open_feed(
    layer: caffe_pb2.LayerParameter, phase: int, options: FeedOptions, where: str
) -> Feed:
    """Opens a Data, ImageData, HDF5Data or MemoryData layer's records.

    Batch k holds records k * batch_size and on, counted through epoch after epoch; it
    is a function of the files, `layer`, `phase` and `options` alone.

    Args:
      layer: the data layer, upgraded to the present format.
      phase: caffe_pb2.TRAIN or caffe_pb2.TEST.
      options: what the config says.
      where: "file:line" of the layer.

    Raises:
      PrototxtError: a field of the layer is wrong.
      ConfigError: an option is wrong.
      DataError: the records are missing, broken, or do not fit together.

    Source: caffe/src/caffe/layers/data_layer.cpp DataLayerSetUp and its kin. Differs:
    records of unequal size that cannot make one batch are found when the layer opens,
    from 64 of them; rand_skip and shuffles follow `options.seed`; Data takes rand_skip
    too.
    """
    check_options(options)
    try:
        opener = OPENERS[layer.type]
    except KeyError:
        raise PrototxtError(
            describe_layer(
                where,
                layer.name,
                layer.type,
                "no data source for this type",
                nearest(layer.type, OPENERS),
            )
        ) from None
    try:
        opened = opener(layer, phase, options)
    except FieldError as error:
        raise PrototxtError(
            describe_layer(where, layer.name, layer.type, *error.args)
        ) from error
    except (DataError, ConfigError) as error:
        raise type(error)(
            describe_layer(where, layer.name, layer.type, str(error))
        ) from error
    num_records = len(opened.source)
    skip = 0
    if opened.rand_skip:
        skip = draw(options.seed, SKIP, 0, 1)[0] % opened.rand_skip
        skip %= num_records
    groups = opened.source.groups or (num_records,)
    records = Records(
        source=opened.source,
        tops=opened.tops,
        title=describe_layer(where, layer.name, layer.type, "").rstrip(". :"),
        seed=options.seed,
        shuffle=Shuffle(groups, options.seed) if opened.shuffle else None,
        skip=skip,
        batch_size=opened.batch_size,
    )
    if opened.is_image:
        records = _fit_images(records, layer, phase, options)
    first = records[0]
    size = opened.batch_size
    structs = {top: ((size, *a.shape), a.dtype) for top, a in first.items()}
    if size > 1:
        records = dataclasses.replace(
            records, expected={top: (s[1:], d) for top, (s, d) in structs.items()}
        )
    return Feed(
        name=layer.name,
        tops=tuple(layer.top),
        batch_size=opened.batch_size,
        num_records=num_records,
        skip=skip,
        structs=structs,
        batches=_batches(records),
        records=records,
        layer=layer,
        where=where,
    )


def limit_labels(feed: Feed, limits: Mapping[str, tuple[int, int | None]]) -> Feed:
    """Returns a feed that refuses labels which the net has no class for.

    Args:
      feed: an open feed.
      limits: top -> (n, ignore_label or None): every value of that top has to lie in
        [0, n) or equal ignore_label. Tops that the feed lacks are passed over.

    Source: none; Caffe reads beyond the end of its blob instead. Reading a batch raises
    DataError with the record's key.
    """
    own = {top: limit for top, limit in limits.items() if top in feed.tops}
    records = dataclasses.replace(feed.records, limits=own)
    return feed._replace(records=records, batches=_batches(records))


class FeedReader:
    """Iterates over the batches of a net's feeds, and knows how far it has come.

    Each item is {top: array} with one batch of every feed. `positions` counts what the
    caller received, never what was read ahead; a reader that starts there goes on with
    exactly the records that follow, whatever its threads, processes or batch size.

    Args:
      feeds: open feeds with names of their own.
      options: threads, prefetch and processes are used here.
      positions: feed name -> records consumed already; 0 for those it lacks.
      on_read: called with a feed and the records consumed before and after each batch.

    Raises:
      ConfigError: two feeds have one name.
      DataError: (while iterating) a record is broken or does not fit.

    Source: caffe/src/caffe/layers/base_data_layer.cpp. Differs: Caffe's data layers
    start at the first record after a restore.
    """

    def __init__(
        self,
        feeds: Sequence[Feed],
        options: FeedOptions,
        positions: Mapping[str, int] | None = None,
        on_read: Callable[[Feed, int, int], object] | None = None,
    ) -> None:
        names = [feed.name for feed in feeds]
        for feed in feeds:
            if names.count(feed.name) > 1:
                raise ConfigError(
                    describe_layer(
                        feed.where,
                        feed.name,
                        feed.layer.type,
                        "another data layer of this net has the same name, so the "
                        "position cannot be saved",
                        "a name of its own for each data layer",
                    )
                )
        self._feeds = tuple(feeds)
        self._options = options
        self._on_read = on_read
        self._positions = {name: int((positions or {}).get(name, 0)) for name in names}
        self._iterators: dict[str, Any] = {}

    @property
    def positions(self) -> dict[str, int]:
        """Feed name -> records handed out since the first one of all."""
        return dict(self._positions)

    def __iter__(self) -> FeedReader:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        """Returns {top: (N, ...)} with the next batch of every feed."""
        try:
            batches = [next(self._iterator(feed)) for feed in self._feeds]
        except BaseException:
            # Some feeds have moved on, the positions have not: go on from these.
            self.close()
            raise
        for feed in self._feeds:
            begin = self._positions[feed.name]
            self._positions[feed.name] = end = begin + feed.batch_size
            if self._on_read:
                self._on_read(feed, begin, end)
        tops = {top: array for batch in batches for top, array in batch.items()}
        for array in tops.values():
            _drop_name(array)
        return tops

    def close(self) -> None:
        """Ends the threads and processes; the reader may be used again."""
        iterators, self._iterators = self._iterators, {}
        for iterator in iterators.values():
            iterator.close()

    def __enter__(self) -> FeedReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _iterator(self, feed: Feed) -> Any:
        # Made at the first use: a test net that never runs costs no thread.
        if feed.name not in self._iterators:
            self._iterators[feed.name] = iter(
                _prefetch(feed, self._positions[feed.name], self._options)
            )
        return self._iterators[feed.name]


def _prefetch(feed: Feed, position: int, options: FeedOptions) -> grain.IterDataset:
    batch, offset = divmod(position, feed.batch_size)
    # After a change of batch_size the position may lie inside a batch.
    records = dataclasses.replace(feed.records, skip=feed.records.skip + offset)
    dataset = _batches(records).slice(slice(batch, None))
    buffer = max(options.prefetch, options.threads) if options.threads else 0
    ahead = dataset.to_iter_dataset(
        grain.ReadOptions(num_threads=options.threads, prefetch_buffer_size=buffer)
    )
    if not options.processes:
        return ahead
    if not flags.FLAGS.is_parsed():
        # Grain's workers are handed its absl flags, which nobody else may have parsed.
        flags.FLAGS.mark_as_parsed()
    return ahead.mp_prefetch(
        grain.MultiprocessingOptions(
            num_workers=options.processes,
            per_worker_buffer_size=max(1, options.prefetch // options.processes),
        ),
        worker_init_fn=_keep_off_devices,
    )


def _drop_name(array: np.ndarray) -> None:
    """Has memory shared with a worker go with its last user, at the latest at the end.

    Grain does so when the array dies, which those that JAX still uses at the end of the
    program never do; Python then warns of a leak.
    """
    if isinstance(array, SharedMemoryArray) and array.shm is not None:
        array.shm.unlink()  # a mapping outlives its name
        array._unlink_on_del = False


def _keep_off_devices(worker: int, count: int) -> None:
    """Has a worker process, in which Grain imports JAX, take no accelerator."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    if "jax" in sys.modules:
        sys.modules["jax"].config.update("jax_platforms", "cpu")


def _batches(records: Records) -> grain.MapDataset:
    return grain.MapDataset.source(Batches(records))


def _fit_images(
    records: Records,
    layer: caffe_pb2.LayerParameter,
    phase: int,
    options: FeedOptions,
) -> Records:
    """Decides where images are cropped, from the sizes of some of them."""
    param = layer.transform_param
    cropped = dataclasses.replace(
        records, crop=(param.crop_size, phase == caffe_pb2.TRAIN)
    )
    if options.crop_on_host is not None and param.crop_size:
        if options.crop_on_host and param.mean_file:
            raise ConfigError(
                describe(
                    records.title,
                    "crop_on_host with mean_file, whose window at the crop's position "
                    "only the compiled step subtracts",
                    "crop_on_host=False, or mean_value",
                )
            )
        return cropped if options.crop_on_host else records
    different = _find_different(records)
    if different is None:
        return records
    index, shape, first = different
    sizes = f"is {describe_sizes(shape)}, the first {describe_sizes(first)}"
    if param.mean_file:
        raise records.error(index, sizes, "records of mean_file's size")
    if param.crop_size:
        return cropped
    if records.batch_size > 1:
        raise records.error(
            index,
            sizes,
            "records of one size (convert_imageset resizes them), crop_size in "
            "transform_param, or batch_size: 1",
        )
    return records


def _find_different(
    records: Records,
) -> tuple[int, tuple[int, ...], tuple[int, ...]] | None:
    """Returns an index whose image differs in size from the first, and both shapes."""
    top = records.tops[0][1]
    first = records[0][top].shape
    plain = dataclasses.replace(records, shuffle=None, skip=0)
    length = len(records.source)
    for index in np.linspace(0, length - 1, min(length, 64)).astype(int).tolist():
        try:
            shape = plain[index][top].shape
        except DataError:
            # A broken record is reported when its turn comes, as in Caffe.
            continue
        if shape[1:] != first[1:]:
            return index, shape, first
    return None
