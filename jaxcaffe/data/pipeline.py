"""A data layer's batches: source -> order -> checked records -> Grain -> {top: array}.

Follows caffe/src/caffe/layers/data_layer.cpp, image_data_layer.cpp, hdf5_data_layer.cpp
and memory_data_layer.cpp.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import grain
import numpy as np
from absl import flags

from jaxcaffe.data.arrays import ArraySource
from jaxcaffe.data.hdf5 import Hdf5Source, read_hdf5_list
from jaxcaffe.data.image import Decode
from jaxcaffe.data.image_list import ImageListSource
from jaxcaffe.data.leveldb import LevelDbSource
from jaxcaffe.data.lmdb import LmdbSource
from jaxcaffe.data.tfds import RESIZE_RULES, TfdsSource
from jaxcaffe.errors import (
    CaffeError,
    ConfigError,
    DataError,
    PrototxtError,
    describe,
    describe_layer,
    nearest,
)
from jaxcaffe.proto import caffe_pb2

BatchStruct = tuple[tuple[int, ...], np.dtype]
"""Shape and dtype of one top of a batch."""


class Source(Protocol):
    """Records by index; what every source class offers.

    A source is picklable and may be read from several threads and processes.
    """

    groups: tuple[int, ...] | None
    """Numbers of records that are cheap to read together, adding up to the length;
    a shuffle then permutes groups, and records inside groups. None: no such groups."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Returns {"data": ..., "label": ...}, or {top: ...} for HDF5."""

    def key(self, index: int) -> str:
        """Returns what the record is called, for messages."""


class FeedOptions(NamedTuple):
    """What a config adds to the data layers' own fields.

    `threads`, `prefetch` and `processes` never change what a batch holds.

    Attributes:
      seed: of shuffles, rand_skip and crops on the host.
      shuffle: TRAIN layers give their records in a new order each epoch; otherwise in
        the file's order, as in Caffe. (`shuffle` in the prototxt does so too.)
      sources: "tfds:NAME:SPLIT", "lmdb:PATH" or "leveldb:PATH", read in place of the
        source of a Data or ImageData layer; keys are layer names, or phases ("TRAIN",
        "TEST").
      tfds_dir: TFDS's data_dir; None for its default.
      resize: of TFDS images: "none"; "warp", to size x size; "short", the shorter side
        to `size`, proportions kept.
      size: in pixels.
      arrays: layer name -> (data, labels) for MemoryData layers.
      crop_on_host: whether the host crops images, so that their sizes may differ; None
        means where they do.
      threads: that read batches, per feed and process; 0 reads when asked.
      prefetch: batches read ahead, per feed and process.
      processes: that read batches, per feed; 0 for this one alone. They start by
        importing the main module anew, which therefore needs `if __name__ ==
        "__main__":`.
      shard: (index, count): this host's share of the rows of each batch.
    """

    seed: int = 0
    shuffle: bool = False
    sources: Mapping[str, str] | None = None
    tfds_dir: str | None = None
    resize: str = "none"
    size: int = 256
    arrays: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None
    crop_on_host: bool | None = None
    threads: int = 4
    prefetch: int = 8
    processes: int = 0
    shard: tuple[int, int] = (0, 1)


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
    _check_options(options)
    try:
        opener = _OPENERS[layer.type]
    except KeyError:
        raise PrototxtError(
            describe_layer(
                where,
                layer.name,
                layer.type,
                "no data source for this type",
                nearest(layer.type, _OPENERS),
            )
        ) from None
    try:
        opened = opener(layer, phase, options)
    except _FieldError as error:
        raise PrototxtError(
            describe_layer(where, layer.name, layer.type, *error.args)
        ) from error
    except (DataError, ConfigError) as error:
        raise type(error)(
            describe_layer(where, layer.name, layer.type, str(error))
        ) from error
    _, count = options.shard
    if opened.batch_size % count:
        raise ConfigError(
            describe_layer(
                where,
                layer.name,
                layer.type,
                f"batch_size {opened.batch_size} cannot be shared by {count} hosts",
                f"a multiple of {count}",
            )
        )
    num_records = len(opened.source)
    skip = 0
    if opened.rand_skip:
        skip = _draw(options.seed, _SKIP, 0, 1)[0] % opened.rand_skip
        skip %= num_records
    records = Records(
        source=opened.source,
        tops=opened.tops,
        title=describe_layer(where, layer.name, layer.type, "").rstrip(". :"),
        seed=options.seed,
        shuffle=opened.shuffle,
        skip=skip,
        batch_size=opened.batch_size,
        shard=options.shard,
    )
    if opened.is_image:
        records = _fit_images(records, layer, phase, options)
    first = records[0]
    local = opened.batch_size // count
    structs = {top: ((local, *a.shape), a.dtype) for top, a in first.items()}
    if opened.batch_size > 1:
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
        batches=_batch(records),
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
    return feed._replace(records=records, batches=_batch(records))


class FeedReader:
    """Iterates over the batches of a net's feeds, and knows how far it has come.

    Each item is {top: array} with one batch of every feed. `positions` counts what the
    caller received, never what was read ahead; a reader that starts there goes on with
    exactly the records that follow, whatever its threads, processes or batch size.

    Args:
      feeds: open feeds with names of their own.
      options: threads, prefetch and processes are used here.
      positions: feed name -> records consumed already; 0 for those it lacks.

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
        self._positions = {name: int((positions or {}).get(name, 0)) for name in names}
        self._iterators: dict[str, Any] = {}

    @property
    def positions(self) -> dict[str, int]:
        """Feed name -> records handed out since the first one of all."""
        return dict(self._positions)

    @property
    def epochs(self) -> dict[str, int]:
        """Feed name -> times that its records began anew."""
        return {
            feed.name: (self._positions[feed.name] + feed.skip) // feed.num_records
            for feed in self._feeds
        }

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
            self._positions[feed.name] += feed.batch_size
        return {top: array for batch in batches for top, array in batch.items()}

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
    dataset = _batch(records).slice(slice(batch, None))
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
        )
    )


def _batch(records: Records) -> grain.MapDataset:
    _, count = records.shard
    return grain.MapDataset.source(records).batch(
        records.batch_size // count, batch_fn=_stack
    )


def _stack(rows: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {top: np.stack([row[top] for row in rows]) for top in rows[0]}


@dataclasses.dataclass(frozen=True)
class Records:
    """The endless sequence of checked records behind a feed (a Grain source).

    Element p is {top: array} of record p, counted from where the feed starts, through
    all epochs; on one of several hosts only the positions of its rows are counted.
    """

    source: Source
    tops: tuple[tuple[str, str], ...]  # (the source's name, top)
    title: str  # file, line, layer, for messages
    seed: int
    shuffle: bool
    skip: int
    batch_size: int
    shard: tuple[int, int] = (0, 1)
    crop: tuple[int, bool] | None = None  # crop_size, whether at random
    expected: Mapping[str, tuple[tuple[int, ...], np.dtype]] | None = None
    limits: Mapping[str, tuple[int, int | None]] | None = None

    def __len__(self) -> int:
        # Grain wants a number; nobody comes this far.
        return 2**48

    def __getitem__(self, row: int) -> dict[str, np.ndarray]:
        """Returns {top: array} of the record at this host's row `row`."""
        position = self._position(row)
        index = self.index(position)
        try:
            record = self.source[index]
        except CaffeError as error:
            raise DataError(f"{self.title}: {error}") from error
        result = {top: record[name] for name, top in self.tops}
        if self.crop is not None:
            top = self.tops[0][1]
            result[top] = self._crop(result[top], position, index)
        if self.expected is not None:
            self._check_struct(result, index)
        for top, (classes, ignored) in (self.limits or {}).items():
            self._check_label(result[top], top, classes, ignored, index)
        return result

    def index(self, position: int) -> int:
        """Returns the source's index of the record at a position of the sequence."""
        epoch, index = divmod(position + self.skip, len(self.source))
        if not self.shuffle:
            return index
        groups = self.source.groups or (len(self.source),)
        return int(_permutation(groups, self.seed, epoch)[index])

    def _position(self, row: int) -> int:
        index, count = self.shard
        local = self.batch_size // count
        batch, rest = divmod(row, local)
        return batch * self.batch_size + index * local + rest

    def _crop(self, data: np.ndarray, position: int, index: int) -> np.ndarray:
        assert self.crop is not None
        crop_size, is_random = self.crop
        _, height, width = data.shape
        if crop_size > min(height, width):
            raise self._error(
                index,
                f"is {height}x{width}, smaller than crop_size {crop_size}",
                "a smaller crop_size, or larger images",
            )
        top, left = (height - crop_size) // 2, (width - crop_size) // 2
        if is_random:
            # From the position alone, so that no generator's state needs saving.
            drawn = _draw(self.seed, _CROP, position + self.skip, 2)
            top = drawn[0] % (height - crop_size + 1)
            left = drawn[1] % (width - crop_size + 1)
        return data[:, top : top + crop_size, left : left + crop_size]

    def _check_struct(self, record: dict[str, np.ndarray], index: int) -> None:
        assert self.expected is not None
        for top, (shape, dtype) in self.expected.items():
            array = record[top]
            if array.shape != shape:
                accepted = "records of one size, crop_size, or batch_size: 1"
                if self._differs_in_channels(array.shape, shape):
                    accepted = "records of one number of channels" + (
                        "; transform_param { force_color: true } or { force_gray: "
                        "true } where they are encoded"
                    )
                elif len(shape) == 3 and self.crop is None:
                    accepted += "; with crop_size also the option crop_on_host=True"
                raise self._error(
                    index,
                    f'top "{top}" is {_sizes(array.shape)}, the first record\'s '
                    f"{_sizes(shape)}",
                    accepted,
                )
            if array.dtype != dtype:
                raise self._error(
                    index,
                    f'top "{top}" is {array.dtype}, the first record\'s {dtype}',
                    "records of one kind, all bytes or all float_data",
                )

    @staticmethod
    def _differs_in_channels(shape: tuple[int, ...], other: tuple[int, ...]) -> bool:
        return len(shape) == len(other) == 3 and shape[0] != other[0]

    def _check_label(
        self, label: np.ndarray, top: str, classes: int, ignored: int | None, index: int
    ) -> None:
        is_bad = (label < 0) | (label >= classes)
        if ignored is not None:
            is_bad &= label != ignored
        if is_bad.any():
            value = np.asarray(label)[is_bad].flat[0]
            raise self._error(
                index,
                f'label {value:g} in top "{top}" has no class; the net has {classes}',
                f"0 to {classes - 1}"
                + ("" if ignored is None else f", or ignore_label {ignored}"),
            )

    def _error(self, index: int, problem: str, accepted: str) -> DataError:
        place = f'{self.title}: record "{self.source.key(index)}" of {self.source!r}'
        return DataError(describe(place, problem, accepted))


class _Opened(NamedTuple):
    """What a layer's own fields say, as an opener reads them."""

    source: Source
    tops: tuple[tuple[str, str], ...]
    batch_size: int
    shuffle: bool = False
    rand_skip: int = 0
    is_image: bool = False  # transform_param's crop applies


class _FieldError(CaffeError):
    """A field of the layer is wrong: (problem, accepted)."""


def _open_data(
    layer: caffe_pb2.LayerParameter, phase: int, options: FeedOptions
) -> _Opened:
    param = layer.data_param
    tops = _image_tops(layer, labels_needed=False)
    batch_size = _batch_size(param.batch_size)
    decode = _decode(layer.transform_param)
    override = _override(layer, phase, options)
    if override is None:
        is_lmdb = param.backend == caffe_pb2.DataParameter.LMDB
        kind, path = ("lmdb" if is_lmdb else "leveldb"), param.source
        if not path:
            raise _FieldError("data_param has no source", 'source: "a database"')
        source = _open_source(f"{kind}:{path}", decode, options)
    else:
        source = _open_source(override, decode, options)
    return _Opened(
        source,
        tops,
        batch_size,
        shuffle=options.shuffle and phase == caffe_pb2.TRAIN,
        rand_skip=param.rand_skip,
        is_image=True,
    )


def _open_image_data(
    layer: caffe_pb2.LayerParameter, phase: int, options: FeedOptions
) -> _Opened:
    param = layer.image_data_param
    tops = _image_tops(layer, labels_needed=True)
    batch_size = _batch_size(param.batch_size)
    if (param.new_height > 0) != (param.new_width > 0):
        raise _FieldError(
            f"new_height is {param.new_height} and new_width is {param.new_width}",
            "both positive, or neither set",
        )
    override = _override(layer, phase, options)
    source: Source
    if override is None:
        source = ImageListSource(
            param.source,
            param.root_folder,
            param.new_height,
            param.new_width,
            param.is_color,
        )
    else:
        source = _open_source(override, "color" if param.is_color else "gray", options)
    if param.rand_skip > len(source):
        raise _FieldError(
            f"rand_skip is {param.rand_skip}, the source has {len(source)} records",
            f"at most {len(source)}",
        )
    return _Opened(
        source,
        tops,
        batch_size,
        shuffle=param.shuffle or (options.shuffle and phase == caffe_pb2.TRAIN),
        rand_skip=param.rand_skip,
        is_image=True,
    )


def _open_hdf5_data(
    layer: caffe_pb2.LayerParameter, phase: int, options: FeedOptions
) -> _Opened:
    if layer.HasField("transform_param"):
        raise _FieldError(
            "HDF5Data does not transform its data", "no transform_param here"
        )
    if not layer.top:
        raise _FieldError("the layer has no top", "one top per dataset")
    param = layer.hdf5_data_param
    batch_size = _batch_size(param.batch_size)
    return _Opened(
        Hdf5Source(read_hdf5_list(param.source), layer.top),
        tuple((top, top) for top in layer.top),
        batch_size,
        shuffle=param.shuffle or (options.shuffle and phase == caffe_pb2.TRAIN),
    )


def _open_memory_data(
    layer: caffe_pb2.LayerParameter, phase: int, options: FeedOptions
) -> _Opened:
    param = layer.memory_data_param
    tops = _image_tops(layer, labels_needed=True)
    shape = (param.channels, param.height, param.width)
    if min(param.batch_size, *shape) < 1:
        raise _FieldError(
            f"batch_size is {param.batch_size}, channels x height x width "
            f"{_sizes(shape)}",
            "four positive numbers",
        )
    try:
        data, labels = (options.arrays or {})[layer.name]
    except KeyError:
        raise DataError(
            describe(
                "",
                "no arrays were given for this MemoryData layer",
                f'arrays={{"{layer.name}": (data, labels)}} in the feed options',
            )
        ) from None
    source = ArraySource(data, labels, "arrays")
    found = tuple(np.shape(data)[1:])
    is_image = np.asarray(data).dtype == np.uint8
    crop_size = layer.transform_param.crop_size if is_image else 0
    if crop_size:
        # Caffe's layer states the size of its top, its images may be larger.
        matches = found[0] == shape[0] and shape[1:] == (crop_size, crop_size)
    else:
        matches = found == shape
    if not matches:
        raise DataError(
            describe(
                "arrays",
                f"rows of data are {_sizes(found)}, memory_data_param says "
                f"{_sizes(shape)}" + (f", crop_size {crop_size}" if crop_size else ""),
                "one shape in both",
            )
        )
    if len(source) % param.batch_size:
        raise DataError(
            describe(
                "arrays",
                f"{len(source)} rows are no multiple of batch_size {param.batch_size}",
                f"a multiple of {param.batch_size}",
            )
        )
    return _Opened(
        source,
        tops,
        param.batch_size,
        shuffle=options.shuffle and phase == caffe_pb2.TRAIN,
        is_image=is_image,
    )


_OPENERS: dict[str, Callable[[caffe_pb2.LayerParameter, int, FeedOptions], _Opened]] = {
    "Data": _open_data,
    "ImageData": _open_image_data,
    "HDF5Data": _open_hdf5_data,
    "MemoryData": _open_memory_data,
}

FEED_TYPES = frozenset(_OPENERS)
"""Layer types that `open_feed` takes."""


def _check_options(options: FeedOptions) -> None:
    if options.resize not in RESIZE_RULES:
        raise ConfigError(
            describe(
                "resize",
                f'"{options.resize}" is no rule',
                nearest(options.resize, RESIZE_RULES),
            )
        )
    for name, least in (("size", 1), ("threads", 0), ("prefetch", 1), ("processes", 0)):
        value = getattr(options, name)
        if value < least:
            raise ConfigError(describe(name, f"is {value}", f"at least {least}"))
    index, count = options.shard
    if not 0 <= index < count:
        raise ConfigError(
            describe("shard", f"is {options.shard}", "(index, count), index < count")
        )


def _image_tops(
    layer: caffe_pb2.LayerParameter, *, labels_needed: bool
) -> tuple[tuple[str, str], ...]:
    accepted = "two, data and label" if labels_needed else "one or two: data, label"
    if not (2 if labels_needed else 1) <= len(layer.top) <= 2:
        raise _FieldError(f"the layer has {len(layer.top)} tops", accepted)
    return tuple(zip(("data", "label"), layer.top, strict=False))


def _batch_size(batch_size: int) -> int:
    if batch_size < 1:
        raise _FieldError(f"batch_size is {batch_size}", "at least 1")
    return batch_size


def _decode(param: caffe_pb2.TransformationParameter) -> Decode:
    if param.force_color and param.force_gray:
        raise _FieldError("force_color and force_gray are both set", "one of them")
    if param.force_color:
        return "color"
    return "gray" if param.force_gray else "native"


def _override(
    layer: caffe_pb2.LayerParameter, phase: int, options: FeedOptions
) -> str | None:
    sources = options.sources or {}
    return sources.get(layer.name, sources.get(caffe_pb2.Phase.Name(phase)))


def _open_source(spec: str, decode: Decode, options: FeedOptions) -> Source:
    kind, _, rest = spec.partition(":")
    if kind == "lmdb":
        return LmdbSource(rest, decode)
    if kind == "leveldb":
        return LevelDbSource(rest, decode)
    name, _, split = rest.partition(":")
    if kind != "tfds" or not name or not split:
        raise ConfigError(
            describe(
                "sources", f'"{spec}"', "tfds:NAME:SPLIT, lmdb:PATH or leveldb:PATH"
            )
        )
    return TfdsSource(
        name, split, options.tfds_dir, options.resize, options.size, decode
    )


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
    sizes = f"is {_sizes(shape)}, the first {_sizes(first)}"
    if param.mean_file:
        raise records._error(index, sizes, "records of mean_file's size")
    if param.crop_size:
        return cropped
    if records.batch_size > 1:
        raise records._error(
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
    plain = dataclasses.replace(records, shuffle=False, skip=0, shard=(0, 1))
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


_ORDER, _SKIP, _CROP = 0, 1, 2


def _draw(seed: int, purpose: int, index: int, count: int) -> list[int]:
    return [int(word) for word in _bits(seed, purpose, index).random_raw(count)]


def _bits(seed: int, purpose: int, index: int) -> np.random.Philox:
    # Raw words, because NumPy promises them, and not its distributions, for ever.
    return np.random.Philox(
        key=np.array([seed % 2**64, purpose], np.uint64),
        counter=np.array([0, 0, 0, index], np.uint64),
    )


@functools.lru_cache(maxsize=4)
def _permutation(groups: tuple[int, ...], seed: int, epoch: int) -> np.ndarray:
    """Returns an order of sum(groups) records that keeps each group together."""
    bits = _bits(seed, _ORDER, epoch)
    starts = np.concatenate([[0], np.cumsum(groups)])
    order = np.argsort(bits.random_raw(len(groups)), kind="stable")
    return np.concatenate(
        [
            starts[group] + np.argsort(bits.random_raw(groups[group]), kind="stable")
            for group in order
        ]
    )


def _sizes(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) if shape else "a single value"
