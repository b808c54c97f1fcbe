"""Devices by number, as Caffe's -gpu names them."""

import os
import subprocess
import sys

import pytest

from jaxcaffe import devices, errors
from jaxcaffe.tools import device_query
from jaxcaffe.train import main


@pytest.mark.parametrize(
    ("text", "expected"), [("", ()), ("all", ()), ("0", (0,)), ("2, 0", (2, 0))]
)
def test_parse_ids_takes_what_caffe_takes(text, expected):
    assert devices.parse_ids(text, "--gpu") == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("first", "is no list of devices. Accepted: numbers .* such as 0,2, or all"),
        ("-1", "is no list"),
        ("0,", "is no list"),
        ("1,0,1", '"1,0,1" names a device twice'),
    ],
)
def test_parse_ids_refuses_what_is_no_list(text, problem):
    with pytest.raises(errors.ConfigError, match=problem):
        devices.parse_ids(text, "--gpu")


@pytest.mark.parametrize("text", ["0", "all"])
def test_gpu_where_there_is_only_a_cpu_is_refused(text):
    with pytest.raises(errors.ConfigError, match=r"--gpu: .* only the CPU.*no --gpu"):
        device_query.main([f"-gpu={text}"])


def test_train_takes_gpu_or_a_number_of_devices_but_not_both(workspace):
    with pytest.raises(errors.ConfigError, match="both given"):
        main(["-solver=solver.prototxt", "-gpu=0", "--config.devices=1"])


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "jaxcaffe", *arguments],
        env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4"},
        capture_output=True,
        text=True,
    )


def test_gpu_numbers_give_each_device_a_batch_of_its_own(workspace):
    done = run("train", "-solver", "solver.prototxt", "-gpu=3,1", "--config.max_iter=1")
    assert done.returncode == 0, done.stderr
    assert "batches of 16 (global), 8 on each of 2 device(s)" in done.stderr
    assert "] Using 2 CPU device(s)" in done.stderr
    # Test batches stay as they are.
    assert "batches of 8 (global), 4 on each of 2 device(s)" in done.stderr


def test_device_query_lists_the_devices_asked_for():
    done = run("device_query", "-gpu", "2,0")
    assert done.returncode == 0, done.stderr
    messages = [line.split("] ", 1)[1] for line in done.stderr.splitlines()]
    assert messages[0] == "Querying GPUs 2,0"
    numbers = [m.split()[-1] for m in messages if m.startswith("Device id: ")]
    assert numbers == ["2", "0"]
    wrong = run("device_query", "-gpu", "7")
    assert wrong.returncode == 1
    assert "asks for device 7, and JAX finds only 0, 1, 2, 3." in wrong.stderr
