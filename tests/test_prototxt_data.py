"""The examples of docs/models.md make the data that the nets read."""

import pathlib
import re

import cv2
import h5py
import numpy as np
import pytest

from jaxcaffe.data.database import create_database, open_database
from jaxcaffe.data.datum import read_datum, write_datum

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "models.md"


@pytest.fixture
def run_example(tmp_path, monkeypatch):
    """A word of the heading -> what the example below it leaves behind, in tmp_path."""
    monkeypatch.chdir(tmp_path)

    def run_example(word):
        sections = PAGE.read_text().split("\n### ")
        (section,) = [text for text in sections if word in text.split("\n")[0]]
        (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
        exec(compile(code, f"{PAGE}, {word}", "exec"), {})

    return run_example


def read_h5(path):
    with h5py.File(path) as file:
        return {name: file[name][:] for name in file}


def read_records(path, backend="lmdb"):
    with open_database(str(path), backend) as database:
        return [read_datum(value, key) for key, value in database.records]


def test_points_are_7500_and_2500_of_both_classes(run_example, tmp_path):
    run_example("hdf5_classification")
    folder = tmp_path / "data" / "hdf5_classification"
    for name, count in (("train", 7500), ("test", 2500)):
        (path,) = (folder / f"{name}.txt").read_text().split()
        sets = read_h5(path)
        assert sets["data"].shape == (count, 4)
        assert sets["label"].shape == (count,)
        assert sets["label"].mean() == pytest.approx(0.5, abs=0.05)


def test_pairs_have_label_1_for_two_images_of_one_digit(run_example, tmp_path):
    pytest.importorskip("plyvel")
    folder = tmp_path / "data" / "mnist"
    folder.mkdir(parents=True)
    for part in ("train", "test"):
        with create_database(str(folder / f"mnist_{part}_lmdb")) as put:
            for i in range(12):
                digit = np.full((1, 2, 2), i, np.uint8)
                put(b"%08d" % i, write_datum(digit, i % 3))
    run_example("mnist_siamese")
    pairs = read_records(folder / "mnist_siamese_train_leveldb", "leveldb")
    assert len(pairs) == 12
    for pair in pairs:
        one, other = pair.data[:, 0, 0]
        assert pair.label == (one % 3 == other % 3)
    assert {pair.label for pair in pairs} == {0, 1}


def test_text_is_cut_into_streams_that_go_on(run_example, tmp_path):
    text = "".join(chr(32 + i % 90) for i in range(32 * 50 + 1))
    (tmp_path / "text.txt").write_text(text)
    run_example("char_lstm")
    train, test = (
        read_h5(tmp_path / "data" / "char_lstm" / f"{name}.h5")
        for name in ("train", "test")
    )
    assert train["input"].shape == (45, 32)
    assert test["input"].shape == (5, 32)
    stream = np.concatenate([train["input"][:, 3], test["input"][:, 3]])
    assert "".join(map(chr, stream.astype(int))) == text[150:200]
    assert (train["target"][:-1] == train["input"][1:]).all()
    assert train["cont"][0].tolist() == [0] * 32
    assert (train["cont"][1:] == 1).all()


def test_pascal_images_and_labels_are_filled_up(run_example, tmp_path):
    folder = tmp_path / "data" / "pascal"
    folder.mkdir(parents=True)
    image = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    cv2.imwrite(str(folder / "image.png"), image)
    cv2.imwrite(str(folder / "label.png"), image[:, :, 0] % 21)
    names = f"{folder / 'image.png'} {folder / 'label.png'}\n"
    (folder / "seg_train.txt").write_text(names)
    run_example("PASCAL")
    (record,) = read_records(folder / "seg_train_lmdb")
    (label,) = read_records(folder / "seg_train_label_lmdb")
    assert record.data.shape == (3, 500, 500)
    assert (record.data[:, :4, :5] == image.transpose(2, 0, 1)).all()
    assert record.data[:, 4, 0].tolist() == [104, 117, 123]
    assert (label.data[0, :4, :5] == image[:, :, 0] % 21).all()
    assert (label.data[0, 4:] == 255).all()
