"""Lines of open data layers, as Caffe logged them for the same layers and files."""

import pathlib

import pytest

from jaxcaffe.data.messages import open_lines, restart_lines, setup_lines
from jaxcaffe.data.pipeline import FeedOptions, FeedReader, open_feed
from jaxcaffe.proto import caffe_pb2

WINDOWS = pathlib.Path(__file__).parents[1] / "golden" / "window"


@pytest.fixture
def feed(golden, layer):
    def make(text, **options):
        options = FeedOptions(threads=0, **options)
        return open_feed(layer(text), caffe_pb2.TRAIN, options, "net.prototxt:1")

    return make


def data_layer(source="db/lmdb_resized", backend="LMDB", batch_size=4):
    return f"""name: "d" type: "Data" top: "data" top: "label"
        transform_param {{ mean_file: "mean/resized.binaryproto" }}
        data_param {{ source: "{source}" backend: {backend} batch_size: {batch_size} }}
        """


def image_layer(more="", transform=""):
    return f"""name: "d" type: "ImageData" top: "data" top: "label"
        transform_param {{ {transform} }}
        image_data_param {{
          source: "same.txt" root_folder: "images/" batch_size: 4 {more} }}"""


@pytest.mark.parametrize(
    ("backend", "source"),
    [("lmdb", "db/lmdb_resized"), ("leveldb", "db/leveldb_resized_table")],
)
def test_lines_data_layer_has_database_mean_and_size(feed, backend, source):
    opened = feed(data_layer(source, backend.upper()))
    assert list(open_lines(opened)) == [f"Opened {backend} {source}"]
    assert list(setup_lines(opened, (4, 3, 26, 26))) == [
        "Loading mean file from: mean/resized.binaryproto",
        "output data size: 4,3,26,26",
    ]


def test_lines_image_layer_has_the_mean_before_the_list(feed):
    mean = 'mean_file: "mean/same.binaryproto"'
    opened = feed(image_layer("shuffle: true rand_skip: 3", mean))
    assert list(open_lines(opened)) == []
    assert opened.skip in (0, 1, 2)
    assert list(setup_lines(opened, (4, 3, 30, 36))) == [
        "Loading mean file from: mean/same.binaryproto",
        "Opening file same.txt",
        "Shuffling data",
        "A total of 10 images.",
        f"Skipping first {opened.skip} data points.",
        "output data size: 4,3,30,36",
    ]


def test_lines_plain_image_layer_neither_shuffles_nor_skips(feed):
    assert list(setup_lines(feed(image_layer()), (4, 3, 30, 36))) == [
        "Opening file same.txt",
        "A total of 10 images.",
        "output data size: 4,3,30,36",
    ]


def test_lines_image_layer_with_another_source_has_that_source(feed):
    opened = feed(image_layer(), sources={"d": "lmdb:db/lmdb_resized"})
    assert list(open_lines(opened)) == ["Opened lmdb db/lmdb_resized"]
    assert list(setup_lines(opened, (4, 3, 26, 26))) == [
        "A total of 24 images.",
        "output data size: 4,3,26,26",
    ]


def test_lines_window_layer_has_what_its_file_holds(feed, monkeypatch):
    monkeypatch.chdir(WINDOWS.parent)
    opened = feed(
        """name: "d" type: "WindowData" top: "data" top: "label"
        transform_param { crop_size: 16 mean_file: "window/mean.binaryproto" }
        window_data_param {
          source: "window/windows.txt" root_folder: "window/" batch_size: 4 }"""
    )
    assert list(setup_lines(opened, (4, 3, 16, 16))) == [
        "Loading mean file from: window/mean.binaryproto",
        "Window data layer:\n"
        "  foreground (object) overlap threshold: 0.5\n"
        "  background (non-object) overlap threshold: 0.5\n"
        "  foreground sampling fraction: 0.25\n"
        "  cache_images: 0\n"
        "  root_folder: window/",
        "num: 0 window/a.png 3 30 40 windows to process: 2",
        "Number of images: 2",
        "class 0 has 3 samples",
        "class 2 has 1 samples",
        "Amount of context padding: 0",
        "Crop mode: warp",
        "output data size: 4,3,16,16",
        "Loading mean file from: window/mean.binaryproto",
    ]


def read(feed, batches, positions=None):
    """Returns how many lines came with each batch."""
    lines, counts = [], []

    def note(*arguments):
        lines.extend(restart_lines(*arguments))

    with FeedReader([feed], FeedOptions(threads=0), positions, note) as reader:
        for _ in range(batches):
            next(reader)
            counts.append(len(lines))
            lines.clear()
    return counts


def test_restart_line_comes_with_the_last_record_of_an_epoch(feed):
    opened = feed(data_layer(batch_size=8))  # of 24 records
    assert read(opened, 7) == [0, 0, 1, 0, 0, 1, 0]
    assert read(opened, 3, {"d": 40}) == [1, 0, 0]


def test_restart_line_batch_larger_than_an_epoch_has_several(feed):
    assert read(feed(data_layer(batch_size=50)), 2) == [2, 2]


def test_restart_line_counts_from_the_records_skipped(feed):
    opened = feed(data_layer(batch_size=8))._replace(skip=16)
    assert read(opened, 4) == [1, 0, 0, 1]


def test_restart_line_of_an_image_layer_is_for_debug_builds(feed):
    assert read(feed(image_layer()), 6) == [0] * 6
