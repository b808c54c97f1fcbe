import gzip
import struct

import numpy as np
import pytest

from jaxcaffe.data.database import open_database
from jaxcaffe.data.datum import read_datum
from jaxcaffe.datasets import fashion_mnist, idx, mnist
from jaxcaffe.errors import ConfigError, DataError

MAKERS = {"fashion_mnist": fashion_mnist.main, "mnist": mnist.main}
NAMES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def encode(array):
    """The bytes of an idx file, as its description has them."""
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


@pytest.fixture
def parts():
    """Images 4 pixels high and 3 wide, with labels: 12 for training, 5 for testing."""
    generator = np.random.default_rng(0)
    return {
        split: (generator.integers(0, 256, (n, 4, 3)), generator.integers(0, 10, n))
        for split, n in (("train", 12), ("test", 5))
    }


@pytest.fixture
def folder(tmp_path, parts):
    """The four files, gzip-compressed."""
    folder = tmp_path / "idx"
    folder.mkdir()
    for split, names in NAMES.items():
        for name, array in zip(names, parts[split], strict=True):
            (folder / f"{name}.gz").write_bytes(gzip.compress(encode(array)))
    return folder


@pytest.mark.parametrize("name", MAKERS)
def test_main_databases_hold_images_and_labels_in_order(folder, parts, tmp_path, name):
    out = tmp_path / "new" / "out"
    assert MAKERS[name]([str(folder), str(out)]) == 0
    assert sorted(p.name for p in out.iterdir()) == [
        f"{name}_test_lmdb",
        f"{name}_train_lmdb",
    ]
    for split, (images, labels) in parts.items():
        with open_database(str(out / f"{name}_{split}_lmdb")) as database:
            stored = list(database.records)
        assert [key for key, _ in stored] == [b"%08d" % i for i in range(len(labels))]
        for (key, value), image, label in zip(stored, images, labels, strict=True):
            record = read_datum(value, key)
            assert record.label == label
            np.testing.assert_array_equal(record.data, image[np.newaxis])


def test_convert_idx_unpacked_and_dotted_names_will_do(folder, parts, tmp_path):
    for name in NAMES["train"] + NAMES["test"]:
        path = folder / f"{name}.gz"
        unpacked = folder / name.replace("-idx", ".idx")
        unpacked.write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    train, _ = idx.convert_idx(str(folder), str(tmp_path / "out"), "mnist")
    with open_database(train) as database:
        assert sum(1 for _ in database.records) == len(parts["train"][1])


@pytest.mark.parametrize("present", ["train", "test"])
def test_convert_idx_one_database_exists_makes_neither(folder, tmp_path, present):
    out = tmp_path / "out"
    (out / f"mnist_{present}_lmdb").mkdir(parents=True)
    with pytest.raises(ConfigError, match=f"mnist_{present}_lmdb: exists already"):
        idx.convert_idx(str(folder), str(out), "mnist")
    assert [p.name for p in out.iterdir()] == [f"mnist_{present}_lmdb"]
    assert not list((out / f"mnist_{present}_lmdb").iterdir())


def test_convert_idx_missing_file_is_named(folder, tmp_path):
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match=r"idx: holds no t10k-labels-idx1-ubyte\.gz"):
        idx.convert_idx(str(folder), str(tmp_path / "out"), "mnist")
    assert not (tmp_path / "out").exists()


def test_read_pair_counts_differ_is_an_error(folder, parts):
    path = folder / "train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(encode(parts["train"][1][:-1])))
    with pytest.raises(DataError, match=r"holds 12 images, but .* holds 11 labels"):
        idx.read_pair(*(str(folder / f"{name}.gz") for name in NAMES["train"]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b[:-1], "has 27 bytes, but its header, .*, tells of 28"),
        (lambda b: b + b"\0", "has 29 bytes, but its header, .*, tells of 28"),
        (lambda b: b[:6], "has 6 bytes, but its header"),
        (lambda b: b"\0\0\x0d\x03" + b[4:], "begins with the bytes 00 00 0d 03"),
        (lambda b: b"\0\0\x08\x01" + b[4:], r"Accepted: 00 00 08 03, an idx file"),
        (lambda b: b"", "begins with the bytes of an empty file"),
        (lambda b: gzip.compress(b)[:-9], "is broken gzip"),
        (lambda b: b"\x1f\x8b" + b, "is broken gzip"),
    ],
)
def test_read_idx_broken_file_says_what_is_wrong(tmp_path, change, message):
    path = tmp_path / "images"
    path.write_bytes(change(encode(np.zeros((2, 2, 3)))))
    with pytest.raises(DataError, match=message):
        idx.read_idx(str(path), 3)
