"""The converters of Caffe's examples: MNIST, CIFAR-10 and pairs of digits.

A record's bytes are written out by hand, as Caffe's own tools serialise it.
"""

import gzip
import struct

import numpy as np
import pytest

from jaxcaffe.data.database import open_database
from jaxcaffe.data.datum import read_datum
from jaxcaffe.datasets import cifar10
from jaxcaffe.errors import ConfigError, DataError
from jaxcaffe.tools import (
    convert_cifar_data,
    convert_mnist_data,
    convert_mnist_siamese_data,
)

COUNT = 12


def encode_idx(array):
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


@pytest.fixture
def digits(tmp_path):
    """(images, labels, their two files): 12 images, 4 pixels high and 3 wide."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (COUNT, 4, 3), dtype=np.uint8)
    labels = np.arange(COUNT, dtype=np.uint8) % 3
    (tmp_path / "images").write_bytes(encode_idx(images))
    (tmp_path / "labels").write_bytes(encode_idx(labels))
    return images, labels, [str(tmp_path / "images"), str(tmp_path / "labels")]


def read_records(path, backend="lmdb"):
    if backend == "leveldb":
        pytest.importorskip("plyvel")
    with open_database(str(path), backend) as opened:
        return list(opened.records)


def spell(shape, pixels, label):
    """A Datum's bytes: channels, height, width, data and label, and no `encoded`."""
    size = len(pixels)
    varint = bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7])
    sizes = b"".join(bytes([8 * (k + 1), n]) for k, n in enumerate(shape))
    return sizes + b"\x22" + varint + pixels + bytes([0x28, int(label)])


@pytest.mark.parametrize("backend", ["lmdb", "leveldb"])
def test_convert_mnist_data_writes_caffes_bytes(digits, tmp_path, capfd, backend):
    if backend == "leveldb":
        pytest.importorskip("plyvel")
    images, labels, files = digits
    out = tmp_path / "out"
    assert convert_mnist_data.main([*files, str(out), f"-backend={backend}"]) == 0
    assert read_records(out, backend) == [
        (b"%08d" % i, spell((1, 4, 3), images[i].tobytes(), labels[i]))
        for i in range(COUNT)
    ]
    said = capfd.readouterr().err
    assert "A total of 12 items.\nRows: 4 Cols: 3\nProcessed 12 files.\n" in said


def test_convert_mnist_data_gzipped_files_give_the_same(digits, tmp_path):
    _, _, files = digits
    packed = []
    for path in files:
        packed.append(f"{path}.gz")
        with open(path, "rb") as file, open(packed[-1], "wb") as out:
            out.write(gzip.compress(file.read()))
    convert_mnist_data.main([*files, str(tmp_path / "a")])
    convert_mnist_data.main([*packed, str(tmp_path / "b")])
    assert read_records(tmp_path / "a") == read_records(tmp_path / "b")


@pytest.mark.parametrize("tool", [convert_mnist_data, convert_mnist_siamese_data])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b[:-1], "has 159 bytes, but its header"),
        (lambda b: b"", "bytes of an empty file"),
        (lambda b: encode_idx(np.zeros(12)), "Accepted: 00 00 08 03"),
        (lambda b: encode_idx(np.zeros((11, 4, 3))), "holds 11 images, but"),
    ],
)
def test_idx_converters_refuse_bad_images(digits, tmp_path, tool, change, message):
    _, _, files = digits
    with open(files[0], "rb") as file:
        content = file.read()
    with open(files[0], "wb") as file:
        file.write(change(content))
    with pytest.raises(DataError, match=message):
        tool.main([*files, str(tmp_path / "out"), "--backend=lmdb"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("tool", [convert_mnist_data, convert_mnist_siamese_data])
def test_idx_converters_refuse_bad_arguments(digits, tmp_path, tool):
    _, _, files = digits
    out = tmp_path / "out"
    with pytest.raises(DataError, match=r"nowhere: cannot be read"):
        tool.main(["nowhere", files[1], str(out)])
    with pytest.raises(ConfigError, match=r"required: DB"):
        tool.main(files)
    with pytest.raises(ConfigError, match=r"unrecognized arguments: more"):
        tool.main([*files, str(out), "more"])
    with pytest.raises(ConfigError, match=r"invalid choice: 'hdf5'"):
        tool.main([*files, str(out), "--backend=hdf5"])
    out.mkdir()
    with pytest.raises(ConfigError, match="out: exists already"):
        tool.main([*files, str(out)])


def test_convert_mnist_siamese_data_pairs_hold_two_images_and_their_sameness(
    digits, tmp_path
):
    images, labels, files = digits
    out = tmp_path / "out"
    assert convert_mnist_siamese_data.main([*files, str(out), "--backend=lmdb"]) == 0
    records = read_records(out)
    assert [key for key, _ in records] == [b"%08d" % i for i in range(COUNT)]
    drawn = set()
    for key, value in records:
        pair = read_datum(value, key)
        i, j = (
            next(k for k, image in enumerate(images) if np.array_equal(image, half))
            for half in pair.data
        )
        assert value == spell((2, 4, 3), pair.data.tobytes(), labels[i] == labels[j])
        drawn.add((i, j))
    assert len(drawn) > COUNT // 2
    assert {read_datum(value, key).label for key, value in records} == {0, 1}


def test_convert_mnist_siamese_data_makes_leveldb_and_follows_its_seed(
    digits, tmp_path
):
    pytest.importorskip("plyvel")
    _, _, files = digits
    for name, *more in (("a",), ("b", "--seed=0"), ("c", "--seed=1")):
        convert_mnist_siamese_data.main([*files, str(tmp_path / name), *more])
    a, b, c = (read_records(tmp_path / name, "leveldb") for name in "abc")
    assert a == b
    assert a != c


def test_convert_mnist_siamese_data_no_images_is_refused(tmp_path):
    for name, shape in (("images", (0, 4, 3)), ("labels", (0,))):
        (tmp_path / name).write_bytes(encode_idx(np.zeros(shape)))
    argv = [str(tmp_path / name) for name in ("images", "labels", "out")]
    with pytest.raises(DataError, match="holds no images"):
        convert_mnist_siamese_data.main(argv)


@pytest.mark.parametrize("backend", ["lmdb", "leveldb", None])
def test_convert_cifar_data_writes_caffes_bytes(tmp_path, monkeypatch, backend):
    if backend == "leveldb":
        pytest.importorskip("plyvel")
    # The real files hold 10,000 records each.
    monkeypatch.setattr(cifar10.convert_cifar10, "__defaults__", ("lmdb", 2))
    generator = np.random.default_rng(0)
    table = generator.integers(0, 256, (6, 2, 3073), dtype=np.uint8)
    table[:, :, 0] %= 10
    names = [f"data_batch_{k}.bin" for k in range(1, 6)] + ["test_batch.bin"]
    for name, rows in zip(names, table, strict=True):
        (tmp_path / name).write_bytes(rows.tobytes())
    argv = [str(tmp_path), str(tmp_path / "out"), *([backend] if backend else [])]
    assert convert_cifar_data.main(argv) == 0
    kind = backend or "lmdb"
    for split, rows in (("train", table[:5].reshape(-1, 3073)), ("test", table[5])):
        path = tmp_path / "out" / f"cifar10_{split}_{kind}"
        assert read_records(path, kind) == [
            (b"%05d" % i, spell((3, 32, 32), row[1:].tobytes(), row[0]))
            for i, row in enumerate(rows)
        ]


@pytest.mark.parametrize(
    ("files", "argv", "error", "message"),
    [
        ({}, ["lmdb"], DataError, r"data_batch_1\.bin: cannot be read"),
        ({"data_batch_1.bin": b""}, [], DataError, r"has 0 bytes\. Accepted: 30730000"),
        ({}, ["mysql"], ConfigError, r'"mysql" is no kind of database'),
        ({}, ["lmdb", "x"], ConfigError, r"unrecognized arguments: x"),
    ],
)
def test_convert_cifar_data_bad_input_is_refused(tmp_path, files, argv, error, message):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=message):
        convert_cifar_data.main([str(tmp_path), str(tmp_path / "out"), *argv])
    assert not (tmp_path / "out").exists()
