import numpy as np
import pytest

from jaxcaffe.data.database import open_database
from jaxcaffe.data.datum import read_datum
from jaxcaffe.datasets import cifar10
from jaxcaffe.errors import ConfigError, DataError

RECORDS = 3  # per file; the real ones hold 10,000


@pytest.fixture
def table():
    """(6 files, RECORDS, 3073) bytes, as CIFAR-10's page describes them."""
    generator = np.random.default_rng(0)
    table = generator.integers(0, 256, (6, RECORDS, 3073), dtype=np.uint8)
    table[:, :, 0] %= 10
    return table


@pytest.fixture
def folder(tmp_path, table):
    folder = tmp_path / "bin"
    folder.mkdir()
    names = [f"data_batch_{k}.bin" for k in range(1, 6)] + ["test_batch.bin"]
    for name, rows in zip(names, table, strict=True):
        (folder / name).write_bytes(rows.tobytes())
    return folder


def test_convert_cifar10_databases_hold_the_files_in_order(folder, table, tmp_path):
    paths = cifar10.convert_cifar10(
        str(folder), str(tmp_path / "out"), records_per_file=RECORDS
    )
    assert paths == (
        str(tmp_path / "out" / "cifar10_train_lmdb"),
        str(tmp_path / "out" / "cifar10_test_lmdb"),
    )
    for path, rows in zip(paths, (table[:5].reshape(-1, 3073), table[5]), strict=True):
        with open_database(path) as database:
            stored = list(database.records)
        assert [key for key, _ in stored] == [b"%05d" % i for i in range(len(rows))]
        for (key, value), row in zip(stored, rows, strict=True):
            record = read_datum(value, key)
            assert record.label == row[0]
            assert record.data.shape == (3, 32, 32)
            np.testing.assert_array_equal(record.data.ravel(), row[1:])


def test_read_batch_first_plane_is_red(tmp_path):
    # One orange image: red 255, green 128, blue 0.
    planes = np.repeat(np.array([255, 128, 0], np.uint8), 1024)
    path = tmp_path / "batch.bin"
    path.write_bytes(b"\x07" + planes.tobytes())
    images, labels = cifar10.read_batch(str(path), 1)
    assert labels.tolist() == [7]
    assert images[0, :, 31, 0].tolist() == [255, 128, 0]


@pytest.mark.parametrize("present", ["train", "test"])
def test_convert_cifar10_one_database_exists_makes_neither(folder, tmp_path, present):
    out = tmp_path / "out"
    (out / f"cifar10_{present}_lmdb").mkdir(parents=True)
    with pytest.raises(ConfigError, match=f"cifar10_{present}_lmdb: exists already"):
        cifar10.convert_cifar10(str(folder), str(out), records_per_file=RECORDS)
    assert [p.name for p in out.iterdir()] == [f"cifar10_{present}_lmdb"]


def test_main_file_of_wrong_size_is_refused(folder, tmp_path):
    with pytest.raises(
        DataError,
        match=r"data_batch_1\.bin: has 9219 bytes\. Accepted: 30730000, which are",
    ):
        cifar10.main([str(folder), str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_main_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"data_batch_1\.bin: cannot be read"):
        cifar10.main([str(tmp_path), str(tmp_path / "out")])


def test_read_batch_label_above_nine_names_the_record(folder, table):
    table[0, 1, 0] = 10
    path = folder / "data_batch_1.bin"
    path.write_bytes(table[0].tobytes())
    with pytest.raises(DataError, match="record 1 has the label 10"):
        cifar10.read_batch(str(path), RECORDS)
