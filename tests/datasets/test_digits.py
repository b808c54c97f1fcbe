import os
import sys
from collections import Counter

import cv2
import numpy as np
import pytest

from jaxcaffe.data.database import open_database
from jaxcaffe.data.datum import read_datum
from jaxcaffe.datasets import digits
from jaxcaffe.errors import ConfigError
from jaxcaffe.proto.binary import read_blob

sklearn_datasets = pytest.importorskip("sklearn.datasets")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What prepare_digits makes, made once."""
    folder = tmp_path_factory.mktemp("data") / "digits"
    digits.prepare_digits(str(folder))
    return folder


def entries(path):
    return [tuple(line.rsplit(" ", 1)) for line in path.read_text().splitlines()]


def records(path):
    with open_database(str(path)) as database:
        return [(key, read_datum(value, key)) for key, value in database.records]


def test_write_digits_lists_name_every_image_once(folder):
    images = folder / "images"
    train, test = entries(images / "train.txt"), entries(images / "test.txt")
    assert (len(train), len(test)) == (1437, 360)
    found = {str(p.relative_to(images)) for p in images.glob("*/*.png")}
    assert found == {path for path, _ in train + test}
    assert len(found) == 1797
    assert all(path.split("/")[0] == label for path, label in train + test)


def test_write_digits_images_hold_the_pixels_of_scikit_learn(folder):
    bunch = sklearn_datasets.load_digits()
    for path, label in entries(folder / "images" / "test.txt")[::40]:
        pixels = cv2.imread(str(folder / "images" / path), cv2.IMREAD_UNCHANGED)
        index = int(os.path.basename(path)[:4])
        assert int(label) == bunch.target[index]
        np.testing.assert_array_equal(
            pixels, np.round(bunch.images[index] * 255 / 16).astype(np.uint8)
        )


def test_prepare_digits_databases_hold_lists_and_mean(folder):
    train = records(folder / "digits_train_lmdb")
    test = records(folder / "digits_test_lmdb")
    for part, name in ((train, "train.txt"), (test, "test.txt")):
        listed = entries(folder / "images" / name)
        assert [record.label for _, record in part] == [int(k) for _, k in listed]
        assert [key.split(b"_", 1)[1].decode() for key, _ in part] == [
            path for path, _ in listed
        ]
    assert {record.data.shape for _, record in train + test} == {(1, 8, 8)}
    mean = np.mean([record.data for _, record in train], axis=0, dtype=np.float64)
    # Sums of 1437 bytes are exact in float32; only the division rounds.
    np.testing.assert_allclose(
        np.squeeze(read_blob(folder / "mean.binaryproto")), mean[0], rtol=1e-6
    )


def test_prepare_digits_second_call_makes_only_what_is_missing(folder):
    def stamps():
        return {str(p): p.stat().st_mtime_ns for p in folder.rglob("*.*")}

    mean = folder / "mean.binaryproto"
    before, content = stamps(), mean.read_bytes()
    mean.unlink()
    digits.prepare_digits(str(folder))
    after = stamps()
    assert mean.read_bytes() == content
    del before[str(mean)], after[str(mean)]
    # Reading a database touches its lock file.
    assert {k: v for k, v in after.items() if not k.endswith("lock.mdb")} == {
        k: v for k, v in before.items() if not k.endswith("lock.mdb")
    }


def test_write_digits_existing_folder_is_left_alone(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(ConfigError, match="out: exists already, and is left as it is"):
        digits.main([str(out)])
    assert list(tmp_path.rglob("*")) == [out]


def test_write_digits_failure_leaves_nothing(tmp_path, monkeypatch):
    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(digits.os, "rename", fail)
    with pytest.raises(ConfigError, match="cannot be made: No space left on device"):
        digits.write_digits(str(tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


def test_write_digits_seed_decides_the_split(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert digits.main([str(tmp_path / name), f"--seed={seed}"]) == 0
    a, b, c = ((tmp_path / n / "train.txt").read_text() for n in "abc")
    assert a == b
    assert sorted(a.splitlines()) != sorted(c.splitlines())


def test_load_digits_without_scikit_learn_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ConfigError, match=r"pip install 'jaxcaffe\[digits\]'"):
        digits.load_digits()


def test_split_records_every_label_has_its_share():
    labels = [0] * 50 + [1] * 30 + [2] * 17
    train, test = digits.split_records(labels, 20, seed=3)
    assert sorted(train + test) == list(range(97))
    assert test == sorted(test)
    # 10.31, 6.19 and 3.51 records: the last has the largest remainder.
    assert Counter(labels[i] for i in test) == {0: 10, 1: 6, 2: 4}


def test_split_records_train_comes_in_random_order():
    train, _ = digits.split_records([0] * 40 + [1] * 40, 8, seed=0)
    assert len({i // 40 for i in train[:10]}) == 2


@pytest.mark.parametrize("count", [0, 6])
def test_split_records_all_or_none_may_be_for_testing(count):
    train, test = digits.split_records([0, 1, 1, 0, 2, 2], count, seed=0)
    assert (len(train), len(test)) == (6 - count, count)
