"""`jaxcaffe test`: a net scored on the data of its own data layers."""

import json
import pathlib
import shutil

import numpy as np
import pytest

from jaxcaffe.errors import CaffeError
from jaxcaffe.tools.test import main

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A trained net of Caffe's with its data."""
    for path in (GOLDEN / "solvers" / "sgd_step").glob("*"):
        if path.suffix in (".h5", ".txt"):
            shutil.copy(path, tmp_path)
    for path in (GOLDEN / "logs").glob("trained.*"):
        shutil.copy(path, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def score(capfd, *arguments):
    assert main(["-model", "trained.prototxt", *arguments]) == 0
    lines = [line.split("] ", 1)[-1] for line in capfd.readouterr().err.splitlines()]
    return lines[lines.index(f"Running for {arguments[-1]} iterations.") + 1 :]


def test_scores_of_each_batch_and_their_means_are_caffes(folder, capfd):
    (batches,) = json.loads((folder / "trained.json").read_text())
    lines = score(capfd, "-weights=trained.caffemodel", "-iterations", "4")
    expected = [
        (f"Batch {number}, {name}", batch[name][0])
        for number, batch in enumerate(batches)
        for name in ("accuracy", "loss")
    ]
    accuracy, loss = (
        np.mean([batch[name] for batch in batches]) for name in ("accuracy", "loss")
    )
    assert lines[-1].startswith("loss = ")
    assert lines[-1].endswith(" loss)")
    expected += [("accuracy", accuracy), ("loss", loss)]
    lines[-1] = lines[-1].split(" (*")[0]
    assert lines.pop(-3).startswith("Loss: ")
    found = [line.rsplit(" = ", 1) for line in lines]
    assert [name for name, _ in found] == [name for name, _ in expected]
    np.testing.assert_allclose(
        [float(value) for _, value in found], [v for _, v in expected], rtol=1e-4
    )


def test_outputs_come_by_name_as_in_caffe_and_records_go_round(folder, capfd):
    text = (folder / "trained.prototxt").read_text()
    (folder / "trained.prototxt").write_text(text.replace('"loss"', '"a_loss"'))
    # Five batches of four go round the sixteen test images.
    lines = score(capfd, "-weights=trained.caffemodel", "-iterations", "5")
    names = [line.split(" = ")[0] for line in lines if " = " in line]
    assert names[:2] == ["Batch 0, a_loss", "Batch 0, accuracy"]
    assert names[-2:] == ["a_loss", "accuracy"]
    assert lines[8].replace("Batch 4", "Batch 0") == lines[0]


MISTAKES = {
    "no model": (["-weights=trained.caffemodel"], "no net is given"),
    "no weights": (["-model=trained.prototxt"], "no weights are given"),
    "missing weights": (
        ["-model=trained.prototxt", "-weights=trianed.caffemodel"],
        r"trianed\.caffemodel: no such file",
    ),
    "empty weights": (
        ["-model=trained.prototxt", "-weights=empty"],
        "empty: the file is empty",
    ),
    "cut weights": (["-model=trained.prototxt", "-weights=cut.caffemodel"], r"cut\."),
    "net for weights": (
        ["-model=trained.prototxt", "-weights=trained.prototxt"],
        r"trained\.prototxt: ",
    ),
    "missing net": (
        ["-model=trainde.prototxt", "-weights=trained.caffemodel"],
        r"trainde\.prototxt: no such file.*trained\.prototxt",
    ),
    "empty net": (["-model=empty", "-weights=trained.caffemodel"], "empty: .*empty"),
    "weights for a net": (
        ["-model=trained.caffemodel", "-weights=trained.caffemodel"],
        r"trained\.caffemodel",
    ),
    "cut net": (
        ["-model=cut.prototxt", "-weights=trained.caffemodel"],
        r"cut\.prototxt:\d+",
    ),
    "no data": (
        ["-model=moved.prototxt", "-weights=trained.caffemodel"],
        r'moved\.prototxt:\d+: layer "data" \(HDF5Data\): .*none\.txt',
    ),
    "nothing for the phase": (
        ["-model=train.prototxt", "-weights=trained.caffemodel"],
        r"train\.prototxt: the net has no layer for phase TEST",
    ),
    "other net": (
        ["-model=other.prototxt", "-weights=trained.caffemodel"],
        'holds no weights for "fc"',
    ),
    "no iterations": (
        ["-model=trained.prototxt", "-weights=trained.caffemodel", "-iterations=0"],
        "--iterations: is 0",
    ),
    "iterations in words": (
        ["-model=trained.prototxt", "-weights=trained.caffemodel", "-iterations=ten"],
        "iterations.*ten",
    ),
    "gpu in words": (
        ["-model=trained.prototxt", "-weights=trained.caffemodel", "-gpu=first"],
        '--gpu: "first" is no list of devices',
    ),
    "unknown flag": (["-modle=trained.prototxt"], "unknown flag -modle.*--model"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_is_one_clear_error(folder, name):
    text = (folder / "trained.prototxt").read_text()
    weights = (folder / "trained.caffemodel").read_bytes()
    (folder / "empty").write_bytes(b"")
    (folder / "cut.caffemodel").write_bytes(weights[: len(weights) // 2])
    (folder / "cut.prototxt").write_text(text[: text.index("kernel_size")])
    (folder / "moved.prototxt").write_text(text.replace("test.txt", "none.txt"))
    (folder / "other.prototxt").write_text(text.replace('name: "ip"', 'name: "fc"'))
    (folder / "train.prototxt").write_text(
        'layer { name: "data" type: "DummyData" top: "data" '
        "include { phase: TRAIN } dummy_data_param { shape { dim: 1 } } }"
    )
    arguments, pattern = MISTAKES[name]
    with pytest.raises(CaffeError, match=pattern) as caught:
        main(arguments)
    assert "\n" not in str(caught.value)
