"""Runs from beginning to end, and what they learn."""

import pathlib

import jax
import numpy as np

from jaxcaffe import run
from jaxcaffe.proto import binary, caffe_pb2
from jaxcaffe.train import train
from whole_runs import SHUFFLE, assert_equal_states, break_file, leaves, load_config


def test_train_learns_the_small_task(workspace):
    break_file("solver.prototxt", "stepsize: 15", "stepsize: 150")
    result = train(load_config("solver.prototxt", ["max_iter=300"]))
    assert result.scores[0]["accuracy"] >= 0.9
    assert not result.stopped


def test_train_again_with_the_same_seed_gives_the_same_bits(workspace):
    config = load_config("solver.prototxt", [SHUFFLE])
    first = train(config)
    second = train(load_config("solver.prototxt", [SHUFFLE, "workdir=again"]))
    assert_equal_states(first.state, second.state)


def test_finetune_takes_matching_layers_from_a_caffemodel(workspace):
    weight = np.full((8, 3, 3, 3), 0.25, np.float32)
    net = caffe_pb2.NetParameter(name="other")
    layer = net.layer.add(name="conv", type="Convolution")
    layer.blobs.append(binary.array_to_blob(weight))
    layer.blobs.append(binary.array_to_blob(np.zeros(8, np.float32)))
    net.layer.add(name="unknown", type="ReLU")
    binary.write_caffemodel("start.caffemodel", net)
    config = load_config(
        "solver.prototxt", ["weights=start.caffemodel", "max_iter=0", "workdir=w"]
    )
    text = pathlib.Path("solver.prototxt").read_text()
    pathlib.Path("solver.prototxt").write_text(text.replace("max_iter: 40", ""))
    result = train(config)
    np.testing.assert_array_equal(result.state.params["conv"]["weight"], weight)
    assert "Ignoring source layer unknown" in pathlib.Path("w/train.log").read_text()


def test_iter_size_sums_over_batches_like_one_large_batch(workspace):
    net = pathlib.Path("net.prototxt").read_text()
    plain = net.replace("mirror: true crop_size: 12", "crop_size: 16")
    plain = plain.replace("crop_size: 12", "crop_size: 16")
    # Batch statistics and dropout depend on how records are grouped.
    plain = plain.replace("dropout_ratio: 0.3", "dropout_ratio: 0")
    plain = plain.replace(
        'layer { name: "bn" type: "BatchNorm" bottom: "ip1" top: "ip1" }', ""
    )
    pathlib.Path("net.prototxt").write_text(plain)
    solver = pathlib.Path("solver.prototxt").read_text()
    pathlib.Path("solver.prototxt").write_text(solver + "iter_size: 2\n")
    overrides = ["max_iter=10", "workdir=two"]
    two = train(load_config("solver.prototxt", overrides)).state
    pathlib.Path("solver.prototxt").write_text(solver)
    pathlib.Path("net.prototxt").write_text(
        plain.replace("batch_size: 8", "batch_size: 16", 1)
    )
    one = train(load_config("solver.prototxt", ["max_iter=10", "workdir=one"])).state
    for name, value in leaves(two.params).items():
        np.testing.assert_allclose(
            value, leaves(one.params)[name], rtol=1e-4, atol=1e-6, err_msg=name
        )


def test_frozen_layer_keeps_its_weights_and_others_learn(workspace):
    net = pathlib.Path("net.prototxt").read_text()
    frozen = net.replace('name: "conv" type', 'param { lr_mult: 0 } name: "conv" type')
    pathlib.Path("net.prototxt").write_text(frozen)
    config = load_config("solver.prototxt", ["max_iter=5"])
    before = run.make_state(run.open_run(config)).params
    before = jax.device_get(before)
    after = train(config).state.params
    np.testing.assert_array_equal(before["conv"]["weight"], after["conv"]["weight"])
    assert not np.array_equal(before["conv"]["bias"], after["conv"]["bias"])
    assert not np.array_equal(before["ip2"]["weight"], after["ip2"]["weight"])
