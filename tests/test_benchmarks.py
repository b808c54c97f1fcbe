"""The comparison with PyTorch compares like with like; turns are fair and counted."""

import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[1]
FOLDER = ROOT / "experiments" / "benchmarks"

NET = """
name: "small"
layer { name: "data" type: "Data" top: "data" top: "label"
  data_param { source: "none" batch_size: 2 } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 8 kernel_size: 5 stride: 2 pad: 1
    weight_filler { type: "xavier" } } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1"
  pooling_param { pool: MAX kernel_size: 3 stride: 2 } }
layer { name: "norm1" type: "LRN" bottom: "pool1" top: "norm1"
  lrn_param { local_size: 5 alpha: 0.01 beta: 0.75 } }
layer { name: "conv2" type: "Convolution" bottom: "norm1" top: "conv2"
  convolution_param { num_output: 8 kernel_h: 3 kernel_w: 1 group: 2
    weight_filler { type: "xavier" } bias_term: false } }
layer { name: "bn2" type: "BatchNorm" bottom: "conv2" top: "conv2" }
layer { name: "scale2" type: "Scale" bottom: "conv2" top: "conv2"
  scale_param { bias_term: true } }
layer { name: "sum" type: "Eltwise" bottom: "conv2" bottom: "conv2" top: "sum" }
layer { name: "cat" type: "Concat" bottom: "sum" bottom: "conv2" top: "cat" }
layer { name: "pool2" type: "Pooling" bottom: "cat" top: "pool2"
  pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 } }
layer { name: "ip" type: "InnerProduct" bottom: "pool2" top: "ip"
  param { lr_mult: 1 decay_mult: 1 } param { lr_mult: 2 decay_mult: 0 }
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "drop" type: "Dropout" bottom: "ip" top: "ip" }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss"
  loss_weight: 0.3 }
layer { name: "top2" type: "Accuracy" bottom: "ip" bottom: "label" top: "top2"
  include { phase: TEST } accuracy_param { top_k: 2 } }
"""
SHAPE = (3, 20, 17)


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))


@pytest.fixture
def net_file(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text(NET)
    return str(path)


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def test_torch_net_with_our_weights_gives_our_outputs(benchmarks, net_file, torch):
    from our_worker import open_net
    from torch_net import TorchNet

    from jaxcaffe.proto import caffe_pb2

    net = open_net(net_file, caffe_pb2.TEST, 2, SHAPE)
    params, stats = jax.jit(net.init)(jax.random.key(0))
    theirs = TorchNet(net_file, caffe_pb2.TEST, (2, *SHAPE)).eval()
    with torch.no_grad():
        for key, module in theirs.layers.items():
            layer = "scale2" if key == "bn2" else key
            ours = [
                params[layer][info.blob] for info in net.params if info.layer == layer
            ]
            for array, parameter in zip(ours, module.parameters(), strict=True):
                parameter.copy_(torch.from_numpy(np.array(array)))
    data = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype(np.float32)
    label = np.array([3, 1])
    mean, variance = np.linspace(-1, 1, 8), np.linspace(0.5, 2, 8)
    assert {k: v.shape for k, v in stats["bn2"].items()} == {
        "mean": (8,),
        "variance": (8,),
        "scale_factor": (1,),
    }
    stats["bn2"] = {"mean": mean, "variance": variance, "scale_factor": np.ones(1)}
    ours = jax.jit(net.apply)
    out = ours(params, stats, {"data": data, "label": label}, jax.random.key(1))
    feeds = {"data": torch.from_numpy(data), "label": torch.from_numpy(label)}
    theirs.layers["bn2"].running_mean.copy_(torch.from_numpy(mean))
    theirs.layers["bn2"].running_var.copy_(torch.from_numpy(variance))
    with torch.no_grad():
        loss, outputs = theirs(feeds)
    np.testing.assert_allclose(float(loss), float(out.loss), rtol=2e-5)
    found = dict(zip(theirs.outputs, outputs, strict=True))
    assert found.keys() == set(net.graph.outputs) == {"loss", "top2"}
    assert float(found["top2"]) == float(out.blobs["top2"])


def test_torch_optimizer_has_the_multipliers_of_the_file(benchmarks, net_file, torch):
    from torch_net import TorchNet

    from jaxcaffe.proto import caffe_pb2

    net = TorchNet(net_file, caffe_pb2.TRAIN, (2, *SHAPE))
    optimizer = net.make_optimizer(0.1, 0.9, 0.01, fused=False)
    bias = net.layers["ip"][1].bias
    group = next(
        g for g in optimizer.param_groups if any(p is bias for p in g["params"])
    )
    assert group["lr"] == pytest.approx(0.2)
    assert group["weight_decay"] == 0
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(
        list(net.parameters())
    )


WORKER = """
import json, sys, time
sys.path.insert(0, {folder!r})
from turns import serve
task = json.loads(sys.argv[1])
def run(steps):
    with open(task["log"], "a") as file:
        file.write(f"{{task['name']}} {{steps}}\\n")
    time.sleep(task["seconds"] * steps)
serve(run)
"""


def test_turns_two_workers_alternate_with_equal_steps(benchmarks, tmp_path):
    from turns import Worker, alternate, count_steps, ratio

    script = tmp_path / "worker.py"
    script.write_text(WORKER.format(folder=str(FOLDER)))
    log = tmp_path / "log"
    workers = [
        Worker(str(script), {"name": n, "seconds": s, "log": str(log)}, [0])
        for n, s in (("slow", 0.04), ("fast", 0.01))
    ]
    for worker in workers:
        worker.wait()
    steps = count_steps(workers, 0.1)
    slow, fast = alternate(workers, 2, steps)
    for worker in workers:
        worker.close()
    lines = log.read_text().splitlines()
    assert lines[-4:] == [f"{n} {steps}" for n in ("slow", "fast", "fast", "slow")]
    assert 1 < steps <= 3
    assert ratio(slow, fast)[0] > 1
    assert 0 < slow.memory <= slow.memory_ever


def test_versus_torch_unknown_net_is_refused(benchmarks):
    done = subprocess.run(
        [sys.executable, FOLDER / "versus_torch.py", "--only=alexnet2"],
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "Accepted: caffenet:32:train" in done.stderr


def test_step_time_is_the_greater_of_arithmetic_and_memory(benchmarks):
    from device_rates import DEVICES, step_time

    h100 = next(device for device in DEVICES if device.name == "H100")
    assert step_time(h100, "parity", 67e12, 1.0) == pytest.approx(1.0)
    assert step_time(h100, "parity", 1.0, 3.35e12) == pytest.approx(1.0)


def test_reduce_time_counts_rings_inside_machines_and_between(benchmarks):
    from device_rates import DEVICES, reduce_time

    h100 = next(device for device in DEVICES if device.name == "H100")
    assert reduce_time(h100, 1e9, 1) == 0
    inside = 2 * 7 / 8 * 1e9 / 450e9
    assert reduce_time(h100, 1e9, 8) == pytest.approx(inside)
    between = 2 * 7 / 8 * 1e9 / 400e9
    assert reduce_time(h100, 1e9, 64) == pytest.approx(inside + between)


PROGRAM = """
  %all-reduce.1 = f32[96,3,11,11]{3,2,1,0} all-reduce(%a), replica_groups={{0,1}}
  %x = (f32[10]{0:T(128)}, bf16[4,2]{1,0}) all-reduce-start(%b, %c), channel_id=1
  %y = (f32[10]{0}, bf16[4,2]{1,0}) all-reduce-done(%x)
  %z = f32[7]{0} add(%all-reduce.1, %d)
"""


def test_count_reduced_adds_up_what_all_reduces_take(benchmarks):
    from aot import count_reduced

    assert count_reduced(PROGRAM) == 96 * 3 * 11 * 11 * 4 + 10 * 4 + 8 * 2


def test_count_reduced_of_a_compiled_step_is_its_gradients(benchmarks, tmp_path):
    # In a process of its own: the number of devices is fixed once they are used.
    (tmp_path / "net.prototxt").write_text(NET)
    code = f"""
import sys; sys.path.insert(0, {str(FOLDER)!r})
import jax, aot
found = aot.compile_step("net.prototxt", 2, {SHAPE}, jax.devices(), "cpu")
print(found.reduced, found.parameters, found.flops)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    reduced, parameters, flops = map(float, done.stdout.split())
    # Beside the gradients: the loss, and sums of BatchNorm, which sees whole batches.
    assert parameters <= reduced < parameters + 1000
    assert flops > 2 * parameters / 4
