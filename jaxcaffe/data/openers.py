"""What a data layer's own fields ask for, and the source that they name.

Follows DataLayerSetUp of caffe/src/caffe/layers/data_layer.cpp, image_data_layer.cpp,
hdf5_data_layer.cpp and memory_data_layer.cpp.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from jaxcaffe.data.arrays import ArraySource
from jaxcaffe.data.hdf5 import Hdf5Source, read_hdf5_list
from jaxcaffe.data.image import Decode
from jaxcaffe.data.image_list import ImageListSource
from jaxcaffe.data.leveldb import LevelDbSource
from jaxcaffe.data.lmdb import LmdbSource
from jaxcaffe.data.records import Source, describe_sizes
from jaxcaffe.data.tfds import RESIZE_RULES, TfdsSource
from jaxcaffe.data.window import SQUARE, WARP, WindowSource
from jaxcaffe.errors import (
    CaffeError,
    ConfigError,
    DataError,
    describe,
    nearest,
    plural,
)
from jaxcaffe.proto import caffe_pb2


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
    """

    seed: int = 0
    shuffle: bool = False
    sources: Mapping[str, str] | None = None
    tfds_dir: str | None = None
    resize: str = "none"
    size: int = 256
    arrays: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None
    crop_on_host: bool | None = None
    threads: int = 2
    prefetch: int = 4
    processes: int = 0


class Opened(NamedTuple):
    """What a layer's own fields say, as an opener reads them."""

    source: Source
    tops: tuple[tuple[str, str], ...]
    batch_size: int
    shuffle: bool = False
    rand_skip: int = 0
    is_image: bool = False  # transform_param's crop applies


class FieldError(CaffeError):
    """A field of the layer is wrong: (problem, accepted)."""


def check_options(options: FeedOptions) -> None:
    """Raises ConfigError for an option that no feed could follow."""
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


def _open_data(
    layer: caffe_pb2.LayerParameter, phase: int, options: FeedOptions
) -> Opened:
    param = layer.data_param
    tops = _image_tops(layer, labels_needed=False)
    batch_size = _batch_size(param.batch_size)
    decode = _decode(layer.transform_param)
    shuffle = options.shuffle and phase == caffe_pb2.TRAIN
    override = _override(layer, phase, options)
    if override is None:
        is_lmdb = param.backend == caffe_pb2.DataParameter.LMDB
        kind, path = ("lmdb" if is_lmdb else "leveldb"), param.source
        if not path:
            raise FieldError("data_param has no source", 'source: "a database"')
        source = _open_source(f"{kind}:{path}", decode, options, shuffle)
    else:
        source = _open_source(override, decode, options, shuffle)
    return Opened(
        source,
        tops,
        batch_size,
        shuffle=shuffle,
        rand_skip=param.rand_skip,
        is_image=True,
    )


def _open_image_data(
    layer: caffe_pb2.LayerParameter, phase: int, options: FeedOptions
) -> Opened:
    param = layer.image_data_param
    tops = _image_tops(layer, labels_needed=True)
    batch_size = _batch_size(param.batch_size)
    if (param.new_height > 0) != (param.new_width > 0):
        raise FieldError(
            f"new_height is {param.new_height} and new_width is {param.new_width}",
            "both positive, or neither set",
        )
    shuffle = param.shuffle or (options.shuffle and phase == caffe_pb2.TRAIN)
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
        decode: Decode = "color" if param.is_color else "gray"
        source = _open_source(override, decode, options, shuffle)
    if param.rand_skip > len(source):
        raise FieldError(
            f"rand_skip is {param.rand_skip}, the source has {len(source)} records",
            f"at most {len(source)}",
        )
    return Opened(
        source,
        tops,
        batch_size,
        shuffle=shuffle,
        rand_skip=param.rand_skip,
        is_image=True,
    )


def _open_hdf5_data(
    layer: caffe_pb2.LayerParameter, phase: int, options: FeedOptions
) -> Opened:
    if layer.HasField("transform_param"):
        raise FieldError(
            "HDF5Data does not transform its data", "no transform_param here"
        )
    if not layer.top:
        raise FieldError("the layer has no top", "one top per dataset")
    param = layer.hdf5_data_param
    batch_size = _batch_size(param.batch_size)
    return Opened(
        Hdf5Source(read_hdf5_list(param.source), layer.top),
        tuple((top, top) for top in layer.top),
        batch_size,
        shuffle=param.shuffle or (options.shuffle and phase == caffe_pb2.TRAIN),
    )


def _open_memory_data(
    layer: caffe_pb2.LayerParameter, phase: int, options: FeedOptions
) -> Opened:
    param = layer.memory_data_param
    tops = _image_tops(layer, labels_needed=True)
    shape = (param.channels, param.height, param.width)
    if min(param.batch_size, *shape) < 1:
        raise FieldError(
            f"batch_size is {param.batch_size}, channels x height x width "
            f"{describe_sizes(shape)}",
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
                f"rows of data are {describe_sizes(found)}, memory_data_param says "
                f"{describe_sizes(shape)}"
                + (f", crop_size {crop_size}" if crop_size else ""),
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
    return Opened(
        source,
        tops,
        param.batch_size,
        shuffle=options.shuffle and phase == caffe_pb2.TRAIN,
        is_image=is_image,
    )


def _open_window_data(
    layer: caffe_pb2.LayerParameter, phase: int, options: FeedOptions
) -> Opened:
    param, transform = layer.window_data_param, layer.transform_param
    data, label = _image_tops(layer, labels_needed=True)
    crop_size = transform.crop_size
    if crop_size < 1:
        raise FieldError("there is no crop_size", "transform_param { crop_size: 227 }")
    if 2 * param.context_pad >= crop_size:
        raise FieldError(
            f"context_pad is {param.context_pad} on each side of {crop_size} pixels",
            f"less than half of crop_size, {crop_size / 2:g}",
        )
    if param.crop_mode not in (WARP, SQUARE):
        raise FieldError(f'crop_mode is "{param.crop_mode}"', f"{WARP}, {SQUARE}")
    if not 0 <= param.fg_fraction <= 1:
        raise FieldError(f"fg_fraction is {param.fg_fraction:g}", "from 0 to 1")
    if _override(layer, phase, options) is not None:
        raise FieldError(
            "WindowData cannot read another source", "the source of the prototxt"
        )
    source = WindowSource(
        param.source,
        crop_size=crop_size,
        mirror=transform.mirror,
        fg_threshold=param.fg_threshold,
        bg_threshold=param.bg_threshold,
        fg_fraction=param.fg_fraction,
        context_pad=param.context_pad,
        crop_mode=param.crop_mode,
        cache_images=param.cache_images,
        root_folder=param.root_folder,
    )
    tops = (data, label, ("window", f"{layer.top[0]}#window"))
    return Opened(source, tops, _batch_size(param.batch_size))


OPENERS: dict[str, Callable[[caffe_pb2.LayerParameter, int, FeedOptions], Opened]] = {
    "Data": _open_data,
    "ImageData": _open_image_data,
    "HDF5Data": _open_hdf5_data,
    "MemoryData": _open_memory_data,
    "WindowData": _open_window_data,
}

FEED_PARAMS = {
    "Data": "data_param",
    "ImageData": "image_data_param",
    "HDF5Data": "hdf5_data_param",
    "MemoryData": "memory_data_param",
    "WindowData": "window_data_param",
}
"""Layer types that read records -> LayerParameter's field with their batch_size."""


def _image_tops(
    layer: caffe_pb2.LayerParameter, *, labels_needed: bool
) -> tuple[tuple[str, str], ...]:
    accepted = "two, data and label" if labels_needed else "one or two: data, label"
    if not (2 if labels_needed else 1) <= len(layer.top) <= 2:
        raise FieldError(f"the layer has {plural(len(layer.top), 'top')}", accepted)
    return tuple(zip(("data", "label"), layer.top, strict=False))


def _batch_size(batch_size: int) -> int:
    if batch_size < 1:
        raise FieldError(f"batch_size is {batch_size}", "at least 1")
    return batch_size


def _decode(param: caffe_pb2.TransformationParameter) -> Decode:
    if param.force_color and param.force_gray:
        raise FieldError("force_color and force_gray are both set", "one of them")
    if param.force_color:
        return "color"
    return "gray" if param.force_gray else "native"


def _override(
    layer: caffe_pb2.LayerParameter, phase: int, options: FeedOptions
) -> str | None:
    sources = options.sources or {}
    return sources.get(layer.name, sources.get(caffe_pb2.Phase.Name(phase)))


def _open_source(
    spec: str, decode: Decode, options: FeedOptions, shuffle: bool
) -> Source:
    kind, _, rest = spec.partition(":")
    if kind == "lmdb":
        return LmdbSource(rest, decode, sequential=not shuffle)
    if kind == "leveldb":
        return LevelDbSource(rest, decode)
    name, _, split = rest.partition(":")
    if kind != "tfds" or not name or not split:
        raise ConfigError(
            describe(
                "data.source_train or data.source_test",
                f'"{spec}" names no source',
                "tfds:NAME:SPLIT, lmdb:PATH or leveldb:PATH",
            )
        )
    return TfdsSource(
        name, split, options.tfds_dir, options.resize, options.size, decode
    )
