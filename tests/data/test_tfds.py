import io
import os
import pickle
import shutil
import subprocess
import sys
import tarfile

import cv2
import numpy as np
import pytest

from jaxcaffe.config import load_config
from jaxcaffe.data.tfds import TfdsSource
from jaxcaffe.errors import DataError
from jaxcaffe.train import train

tfds = pytest.importorskip("tensorflow_datasets")

SIZES = [(40, 50), (47, 50), (54, 30)]
SYNSETS = {"n01440764": 0, "n01443537": 1}
# JPEG decoders differ by up to this many grey levels.
DECODED_LEVELS = 2

# Preparing, which needs TensorFlow, stays out of the test's own process.
PREPARE = """
import sys, tensorflow_datasets as tfds
builder = tfds.builder("imagenet2012", data_dir=sys.argv[2], file_format="array_record")
builder.download_and_prepare(
    download_config=tfds.download.DownloadConfig(manual_dir=sys.argv[1]))
"""


def make_jpeg(height, width, seed):
    noise = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), np.uint8)
    image = cv2.resize(noise, (width, height))
    return cv2.imencode(".jpg", image)[1].tobytes()


def add(tar, name, content):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """ILSVRC's two tar files in small, and the bytes of each training image."""
    pytest.importorskip("tensorflow")
    folder = tmp_path_factory.mktemp("tfds")
    (folder / "manual").mkdir()
    files = {}
    with tarfile.open(folder / "manual" / "ILSVRC2012_img_train.tar", "w") as train:
        for synset, label in SYNSETS.items():
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as tar:
                for number, size in enumerate(SIZES):
                    content = make_jpeg(*size, 10 * label + number)
                    files[content] = label
                    add(tar, f"{synset}_{number}.JPEG", content)
            add(train, f"{synset}.tar", inner.getvalue())
    with tarfile.open(folder / "manual" / "ILSVRC2012_img_val.tar", "w") as val:
        for number in range(3):
            name = f"ILSVRC2012_val_{number + 1:08d}.JPEG"
            add(val, name, make_jpeg(*SIZES[number], 100 + number))
    return folder, files


@pytest.fixture(scope="module")
def data_dir(archives):
    data = str(archives[0] / "data")
    manual = str(archives[0] / "manual")
    subprocess.run(
        [sys.executable, "-c", PREPARE, manual, data], check=True, capture_output=True
    )
    return data


def test_tfds_source_imagenet_gives_bgr_planes_and_labels(archives, data_dir):
    source = TfdsSource("imagenet2012", "train", data_dir)
    assert len(source) == 6
    expected = [
        (label, cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR))
        for content, label in archives[1].items()
    ]
    for index in range(6):
        record = source[index]
        assert record["data"].dtype == np.uint8
        assert record["data"].flags.c_contiguous
        pixels = record["data"].transpose(1, 2, 0).astype(int)
        matches = [
            number
            for number, (label, image) in enumerate(expected)
            if image.shape == pixels.shape
            and np.abs(image - pixels).max() <= DECODED_LEVELS
            and label == record["label"]
        ]
        assert len(matches) == 1
        expected.pop(matches[0])
    assert "tfds:imagenet2012:train (6 examples)" in repr(source)


def test_tfds_source_validation_labels_come_from_the_package(data_dir):
    source = TfdsSource("imagenet2012", "validation", data_dir)
    records = [source[i] for i in range(3)]
    labels = {r["data"].shape[1:]: int(r["label"]) for r in records}
    # n01751748, n09193705, n02105855: the official list's first three.
    assert [labels[size] for size in SIZES] == [65, 970, 230]


@pytest.mark.parametrize(
    ("resize", "shapes"),
    [
        ("none", {(40, 50), (47, 50), (54, 30)}),
        ("warp", {(32, 32)}),
        ("short", {(32, 40), (32, 34), (58, 32)}),
    ],
)
def test_tfds_source_resize_rules(data_dir, resize, shapes):
    source = TfdsSource("imagenet2012", "train", data_dir, resize, 32)
    assert {source[i]["data"].shape[1:] for i in range(6)} == shapes


def test_tfds_source_gray_and_slices_and_pickles(data_dir):
    source = TfdsSource("imagenet2012", "train[:50%]", data_dir, decode="gray")
    again = pickle.loads(pickle.dumps(source))
    assert len(again) == 3
    assert again[0]["data"].shape[0] == 1
    np.testing.assert_array_equal(again[2]["data"], source[2]["data"])
    assert source.key(2) == "example 2"


TRAIN_ON_TFDS = """
import sys
from google.protobuf import text_format
from jaxcaffe.data.pipeline import FeedOptions, FeedReader, open_feed
from jaxcaffe.proto import caffe_pb2
layer = text_format.Parse(
    'name: "data" type: "Data" top: "data" top: "label" transform_param '
    '{ crop_size: 20 } data_param { source: "absent" batch_size: 4 }',
    caffe_pb2.LayerParameter())
options = FeedOptions(sources={"TRAIN": "tfds:imagenet2012:train"},
                      tfds_dir=sys.argv[1], resize="short", size=24, threads=2)
feed = open_feed(layer, caffe_pb2.TRAIN, options, "net:1")
with FeedReader([feed], options) as reader:
    batch = next(reader)
    batch = next(reader)
assert batch["data"].shape == (4, 3, 20, 20), batch["data"].shape
assert reader.positions == {"data": 8}
assert "tensorflow" not in sys.modules
"""


def test_tfds_feed_reads_without_importing_tensorflow(data_dir, tmp_path):
    # TensorFlow made unimportable, as where it is not installed.
    blocked = tmp_path / "tensorflow"
    blocked.mkdir()
    (blocked / "__init__.py").write_text("raise ImportError('blocked')")
    environment = dict(os.environ, PYTHONPATH=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", TRAIN_ON_TFDS, data_dir],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_tfds_source_tfrecord_asks_for_array_record(data_dir, tmp_path):
    shutil.copytree(data_dir, tmp_path / "data")
    (info,) = (tmp_path / "data").rglob("dataset_info.json")
    text = info.read_text()
    assert '"array_record"' in text
    info.write_text(text.replace('"array_record"', '"tfrecord"'))
    with pytest.raises(DataError, match=r"stored as tfrecord.*array_record"):
        TfdsSource("imagenet2012", "train", str(tmp_path / "data"))


def test_tfds_source_wrong_name_split_or_folder_raises(data_dir, tmp_path):
    with pytest.raises(DataError, match=r"no such data set. Accepted: .*imagenet2012"):
        TfdsSource("imagnet2012", "train", data_dir)
    with pytest.raises(DataError, match=r'no split "test". Accepted: '):
        TfdsSource("imagenet2012", "test", data_dir)
    with pytest.raises(DataError, match=r"split cannot be read"):
        TfdsSource("imagenet2012", "train[x]", data_dir)
    with pytest.raises(DataError, match=r"not prepared in .*builder.*imagenet2012"):
        TfdsSource("imagenet2012", "train", str(tmp_path))


def test_tfds_source_broken_image_names_the_example(data_dir, monkeypatch):
    source = TfdsSource("imagenet2012", "train", data_dir)
    monkeypatch.setattr(
        TfdsSource, "_examples", lambda self: [{"image": b"x", "label": 0}]
    )
    with pytest.raises(DataError, match=r"tfds:imagenet2012:train example 0: image"):
        source[0]


def test_tfds_package_is_loaded_only_where_it_is_read():
    code = "import sys, jaxcaffe.data.pipeline; assert 'tensorflow_datasets' not in "
    subprocess.run([sys.executable, "-c", code + "sys.modules"], check=True)


def test_unmodified_prototxt_trains_from_tfds_by_one_field(workspace, data_dir):
    config = load_config(
        "solver.prototxt",
        [
            "data.source_train=tfds:imagenet2012:train",
            f"data.tfds_dir={data_dir}",
            "data.resize=warp",
            "data.size=16",
            "max_iter=3",
        ],
    )
    result = train(config)
    assert int(result.state.iter) == 3
    log = (workspace / "small_run" / "train.log").read_text()
    assert "Layer data: 6 records" in log
