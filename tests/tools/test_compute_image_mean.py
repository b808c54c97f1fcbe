import os
from pathlib import Path

import numpy as np
import pytest

from jaxcaffe.data import database, datum
from jaxcaffe.errors import ConfigError, DataError
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.tools import compute_image_mean, convert_imageset

GOLDEN = Path(__file__).parents[1] / "golden" / "data"
# The databases are made here, and OpenCV versions may round a few pixels differently.
MEAN_TOLERANCE = 0.1


def make(path, records, backend="lmdb"):
    with database.create_database(str(path), backend) as put:
        for i, value in enumerate(records):
            put(b"%08d" % i, value)
    return str(path)


@pytest.mark.parametrize(
    ("flags", "name", "list_name"),
    [
        ("--resize_height=26 --resize_width=26", "resized", "all.txt"),
        ("", "same", "same.txt"),
        ("--gray --resize_height=20 --resize_width=24", "gray", "all.txt"),
        (
            "--encode_type=png --resize_height=22 --resize_width=22",
            "enc_png",
            "all.txt",
        ),
        (
            "--backend=leveldb --resize_height=26 --resize_width=26",
            "leveldb",
            "all.txt",
        ),
    ],
)
def test_compute_image_mean_matches_caffe(
    monkeypatch, tmp_path, capfd, flags, name, list_name
):
    backend = "leveldb" if "leveldb" in flags else "lmdb"
    if backend == "leveldb":
        pytest.importorskip("plyvel")
    monkeypatch.chdir(GOLDEN)
    db, out = str(tmp_path / "db"), str(tmp_path / "mean.binaryproto")
    assert convert_imageset.main([*flags.split(), "images/", list_name, db]) == 0
    assert compute_image_mean.main([db, f"--backend={backend}", out]) == 0

    ours = caffe_pb2.BlobProto.FromString(Path(out).read_bytes())
    golden = (GOLDEN / "mean" / f"{name}.binaryproto").read_bytes()
    caffes = caffe_pb2.BlobProto.FromString(golden)
    assert [f.name for f, _ in ours.ListFields()] == [
        f.name for f, _ in caffes.ListFields()
    ]
    for field in ("num", "channels", "height", "width"):
        assert getattr(ours, field) == getattr(caffes, field)
    np.testing.assert_allclose(ours.data, caffes.data, rtol=0, atol=MEAN_TOLERANCE)

    error = capfd.readouterr().err
    assert f"Number of channels: {caffes.channels}\n" in error
    planes = np.reshape(ours.data, (caffes.channels, -1)).mean(axis=1)
    for channel, mean in enumerate(planes):
        assert f"mean_value channel [{channel}]: {mean:.6g}\n" in error
    assert ("Decoding Datum\n" in error) == (name == "enc_png")


@pytest.mark.parametrize("threads", [1, 3])
def test_compute_mean_of_many_blocks_is_exact(tmp_path, monkeypatch, threads):
    monkeypatch.setattr(compute_image_mean, "_BLOCK_RECORDS", 10)
    images = np.random.default_rng(1).integers(0, 256, (131, 3, 4, 5), np.uint8)
    db = make(tmp_path / "db", map(datum.write_datum, images))
    mean = compute_image_mean.compute_mean(db, threads=threads)
    assert mean.dtype == np.float32
    np.testing.assert_array_equal(mean, images.mean(axis=0).astype(np.float32))


def test_compute_mean_beyond_float32_sums_is_exact(tmp_path, monkeypatch):
    # 70000 x 255 > 2**24, from where on float32 cannot add odd numbers.
    values = np.full(70000, 255, np.uint8)
    values[::2] = 254
    db = make(tmp_path / "db", (datum.write_datum(v.reshape(1, 1, 1)) for v in values))
    mean = compute_image_mean.compute_mean(db)
    assert mean.item() == 254.5


def test_compute_mean_floats_are_averaged_as_they_are(tmp_path):
    arrays = np.random.default_rng(2).normal(size=(5, 2, 1, 3)).astype(np.float32)
    db = make(tmp_path / "db", map(datum.write_datum, arrays))
    mean = compute_image_mean.compute_mean(db)
    expected = arrays.astype(np.float64).mean(axis=0).astype(np.float32)
    np.testing.assert_array_equal(mean, expected)


def test_compute_mean_bytes_and_floats_together_are_averaged(tmp_path):
    records = [
        datum.write_datum(np.array([[[200]]], np.uint8)),
        datum.write_datum(np.array([[[0.5]]], np.float32)),
    ]
    db = make(tmp_path / "db", records)
    assert compute_image_mean.compute_mean(db).item() == 100.25


@pytest.mark.parametrize("block", [1, 64])
def test_compute_mean_different_sizes_name_both_records(tmp_path, monkeypatch, block):
    monkeypatch.setattr(compute_image_mean, "_BLOCK_RECORDS", block)
    shapes = [(3, 4, 5), (3, 4, 5), (3, 5, 4)]
    db = make(
        tmp_path / "db", (datum.write_datum(np.zeros(s, np.uint8)) for s in shapes)
    )
    with pytest.raises(
        DataError,
        match=r'db: record "00000002": is 3 channels of 5 x 4, but '
        r'record "00000000" is 3 channels of 4 x 5\. Accepted: one size',
    ):
        compute_image_mean.compute_mean(db)


def test_compute_mean_broken_record_is_named(tmp_path):
    good = datum.write_datum(np.zeros((3, 4, 5), np.uint8))
    db = make(tmp_path / "db", [good, good[:-9]])
    with pytest.raises(DataError, match=r'db: record "00000001": '):
        compute_image_mean.compute_mean(db)


def test_compute_mean_empty_database_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"db: holds no records"):
        compute_image_mean.compute_mean(make(tmp_path / "db", []))


def test_compute_image_mean_existing_file_needs_overwrite(tmp_path):
    db = make(tmp_path / "db", [datum.write_datum(np.full((1, 2, 2), 7, np.uint8))])
    out = tmp_path / "mean.binaryproto"
    out.write_text("mine")
    with pytest.raises(ConfigError, match=r"mean.binaryproto: exists already"):
        compute_image_mean.main([db, str(out)])
    assert out.read_text() == "mine"
    assert compute_image_mean.main([db, str(out), "--overwrite"]) == 0
    assert list(caffe_pb2.BlobProto.FromString(out.read_bytes()).data) == [7] * 4
    assert sorted(os.listdir(tmp_path)) == ["db", "mean.binaryproto"]


def test_compute_image_mean_without_out_only_prints(tmp_path, capfd):
    db = make(tmp_path / "db", [datum.write_datum(np.full((1, 2, 2), 7, np.uint8))])
    assert compute_image_mean.main([db]) == 0
    assert "mean_value channel [0]: 7\n" in capfd.readouterr().err
    assert os.listdir(tmp_path) == ["db"]


def test_compute_image_mean_missing_folder_of_out_is_refused_at_once(tmp_path):
    db = make(tmp_path / "db", [b""])
    with pytest.raises(ConfigError, match=r"its folder .*no does not exist"):
        compute_image_mean.main([db, str(tmp_path / "no" / "mean")])


@pytest.mark.parametrize(
    ("argv", "what"),
    [
        (["none"], r"none: does not exist"),
        ([], r"compute_image_mean: the following arguments are required: DB"),
        (["a", "b", "c"], r"compute_image_mean: unrecognized arguments: c"),
        (["a", "--threads=0"], r"--threads is 0"),
    ],
)
def test_compute_image_mean_wrong_arguments_are_refused(argv, what):
    with pytest.raises((ConfigError, DataError), match=what):
        compute_image_mean.main(argv)
