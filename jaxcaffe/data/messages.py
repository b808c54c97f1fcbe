"""What Caffe logs of its data layers, while it makes them and as they read.

Follows the messages of caffe/src/caffe/data_transformer.cpp and of data_layer.cpp,
image_data_layer.cpp, hdf5_data_layer.cpp and window_data_layer.cpp in
caffe/src/caffe/layers, as a release build has them.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence

from jaxcaffe.data.image_list import ImageListSource
from jaxcaffe.data.leveldb import LevelDbSource
from jaxcaffe.data.lmdb import LmdbSource
from jaxcaffe.data.pipeline import Feed
from jaxcaffe.data.window import WindowSource
from jaxcaffe.proto import caffe_pb2

_IMAGES_BETWEEN = 100  # images of a window file that get a line


def open_lines(feed: Feed) -> Iterator[str]:
    """Yields what is logged before a data layer's set-up: the database's name."""
    source = feed.records.source
    if isinstance(source, LmdbSource):
        yield f"Opened lmdb {source.path}"
    elif isinstance(source, LevelDbSource):
        yield f"Opened leveldb {source.path}"


def setup_lines(feed: Feed, shape: Sequence[int]) -> Iterator[str]:
    """Yields what is logged during a data layer's set-up.

    Args:
      feed: the open layer.
      shape: of its first top, cropped: (N, C, H, W) for images.
    """
    layer = feed.layer
    mean_lines = [
        f"Loading mean file from: {path}"
        for path in [layer.transform_param.mean_file]
        if path
    ]
    size_line = f"output data size: {','.join(map(str, shape))}"
    yield from mean_lines
    match layer.type:
        case "Data":
            yield size_line
        case "ImageData":
            yield from _image_lines(feed)
            yield size_line
        case "HDF5Data":
            yield f"Loading list of HDF5 filenames from: {layer.hdf5_data_param.source}"
            yield f"Number of HDF5 files: {len(feed.records.source.groups or ())}"
        case "WindowData":
            assert isinstance(feed.records.source, WindowSource)
            yield from _window_lines(layer.window_data_param, feed.records.source)
            yield size_line
            # Caffe's layer reads it besides its transformer.
            yield from mean_lines


def restart_lines(feed: Feed, begin: int, end: int) -> Iterator[str]:
    """Yields what is logged while a data layer reads.

    Args:
      feed: the open layer.
      begin: records read before.
      end: records read after.
    """
    if feed.layer.type != "Data":  # Others say so in debug builds only.
        return
    epochs = [(position + feed.skip) // feed.num_records for position in (begin, end)]
    for _ in range(*epochs):
        yield "Restarting data prefetching from start."


def _image_lines(feed: Feed) -> Iterator[str]:
    if isinstance(feed.records.source, ImageListSource):
        yield f"Opening file {feed.records.source.path}"
    if feed.records.shuffle:
        yield "Shuffling data"
    yield f"A total of {feed.num_records} images."
    if feed.layer.image_data_param.rand_skip:
        yield f"Skipping first {feed.skip} data points."


def _window_lines(
    param: caffe_pb2.WindowDataParameter, source: WindowSource
) -> Iterator[str]:
    yield "\n".join(
        (
            "Window data layer:",
            f"  foreground (object) overlap threshold: {param.fg_threshold:g}",
            f"  background (non-object) overlap threshold: {param.bg_threshold:g}",
            f"  foreground sampling fraction: {param.fg_fraction:g}",
            f"  cache_images: {param.cache_images:d}",
            f"  root_folder: {param.root_folder}",
        )
    )
    file = source.file
    for index, image in enumerate(file.images):
        if index % _IMAGES_BETWEEN == 0:
            yield (
                f"num: {index} {param.root_folder}{image.path} {image.channels} "
                f"{image.height} {image.width} windows to process: {image.num_windows}"
            )
    yield f"Number of images: {len(file.images)}"
    samples = collections.Counter(w.label for w in file.background + file.objects)
    for label in sorted(samples):
        yield f"class {label} has {samples[label]} samples"
    yield f"Amount of context padding: {param.context_pad}"
    yield f"Crop mode: {param.crop_mode}"
