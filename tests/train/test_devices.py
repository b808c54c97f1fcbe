"""Runs on several devices."""

import os
import pathlib
import subprocess
import sys

import numpy as np

from jaxcaffe import fed_net, log, run
from jaxcaffe.train import train
from whole_runs import SHUFFLE, break_file, load_config, start

DEVICES = """
import json, sys
from jaxcaffe import train
from jaxcaffe.config import CHOICES, load_config
from jaxcaffe.datasets.prepare import PREPARE
config = load_config("solver.prototxt", ["snapshot.caffe=False", *sys.argv[2:]])
train.train(config, resume=sys.argv[1] == "resume")
"""


def run_on_devices(count: int, mode: str, *overrides: str) -> None:
    process = subprocess.run(
        [sys.executable, "-c", DEVICES, mode, *overrides],
        env={
            **os.environ,
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={count}",
        },
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.returncode == 0, process.stderr


def test_eight_devices_give_the_losses_of_one_and_resume_each_others_runs(workspace):
    # Sums over a batch are taken in another order on eight devices; at a small rate
    # what that rounds differently does not grow.
    break_file("solver.prototxt", "base_lr: 0.05", "base_lr: 0.01")
    # Six test images cannot be divided; every device then computes them all.
    net = pathlib.Path("net.prototxt").read_text()
    head, tail = net.rsplit("batch_size: 8", 1)
    pathlib.Path("net.prototxt").write_text(f"{head}batch_size: 6{tail}")
    run_on_devices(8, "new", "workdir=eight", "max_iter=20", SHUFFLE)
    train(load_config("solver.prototxt", ["workdir=one", "max_iter=20", SHUFFLE]))
    eight, one = (
        [r["train/loss"] for r in log.read_scalars(f"{d}/scalars.jsonl") if "loss" in r]
        for d in ("eight", "one")
    )
    assert len(one) == 20
    np.testing.assert_allclose(eight, one, rtol=1e-5)

    resumed = load_config("solver.prototxt", ["workdir=eight", "max_iter=30", SHUFFLE])
    train(resumed, resume=True)
    train(load_config("solver.prototxt", ["workdir=one", "max_iter=30", SHUFFLE]), True)
    eight, one = (
        [r["train/loss"] for r in log.read_scalars(f"{d}/scalars.jsonl") if "loss" in r]
        for d in ("eight", "one")
    )
    assert len(eight) == 30
    # Ten more iterations on, from a snapshot that was rounded differently.
    np.testing.assert_allclose(eight, one, rtol=1e-4)
    assert "devices was 8, is 1" in pathlib.Path("eight/train.log").read_text()


def test_batch_that_devices_do_not_divide_names_sizes_that_work(workspace):
    break_file("net.prototxt", "batch_size: 8", "batch_size: 9")
    process = start(
        "solver.prototxt", XLA_FLAGS="--xla_force_host_platform_device_count=4"
    )
    _, text = process.communicate()
    assert process.returncode == 1
    assert "batch_size 9 cannot be divided over 4 devices" in text
    assert "batch_size 8 or 12" in text


def test_per_device_batch_is_multiplied_by_the_devices(workspace):
    opened = run.open_run(load_config("solver.prototxt", ["batch=per_device"]))
    assert opened.train.feeds[0].batch_size == 8
    scaled = fed_net.scale_batches(opened.train.net.graph, 4)
    data = next(n for n in scaled.nodes if n.layer.type == "Data")
    assert data.layer.data_param.batch_size == 32
