"""What a user gets wrong: one clear error each."""

import os
import pathlib
import shutil

import lmdb
import numpy as np
import pytest

from jaxcaffe import checkpoint, errors
from jaxcaffe.config import CHOICES
from jaxcaffe.datasets.prepare import PREPARE
from jaxcaffe.proto import binary, caffe_pb2
from jaxcaffe.train import main
from whole_runs import break_file, start

MISTAKES = {
    "no config": (lambda: os.remove("solver.prototxt"), [], "no such file"),
    "no net": (
        lambda: os.remove("net.prototxt"),
        [],
        r"net\.prototxt: .*(no such file|does not exist)",
    ),
    "unknown field": (
        lambda: break_file("net.prototxt", "kernel_size: 3 stride", "kernel_sise: 3 s"),
        [],
        r"net\.prototxt:\d+: .*kernel_sise.*kernel_size",
    ),
    "unknown type": (
        lambda: break_file("net.prototxt", '"Pooling"', '"Poling"'),
        [],
        r'net\.prototxt:\d+: layer "pool".*Poling.*Pooling',
    ),
    "unknown bottom": (
        lambda: break_file("net.prototxt", 'bottom: "pool"', 'bottom: "pol"'),
        [],
        r'net\.prototxt:\d+: layer "ip1".*"pol".*pool',
    ),
    "label too large": (
        lambda: break_file("net.prototxt", "num_output: 4", "num_output: 2"),
        [],
        r"label.*0000.*|0000.*label",
    ),
    "no database": (
        lambda: shutil.rmtree("train_lmdb"),
        [],
        r'layer "data".*train_lmdb',
    ),
    "empty database": (
        lambda: (shutil.rmtree("train_lmdb"), write_empty("train_lmdb")),
        [],
        r"train_lmdb.*holds no record",
    ),
    "corrupt database": (
        lambda: pathlib.Path("train_lmdb/data.mdb").write_bytes(b"x" * 9000),
        [],
        r"train_lmdb",
    ),
    "mean of another shape": (
        lambda: binary.write_blob(
            "mean.binaryproto", np.zeros((1, 3, 9, 9), np.float32)
        ),
        [],
        r"mean\.binaryproto.*9.*16|16.*mean\.binaryproto.*9",
    ),
    "crop too large": (
        lambda: break_file("net.prototxt", "crop_size: 12", "crop_size: 40"),
        [],
        r"crop_size.*40.*16|40.*crop",
    ),
    "snapshot with weights": (
        lambda: None,
        ["--snapshot=x/1", "--weights=a.caffemodel"],
        "cannot be combined",
    ),
    "resume and snapshot": (
        lambda: None,
        ["--resume", "--snapshot=x/1"],
        "--snapshot are both given",
    ),
    "field without value": (
        lambda: None,
        ["--config.workdir", "--resume"],
        "--config.workdir has no value|--config.workdir: has no value",
    ),
    "workdir that is a file": (
        lambda: None,
        ["--config.workdir=net.prototxt"],
        r"net\.prototxt: cannot be used as workdir",
    ),
    "snapshots that are a file": (
        lambda: (os.mkdir("w"), pathlib.Path("w/snapshots").write_text("")),
        ["--config.workdir=w"],
        r"w/snapshots: cannot write snapshots here",
    ),
    "test of fewer than no batches": (
        lambda: break_file("solver.prototxt", "test_iter: 2", "test_iter: -2"),
        [],
        "a test_iter is -2",
    ),
    "no layer for the phase": (
        lambda: pathlib.Path("net.prototxt").write_text('name: "none"\n'),
        [],
        "the net has no layer for phase TRAIN",
    ),
    "workdir at the snapshot_prefix": (
        lambda: None,
        ["--config.workdir=small", "--config.snapshot.caffe=true"],
        "small is the snapshot_prefix too",
    ),
    "resume with nothing there": (lambda: None, ["--resume"], "holds no snapshot"),
    "no such snapshot": (lambda: None, ["--snapshot=w/5"], "w/5: is not a snapshot"),
    "no such weights": (lambda: None, ["--weights=w.caffemodel"], r"w\.caffemodel"),
    "weights of another net": (
        lambda: write_weights("w.caffemodel", "conv1", "fc8"),
        ["--weights=w.caffemodel"],
        r"w\.caffemodel: holds weights of none of the net's layers, but of conv1, fc8\."
        " Accepted: .*: conv, ip1, bn, ip2",
    ),
    "unknown config field": (
        lambda: None,
        ["--config.data.shufle=True"],
        r'unknown field "data\.shufle".*data\.shuffle',
    ),
    "config value of another type": (
        lambda: None,
        ["--config.max_iter=many"],
        'max_iter.*"many" is not a whole number',
    ),
    "unknown flag": (lambda: None, ["--resme"], "resme.*resume"),
    "too many devices": (lambda: None, ["--config.devices=99"], "99 devices"),
    "unknown policy": (
        lambda: break_file("solver.prototxt", '"step"', '"stepp"'),
        [],
        r"stepp.*step",
    ),
    "solver without net": (
        lambda: break_file("solver.prototxt", 'net: "net.prototxt"', ""),
        [],
        "no training net",
    ),
}


def write_weights(path: str, *layers: str) -> None:
    net = caffe_pb2.NetParameter()
    for name in layers:
        net.layer.add(name=name).blobs.append(binary.array_to_blob(np.zeros(1)))
    pathlib.Path(path).write_bytes(net.SerializeToString())


def write_empty(path: str) -> None:
    os.mkdir(path)
    lmdb.open(path).close()


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_is_one_clear_error_before_anything_is_written(workspace, name):
    make, flags, pattern = MISTAKES[name]
    make()
    with pytest.raises(errors.CaffeError, match=pattern) as caught:
        main(["solver.prototxt", *flags])
    assert "\n" not in str(caught.value)
    assert checkpoint.steps("small_run/snapshots") == []


def test_mistake_at_the_command_line_is_one_line_and_status_1(workspace):
    os.remove("net.prototxt")
    process = start("solver.prototxt")
    _, text = process.communicate()
    assert process.returncode == 1
    assert "Traceback" not in text
    *before, last = text.splitlines()
    assert last.startswith("net.prototxt: ")
    # What comes before is the log, which ends with what was about to be done.
    assert before[-1].endswith("] Creating training net from net file: net.prototxt")


def test_prepare_knows_every_data_set_that_configs_may_name():
    assert set(CHOICES["prepare"]) == {"", *PREPARE}
