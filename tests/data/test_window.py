import itertools
import pathlib
import pickle

import cv2
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcaffe.augment import make_augment
from jaxcaffe.data import pipeline
from jaxcaffe.data.window import WindowSource
from jaxcaffe.errors import CaffeError, DataError, PrototxtError
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.proto.text import read_net

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "window"
CASES = sorted(path.stem for path in GOLDEN.glob("*.prototxt"))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name, shape in (("a.png", (20, 30, 3)), ("b.png", (16, 12, 3))):
        cv2.imwrite(str(tmp_path / name), rng.integers(0, 256, shape, np.uint8))
    return tmp_path


def windows(*images):
    """Text of a window file: per image (path, [(label, overlap, x1, y1, x2, y2)])."""
    lines = []
    for index, (path, found) in enumerate(images):
        lines += [f"# {index}", path, "3", "20", "30", str(len(found))]
        lines += [" ".join(map(str, window)) for window in found]
    return "\n".join(lines) + "\n"


ORDINARY = windows(
    ("a.png", [(3, 0.9, 2, 3, 11, 12), (0, 0.0, 20, 10, 29, 19), (4, 0.6, 0, 0, 5, 5)]),
    ("b.png", [(0, 0.2, 1, 1, 10, 14)]),
)


def layer(window="", transform="crop_size: 8", batch_size=4):
    return parse(
        f"""layer {{ name: "w" type: "WindowData" top: "data" top: "label"
        transform_param {{ {transform} }}
        window_data_param {{ source: "windows.txt" batch_size: {batch_size}
          {window} }} }}"""
    )


def parse(text):
    path = pathlib.Path("net.prototxt")
    path.write_text(text)
    return read_net(path)[0].layer[0]


def open_feed(layer, seed=0, **options):
    options = pipeline.FeedOptions(seed=seed, **options)
    return pipeline.open_feed(layer, caffe_pb2.TRAIN, options, "net.prototxt:1")


def run(layer, seed=0, batches=1):
    """Returns tops of the first batches, as the net gets them."""
    feed = open_feed(layer, seed)
    augment = jax.jit(make_augment([layer], feed.structs, caffe_pb2.TRAIN))
    return [augment(feed.batches[k], jax.random.key(k)) for k in range(batches)]


@pytest.mark.parametrize("case", CASES)
def test_window_data_gives_the_very_crops_that_caffe_gives(case, monkeypatch):
    monkeypatch.chdir(GOLDEN)
    rows, labels, crops = (
        np.load("caffe.npz")[f"{case}/{key}"] for key in ("row", "label", "data")
    )
    net, _ = read_net(f"{case}.prototxt")
    found = {}
    for batch in run(net.layer[0], batches=16):
        for row in range(2):
            crop = np.asarray(batch["data"][row])
            found[row, float(batch["label"][row]), crop.tobytes()] = crop
    # Which windows are drawn and mirrored is chance; what they look like is not.
    assert len(found) == len(crops)
    for row, label, crop in zip(rows, labels, crops, strict=True):
        alike = [c for (r, la, _), c in found.items() if (r, la) == (row, label)]
        assert min(np.abs(other - crop).max() for other in alike) <= 1e-4


def test_window_data_batch_is_background_first_then_objects(folder):
    (folder / "windows.txt").write_text(ORDINARY)
    for number, batch in enumerate(run(layer("fg_fraction: 0.5"), batches=6)):
        labels = batch["label"].tolist()
        assert labels[:2] == [0, 0], number
        assert set(labels[2:]) <= {3, 4}
        assert batch["data"].shape == (4, 3, 8, 8)
        assert set(batch) == {"data", "label"}


@pytest.mark.parametrize(
    ("fraction", "objects"), [(0, 0), (0.3, 1), (0.25, 1), (0.99, 3), (1, 4)]
)
def test_window_data_rounds_the_objects_of_a_batch_down(folder, fraction, objects):
    (folder / "windows.txt").write_text(ORDINARY)
    (batch,) = run(layer(f"fg_fraction: {fraction}"))
    assert np.count_nonzero(batch["label"]) == objects


def test_window_data_depends_on_seed_and_batch_alone(folder):
    (folder / "windows.txt").write_text(ORDINARY)
    w = layer("fg_fraction: 0.5", "crop_size: 8 mirror: true")
    feed = open_feed(w, seed=3)
    straight = [feed.batches[k] for k in range(5)]
    with pipeline.FeedReader(
        [feed], pipeline.FeedOptions(seed=3, threads=3), {"w": 8}
    ) as reader:
        resumed = [next(reader) for _ in range(3)]
    for ours, theirs in zip(straight[2:], resumed, strict=True):
        for top, array in ours.items():
            np.testing.assert_array_equal(array, theirs[top])
    assert any(
        not np.array_equal(a["data"], b["data"])
        for a, b in itertools.pairwise(straight)
    )
    other = open_feed(w, seed=4).batches[0]
    assert not np.array_equal(other["data"], straight[0]["data"])
    again = pickle.loads(pickle.dumps(feed.records))
    np.testing.assert_array_equal(again.read_batch(1)["data"], straight[1]["data"])


def test_window_data_outside_the_image_stays_zero_after_the_mean(folder):
    # A window in the corner, with context: left and above lies nothing.
    (folder / "windows.txt").write_text(
        windows(("a.png", [(1, 0.9, 0, 0, 9, 9), (0, 0.1, 0, 0, 9, 9)]))
    )
    w = layer("context_pad: 2", "crop_size: 8 mean_value: 300", batch_size=1)
    (batch,) = run(w)
    crop = np.asarray(batch["data"][0])
    assert not crop[:, :2].any()
    assert not crop[:, :, :2].any()
    assert (crop[:, 2:, 2:] < 0).all()


def test_window_data_mirrors_the_padding_too(folder):
    (folder / "windows.txt").write_text(
        windows(("a.png", [(1, 0.9, 0, 5, 9, 14), (0, 0.1, 0, 5, 9, 14)]))
    )
    source = WindowSource("windows.txt", crop_size=8, mirror=True, context_pad=2)
    plain, mirrored = source[0], source[1]
    np.testing.assert_array_equal(plain["data"][:, :, ::-1], mirrored["data"])
    assert plain["window"].tolist() == [0, 2, 8, 6]
    assert mirrored["window"].tolist() == [0, 0, 8, 6]


def test_window_data_cache_images_reads_each_file_once(folder):
    (folder / "windows.txt").write_text(ORDINARY)
    source = WindowSource("windows.txt", crop_size=8, cache_images=True)
    before = source[0]["data"]
    (folder / "a.png").unlink()
    np.testing.assert_array_equal(source[0]["data"], before)


def test_window_data_root_folder_stands_before_every_path(folder):
    (folder / "windows.txt").write_text(ORDINARY)
    (folder / "photos").mkdir()
    (folder / "a.png").rename(folder / "photos" / "a.png")
    (folder / "b.png").rename(folder / "photos" / "b.png")
    (batch,) = run(layer('root_folder: "photos/"'))
    assert np.asarray(batch["data"]).any()


@settings(deadline=None, max_examples=40)
@given(
    x=st.tuples(st.integers(0, 29), st.integers(0, 29)),
    y=st.tuples(st.integers(0, 19), st.integers(0, 19)),
    pad=st.integers(0, 3),
    mode=st.sampled_from(["warp", "square"]),
    is_mirrored=st.booleans(),
)
def test_window_data_any_window_in_the_image_fills_its_place(
    tmp_path_factory, x, y, pad, mode, is_mirrored
):
    folder = tmp_path_factory.mktemp("windows")
    cv2.imwrite(str(folder / "a.png"), np.full((20, 30, 3), 200, np.uint8))
    corners = (min(x), min(y), max(x), max(y))
    path = folder / "windows.txt"
    image = str(folder / "a.png")
    path.write_text(windows((image, [(1, 0.9, *corners), (0, 0, *corners)])))
    source = WindowSource(
        str(path), crop_size=8, mirror=True, context_pad=pad, crop_mode=mode
    )
    record = source[2 + is_mirrored]
    top, left, height, width = record["window"]
    inside = np.zeros((8, 8), bool)
    inside[top : top + height, left : left + width] = True
    assert inside.sum() == height * width > 0
    assert (record["data"][:, inside] == 200).all()
    assert not record["data"][:, ~inside].any()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"windows.txt: there is no object window"),
        ("% 0\n", r'windows.txt:1: an image begins with "%"\. Accepted: "#"'),
        (
            "# 1\na.png 3 20 30 0\n",
            "txt:1: the image's index is 1. Accepted: 0",
        ),
        ("# 0\na.png\n1\n20 30 0\n", r"windows.txt:3: the image has 1 channel"),
        (
            "# 0\na.png\n3\n20\n",
            "txt:4: the file ends where the image's width",
        ),
        ("# 0\na.png\n3 0 30 0\n", r"windows.txt:3: the image's height is 0"),
        ("# 0 a.png 3 20 30 x", r'windows.txt:1: the number of windows is "x"'),
        (
            "# 0 a.png 3 20 30 1\n1 high 0 0 1 1",
            'a window.s overlap is "high"',
        ),
        (
            "# 0 a.png 3 20 30 1\n0 0.9 0 0 1 1",
            "txt:2: a window of overlap 0.9",
        ),
        ("# 0 a.png 3 20 30 1\n1 0.9 0 0 1 1", r"there is no background window"),
        ("# 0 a.png 3 20 30 1\n0 0.1 0 0 1 1", r"there is no object window\. Accepted"),
    ],
)
def test_window_data_bad_window_file_is_refused_with_its_line(folder, text, message):
    (folder / "windows.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        open_feed(layer())


def test_window_data_missing_file_is_refused(folder):
    with pytest.raises(DataError, match=r"windows.txt: the window file cannot be read"):
        open_feed(layer())


def test_window_data_missing_image_names_the_windows_line(folder):
    (folder / "windows.txt").write_text(ORDINARY.replace("a.png", "gone.png"))
    with pytest.raises(DataError, match=r'"w" .*: windows.txt:\d+: gone.png'):
        open_feed(layer("fg_fraction: 1"))


def test_window_data_window_outside_its_image_names_the_line(folder):
    text = windows(("a.png", [(1, 0.9, 5, 5, 30, 10), (0, 0.1, 5, 5, 30, 10)]))
    (folder / "windows.txt").write_text(text)
    with pytest.raises(DataError, match=r"windows.txt:8: the window \(5, 5\) to \(30"):
        open_feed(layer())


@pytest.mark.parametrize(
    ("window", "transform", "message"),
    [
        ("", "", r"there is no crop_size"),
        (
            "context_pad: 4",
            "crop_size: 8",
            "context_pad is 4 on each side",
        ),
        ('crop_mode: "wrap"', "crop_size: 8", r'crop_mode is "wrap"\. Accepted: warp'),
        ("fg_fraction: 1.5", "crop_size: 8", "fg_fraction is 1.5. Accepted: "),
    ],
)
def test_window_data_bad_setting_is_refused(folder, window, transform, message):
    (folder / "windows.txt").write_text(ORDINARY)
    with pytest.raises(PrototxtError, match=message):
        open_feed(layer(window, transform))


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        ("mean_value: 1 mean_value: 2", r"2 mean_values for 3 channels"),
        ('mean_file: "gone.binaryproto"', r"mean_file: .*gone.binaryproto"),
        ('mean_value: 1 mean_file: "m.binaryproto"', r"are both set"),
        ('mean_file: "m.binaryproto"', r"is 3x4x4, the crops are 3x8x8"),
    ],
)
def test_window_data_bad_mean_is_refused(folder, transform, message):
    from jaxcaffe.proto.binary import write_blob

    write_blob("m.binaryproto", np.zeros((1, 3, 4, 4), np.float32))
    if "both" in message:
        write_blob("m.binaryproto", np.zeros((1, 3, 8, 8), np.float32))
    (folder / "windows.txt").write_text(ORDINARY)
    with pytest.raises(CaffeError, match=message):
        run(layer("", f"crop_size: 8 {transform}"))
