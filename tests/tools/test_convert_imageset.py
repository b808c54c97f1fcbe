import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from jaxcaffe.data import database, datum
from jaxcaffe.errors import CaffeError, ConfigError, DataError
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.tools import convert_imageset

GOLDEN = Path(__file__).parents[1] / "golden" / "data"
# OpenCV versions may round a decoded or resized pixel differently; Caffe's was 4.6.
PIXEL_TOLERANCE = 2
# JPEG encoders of different versions may round coefficients differently as well.
ENCODED_TOLERANCE = 4


@pytest.fixture
def golden(monkeypatch):
    monkeypatch.chdir(GOLDEN)


def read_all(path, backend="lmdb"):
    with database.open_database(str(path), backend) as opened:
        return list(opened.records)


def convert(tmp_path, *argv):
    """Converts into tmp_path/db; returns status and records (None if not made)."""
    path = tmp_path / "db"
    status = convert_imageset.main([*argv, str(path)])
    backend = "leveldb" if any("leveldb" in a for a in argv) else "lmdb"
    return status, read_all(path, backend) if path.exists() else None


def check_dump(records, name, arrays=None, keys=None):
    """Compares records with what Caffe wrote; `keys` picks some of Caffe's."""
    entries = json.loads((GOLDEN / "dumps" / f"{name}.json").read_text())
    chosen = [
        (i, entry)
        for i, entry in enumerate(entries)
        if keys is None or entry["key"][:8] in keys
    ]
    assert [key.decode() for key, _ in records] == [e["key"] for _, e in chosen]
    file = GOLDEN / "dumps" / f"{arrays or name}.npz"
    data = np.load(file) if file.exists() else {}
    for (key, value), (i, entry) in zip(records, chosen, strict=True):
        message = caffe_pb2.Datum.FromString(value)
        assert [f.name for f, _ in message.ListFields()] == entry["fields"]
        for field in ("label", "channels", "height", "width", "encoded"):
            assert getattr(message, field) == entry[field]
        if hashlib.sha256(value).hexdigest() == entry["value_sha256"]:
            continue
        # Not the same bytes: then an OpenCV of another version decoded or encoded.
        expected = caffe_pb2.Datum.FromString(value)
        expected.data = data[f"data_{i:05d}"].tobytes()
        ours = datum.read_datum(value, key).data.astype(int)
        caffes = datum.read_datum(expected.SerializeToString(), key).data.astype(int)
        assert ours.shape == caffes.shape
        limit = ENCODED_TOLERANCE if entry["encoded"] else PIXEL_TOLERANCE
        assert np.abs(ours - caffes).max() <= limit


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        (["--check_size", "images/", "same.txt"], "lmdb_same"),
        (["images/", "all.txt"], "lmdb_all"),
        (["--gray", "images/", "all.txt"], "lmdb_gray_all"),
        (["-gray=true", "images", "all.txt"], "lmdb_gray_all"),
        (
            ["--resize_height=26", "-resize_width", "26", "images/", "all.txt"],
            "lmdb_resized",
        ),
        (
            ["images/", "--gray", "--resize-height=20", "all.txt", "-resize_width=24"],
            "lmdb_gray",
        ),
        (["--encoded", "images/", "all.txt"], "lmdb_enc"),
        (["--encoded", "--gray", "images/", "same.txt"], "lmdb_enc_gray"),
        (
            ["--encoded", "--encode_type=jpg", "images/", "same.txt"],
            "lmdb_enc_jpg",
        ),
        (
            "--encode_type=png --resize_height=22 --resize_width=22 images/ all.txt",
            "lmdb_enc_png",
        ),
        (
            "--gray --encoded --encode_type=jpg --resize_height=22 --resize_width=22 "
            "images/ all.txt",
            "lmdb_enc_jpg_gray",
        ),
        (["images/", "extra.txt"], "lmdb_extra"),
    ],
)
def test_convert_imageset_lmdb_holds_what_caffe_wrote(golden, tmp_path, argv, name):
    argv = argv.split() if isinstance(argv, str) else argv
    status, records = convert(tmp_path, *argv)
    assert status == 0
    check_dump(records, name)


@pytest.mark.parametrize(
    ("argv", "name", "arrays"),
    [
        (
            "-backend leveldb -resize_height 26 -resize_width 26 images/ all.txt",
            "leveldb_resized",
            "lmdb_resized",
        ),
        ("--backend=leveldb --encoded images/ same.txt", "leveldb_enc", None),
    ],
)
def test_convert_imageset_leveldb_holds_what_caffe_wrote(
    golden, tmp_path, argv, name, arrays
):
    pytest.importorskip("plyvel")
    status, records = convert(tmp_path, *argv.split())
    assert status == 0
    check_dump(records, name, arrays)


def test_convert_imageset_bad_images_fail_and_are_all_listed(golden, tmp_path, capfd):
    status, records = convert(tmp_path, "images/", "bad.txt")
    assert status == 1
    assert records is None
    assert os.listdir(tmp_path) == []
    error = capfd.readouterr().err
    for line, what in [
        (2, "images/bad/missing.jpg: cannot be read: No such file"),
        (3, "images/bad/empty.jpg: image is empty"),
        (4, "images/bad/text.jpg: image cannot be decoded"),
        (5, "images/bad/head.jpg: image cannot be decoded"),
        (8, "images/bad/crc.png: image cannot be decoded"),
        (9, "images/bad/cut.png: image cannot be decoded"),
        (10, "images/bad: cannot be read: Is a directory"),
    ]:
        assert f"bad.txt:{line}: {what}" in error
    assert "7 of 11 lines are bad" in error
    assert "Truncated" in error
    assert "bad.txt:7: images/bad/cut.jpg" in error


def test_convert_imageset_skip_stores_the_rest_as_caffe(golden, tmp_path, capfd):
    status, records = convert(tmp_path, "--on_bad_image=skip", "images/", "bad.txt")
    assert status == 0
    check_dump(records, "lmdb_bad")
    error = capfd.readouterr().err
    assert "bad.txt:2: images/bad/missing.jpg" in error
    assert "7 of 11 lines are bad and were left out." in error


def test_convert_imageset_odd_lines_skip_keeps_those_with_an_integer_label(
    golden, tmp_path, capfd
):
    status, records = convert(
        tmp_path,
        "--on_bad_image=skip",
        "--resize_height=8",
        "--resize_width=8",
        "images/",
        "odd.txt",
    )
    assert status == 0
    # Caffe's 00000004 (no label), 7 (3.9), 8 (abc) and 9 (beyond 32 bits) are refused.
    check_dump(
        records,
        "lmdb_odd",
        keys=("00000000", "00000003", "00000006", "00000011", "00000012"),
    )
    error = capfd.readouterr().err
    assert "odd.txt:3: no space stands before a label" in error
    assert "odd.txt:5: no space stands before a label" in error
    assert "odd.txt:8: label '3.9' is no integer" in error
    assert "odd.txt:9: label 'abc' is no integer" in error
    assert "odd.txt:10: label 99999999999 is beyond 32 bits" in error
    assert "odd.txt:6:" not in error  # blank


def test_convert_imageset_skip_with_nothing_left_fails(tmp_path, capfd):
    (tmp_path / "list").write_text("a.jpg 1\nb.jpg 2\n")
    status, records = convert(
        tmp_path, "--on_bad_image=skip", f"{tmp_path}/", str(tmp_path / "list")
    )
    assert (status, records) == (1, None)
    assert "2 of 2 lines are bad" in capfd.readouterr().err


def test_convert_imageset_check_size_lists_those_unlike_the_first(
    golden, tmp_path, capfd
):
    status, records = convert(tmp_path, "--check_size", "images/", "all.txt")
    assert (status, records) == (1, None)
    error = capfd.readouterr().err
    assert (
        "all.txt:2: images/v/x.y.z.jpg: is 3 channels of 35 x 22, but the first image, "
        "all.txt:1: images/same/a6.png, is 3 channels of 30 x 36." in error
    )
    assert "14 of 24 lines are bad" in error


def test_convert_imageset_check_size_same_area_other_shape_is_bad(tmp_path, capfd):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 6, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "b.png"), np.zeros((6, 4, 3), np.uint8))
    (tmp_path / "list").write_text("a.png 1\nb.png 2\n")
    status, _ = convert(
        tmp_path, "--check_size", f"{tmp_path}/", str(tmp_path / "list")
    )
    assert status == 1
    assert "is 3 channels of 6 x 4, but" in capfd.readouterr().err


def test_convert_imageset_check_size_encoded_compares_decoded_sizes(golden, tmp_path):
    status, records = convert(
        tmp_path, "--check_size", "--encoded", "images/", "same.txt"
    )
    assert status == 0
    assert len(records) == 10


def test_convert_imageset_encoded_truncated_jpeg_is_refused(golden, tmp_path, capfd):
    status, _ = convert(tmp_path, "--encoded", "images/", "cut.txt")
    assert status == 1
    assert "cut.jpg: is a truncated JPEG" in capfd.readouterr().err
    # Encoded anew it is a whole JPEG with a grey part, as in Caffe.
    status, records = convert(
        tmp_path, "--encoded", "--encode_type=png", "images/", "cut.txt"
    )
    assert status == 0
    assert datum.read_datum(records[0][1], "").data.shape == (3, 40, 44)


def test_convert_imageset_encoded_without_extension_is_refused(golden, tmp_path, capfd):
    shutil.copy("images/same/a1.jpg", tmp_path / "plain")
    (tmp_path / "list").write_text("plain 1\n")
    argv = ["--encoded", f"{tmp_path}/", str(tmp_path / "list")]
    status, _ = convert(tmp_path, *argv)
    assert status == 1
    assert 'its extension "" is no image type' in capfd.readouterr().err
    assert convert(tmp_path, "--encode_type=JPG", *argv)[0] == 0


def test_convert_imageset_shuffle_same_seed_same_order(golden, tmp_path):
    def keys(name, *flags):
        (tmp_path / name).mkdir()
        argv = [*flags, "--shuffle", "images/", "all.txt"]
        status, records = convert(tmp_path / name, *argv)
        assert status == 0
        return [key.decode() for key, _ in records]

    first = keys("a")
    assert first == keys("b", "--seed=0", "--threads=3")
    other = keys("c", "--seed", "7")
    assert other != first
    lines = Path("all.txt").read_text().splitlines()
    listed = [line.rpartition(" ")[0] for line in lines]
    for order in (first, other):
        assert [key[:8] for key in order] == [f"{i:08d}" for i in range(24)]
        assert [key[9:] for key in order] != listed
        assert sorted(key[9:] for key in order) == sorted(listed)


def test_convert_imageset_order_holds_with_many_threads(tmp_path, capfd):
    cv2.imwrite(str(tmp_path / "small.png"), np.zeros((2, 2, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "large.png"), np.zeros((600, 600, 3), np.uint8))
    names = ["large.png" if i % 97 == 0 else "small.png" for i in range(1500)]
    lines = "".join(f"{name} {i}\n" for i, name in enumerate(names))
    (tmp_path / "list").write_text(lines)
    status, records = convert(
        tmp_path,
        "--resize_height=2",
        "--resize_width=2",
        "--threads=7",
        f"{tmp_path}/",
        str(tmp_path / "list"),
    )
    assert status == 0
    labels = [datum.read_datum(value, key).label for key, value in records]
    assert labels == list(range(1500))
    error = capfd.readouterr().err
    assert "Processed 1000 files.\nProcessed 1500 files.\n" in error


def test_convert_imageset_key_longer_than_lmdb_takes_is_a_bad_line(tmp_path, capfd):
    folder = tmp_path / ("d" * 250) / ("e" * 249)
    folder.mkdir(parents=True)
    name = str(folder.relative_to(tmp_path) / "f.png")
    cv2.imwrite(str(tmp_path / name), np.zeros((2, 2, 3), np.uint8))
    (tmp_path / "list").write_text(f"{name} 1\n")
    argv = [f"{tmp_path}/", str(tmp_path / "list")]
    assert convert(tmp_path, *argv)[0] == 1
    assert "the key would have 515 bytes. Accepted: 511" in capfd.readouterr().err
    pytest.importorskip("plyvel")
    assert convert(tmp_path, "--backend=leveldb", *argv)[0] == 0


def test_convert_imageset_name_that_is_not_utf8_keeps_its_bytes(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((2, 2, 3), np.uint8))
    os.rename(tmp_path / "a.png", os.fsencode(tmp_path) + b"/\xe9.png")
    (tmp_path / "list").write_bytes(b"\xe9.png 1\n")
    status, records = convert(tmp_path, f"{tmp_path}/", str(tmp_path / "list"))
    assert status == 0
    assert records[0][0] == b"00000000_\xe9.png"


@pytest.mark.parametrize(
    ("argv", "what"),
    [
        ("--resize_height=20 images/ all.txt", "resize_height is 20 and --resize_wi"),
        ("--resize_width=20 images/ all.txt", "resize_width is 20. Accepted: both"),
        ("--resize_width=-2 images/ all.txt", "--resize_width is -2. Accepted: 0 or"),
        ("--resize_width=big images/ all.txt", "--resize_width: invalid int value"),
        ("--threads=0 images/ all.txt", "--threads is 0"),
        ("--encoded --encode_type=nope images/ same.txt", '--encode_type is "nope"'),
        ("--backend=sqlite images/ same.txt", "--backend: invalid choice: 'sqlite'"),
        ("--nosuchflag images/ same.txt", "unknown flag --nosuchflag"),
        ("--resize_heigth=2 images/ same.txt", "resize_heigth. Accepted: --resize_he"),
        ("--gray=maybe images/ same.txt", '--gray is "maybe". Accepted: true or'),
        ("images/", "the following arguments are required: DB"),
        ("images/ same.txt more", "unrecognized arguments"),
    ],
)
def test_convert_imageset_wrong_flags_are_one_clear_line(golden, tmp_path, argv, what):
    with pytest.raises(ConfigError) as caught:
        convert(tmp_path, *argv.split())
    assert what in str(caught.value)
    assert str(caught.value).startswith("convert_imageset: ")
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_convert_imageset_value_flag_at_the_end_has_no_value():
    with pytest.raises(
        ConfigError, match=r"-seed has no value. Accepted: --seed=VALUE"
    ):
        convert_imageset.main(["images/", "all.txt", "db", "-seed"])


def test_convert_imageset_missing_list_is_refused(golden, tmp_path):
    with pytest.raises(DataError, match=r"none.txt: cannot be read: No such file"):
        convert(tmp_path, "images/", "none.txt")
    assert os.listdir(tmp_path) == []


def test_convert_imageset_empty_list_is_refused(tmp_path):
    (tmp_path / "list").write_text("\n \n")
    with pytest.raises(DataError, match=r"list: names no images"):
        convert(tmp_path, "images/", str(tmp_path / "list"))


@pytest.mark.parametrize("backend", ["lmdb", "leveldb"])
def test_convert_imageset_existing_path_stays_untouched(golden, tmp_path, backend):
    if backend == "leveldb":
        pytest.importorskip("plyvel")
    (tmp_path / "db").mkdir()
    (tmp_path / "db" / "data.mdb").write_text("mine")
    with pytest.raises(CaffeError, match=r"db: exists already"):
        convert(tmp_path, f"--backend={backend}", "images/", "same.txt")
    assert (tmp_path / "db" / "data.mdb").read_text() == "mine"
    assert os.listdir(tmp_path / "db") == ["data.mdb"]
    assert os.listdir(tmp_path) == ["db"]


def start(*argv):
    return subprocess.Popen(
        [sys.executable, "-m", "jaxcaffe.tools.convert_imageset", *argv],
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_partial(folder):
    """Waits for a temporary database into which records were committed."""
    for _ in range(2000):
        for path in folder.glob("db.partial-*/data.mdb"):
            if path.stat().st_size > 1 << 17:
                return
        time.sleep(0.01)
    raise AssertionError("no temporary database appeared")


@pytest.fixture
def endless(tmp_path):
    """Arguments of a conversion that never ends: the last image is a pipe."""
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "list").write_text("a.png 1\n" * 3000 + "pipe.png 2\n")
    (tmp_path / "out").mkdir()
    return [f"{tmp_path}/", str(tmp_path / "list"), str(tmp_path / "out" / "db")]


def test_convert_imageset_killed_leaves_only_its_temporary_folder(tmp_path, endless):
    with start(*endless) as process:
        wait_for_partial(tmp_path / "out")
        process.kill()
    assert process.returncode == -signal.SIGKILL
    (left,) = os.listdir(tmp_path / "out")
    assert left.startswith("db.partial-")
    # What is left is in nobody's way.
    (tmp_path / "list").write_text("a.png 1\n")
    assert convert_imageset.main(endless) == 0
    assert len(read_all(tmp_path / "out" / "db")) == 1


def test_convert_imageset_interrupted_leaves_nothing(tmp_path, endless):
    with start(*endless) as process:
        wait_for_partial(tmp_path / "out")
        process.send_signal(signal.SIGINT)
        # The worker that waits for the pipe, now or in a while, gets its end.
        while process.poll() is None:
            os.close(os.open(tmp_path / "pipe.png", os.O_RDWR | os.O_NONBLOCK))
            time.sleep(0.05)
        error = process.stderr.read()
    assert process.returncode == 130
    assert error.endswith("Interrupted.\n")
    assert "Traceback" not in error
    assert os.listdir(tmp_path / "out") == []


def test_convert_imageset_command_reports_one_line_and_status_1(tmp_path):
    process = start("images/", "none.txt", str(tmp_path / "db"))
    _, error = process.communicate()
    assert process.returncode == 1
    assert error == "none.txt: cannot be read: No such file or directory.\n"
