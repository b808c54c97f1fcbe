"""The nets and solvers that come with the project: whole, and as big as published."""

import functools
import math
import pathlib

import jax
import jax.numpy as jnp
import pytest

from jaxcaffe.net.graph import build_graph
from jaxcaffe.net.translate import build_net
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.proto.text import read_net, read_solver
from jaxcaffe.proto.upgrade import needs_upgrade, upgrade_net

ROOT = pathlib.Path(__file__).parents[1]
FOLDER = ROOT / "prototxt"
MODELS = sorted(path.name for path in FOLDER.iterdir())
SOLVERS = sorted(FOLDER.glob("*/*solver*.prototxt"))
NETS = sorted(set(FOLDER.glob("*/*.prototxt")) - set(SOLVERS))

# (C, H, W) of a record after cropping, which a train_val.prototxt does not tell.
SHAPES = {
    "alexnet": (3, 227, 227),
    "caffenet": (3, 227, 227),
    "cifar10_full": (3, 32, 32),
    "cifar10_full_sigmoid": (3, 32, 32),
    "cifar10_full_sigmoid_bn": (3, 32, 32),
    "cifar10_quick": (3, 32, 32),
    "fashion_mnist": (1, 28, 28),
    "googlenet": (3, 224, 224),
    "lenet": (1, 28, 28),
    "lenet_digits": (1, 8, 8),
    "vgg16": (3, 224, 224),
}

# Learned numbers of the deploy nets. Those of CaffeNet, AlexNet, GoogLeNet, VGG-16,
# LeNet and the quick net are published; the others are sums of filters x kernel x
# channels + biases, layer by layer.
COUNTS = {
    "alexnet": 60_965_224,
    "caffenet": 60_965_224,
    "cifar10_full": 2_432 + 25_632 + 51_264 + 10_250,
    "cifar10_full_sigmoid": 2_432 + 25_632 + 51_264 + 10_250,
    "cifar10_full_sigmoid_bn": 2_400 + 25_600 + 51_200 + 10_250,
    "cifar10_quick": 145_578,
    "fashion_mnist": 431_080,
    "googlenet": 6_998_552,
    "lenet": 431_080,
    "lenet_digits": 200 + 9_050 + 20_100 + 1_010,
    "vgg16": 138_357_544,
}

PHASES = {"train": caffe_pb2.TRAIN, "test": caffe_pb2.TEST}


@functools.cache
def build(path, phase, shape=None):
    """path, phase, (C, H, W) -> Net; allocates no weights."""
    net, source = read_net(path)
    graph = build_graph(upgrade_net(net), caffe_pb2.NetState(phase=phase), source)
    structs = {}
    for node in graph.nodes:
        if node.layer.type == "Data":
            batch_size = node.layer.data_param.batch_size
            structs["data"] = jax.ShapeDtypeStruct((batch_size, *shape), jnp.float32)
            structs["label"] = jax.ShapeDtypeStruct((batch_size,), jnp.float32)
    return build_net(graph, structs)


def count_learned(net):
    return sum(math.prod(info.shape) for info in net.params if not info.is_stat)


def learned_blobs(net):
    return [(info.layer, info.blob, info.shape) for info in net.params]


def test_models_every_folder_has_its_three_files_and_expectations():
    assert sorted(SHAPES) == MODELS
    assert sorted(COUNTS) == MODELS
    for model in MODELS:
        for name in ("train_val", "deploy", "solver"):
            assert (FOLDER / model / f"{name}.prototxt").is_file(), (model, name)


@pytest.mark.parametrize("path", NETS, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_net_file_is_in_modern_form(path):
    net, _ = read_net(path)
    assert len(net.layer) > 5
    # BVLC's net lists the three blobs of each BatchNorm layer, so ours does.
    lists_statistics = path.parent.name == "cifar10_full_sigmoid_bn"
    assert needs_upgrade(net) == lists_statistics
    assert not net.layers
    assert not net.input


@pytest.mark.parametrize("path", SOLVERS, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_solver_names_its_own_net_and_a_run_folder(path):
    solver, _ = read_solver(path)
    model = path.parent.name
    assert solver.net == f"prototxt/{model}/train_val.prototxt"
    assert (ROOT / solver.net).is_file()
    assert solver.snapshot_prefix.startswith(f"runs/{model}/{model}")


@pytest.mark.parametrize("model", MODELS)
def test_solver_tests_the_whole_test_set_once(model):
    """test_iter batches hold as many records as the data set has for testing."""
    records = {"ilsvrc12": 50_000, "digits": 360}
    net, _ = read_net(FOLDER / model / "train_val.prototxt")
    (data,) = [
        layer
        for layer in net.layer
        if layer.type == "Data" and layer.include[0].phase == caffe_pb2.TEST
    ]
    expected = records.get(data.data_param.source.split("/")[1], 10_000)
    for path in (FOLDER / model).glob("*solver*.prototxt"):
        solver, _ = read_solver(path)
        assert solver.test_iter[0] * data.data_param.batch_size == expected, path


@pytest.mark.parametrize("model", MODELS)
def test_deploy_net_has_the_published_number_of_parameters(model):
    net = build(FOLDER / model / "deploy.prototxt", caffe_pb2.TEST)
    assert count_learned(net) == COUNTS[model]


@pytest.mark.parametrize("model", MODELS)
def test_deploy_net_takes_images_and_gives_probabilities(model):
    net = build(FOLDER / model / "deploy.prototxt", caffe_pb2.TEST)
    batch_size = net.structs["data"].shape[0]
    classes = 1000 if SHAPES[model][1] > 200 else 10
    assert net.structs["data"].shape == (batch_size, *SHAPES[model])
    assert net.graph.outputs == ("prob",)
    assert net.structs["prob"].shape == (batch_size, classes)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("model", MODELS)
def test_train_val_net_builds_and_holds_the_blobs_of_deploy(model, phase):
    """By layer name and shape, so weights trained on the one load into the other."""
    net = build(FOLDER / model / "train_val.prototxt", PHASES[phase], SHAPES[model])
    deploy = build(FOLDER / model / "deploy.prototxt", caffe_pb2.TEST)
    missing = set(learned_blobs(deploy)) - set(learned_blobs(net))
    extra = set(learned_blobs(net)) - set(learned_blobs(deploy))
    assert not missing
    # Only GoogLeNet trains classifiers that deploy leaves out.
    assert {layer.split("/")[0] for layer, _, _ in extra} == (
        {"loss1", "loss2"} if model == "googlenet" else set()
    )


@pytest.mark.parametrize("model", MODELS)
def test_train_val_net_reports_accuracy_only_in_testing(model):
    path = FOLDER / model / "train_val.prototxt"
    outputs = {
        name: build(path, phase, SHAPES[model]).graph.outputs
        for name, phase in PHASES.items()
    }
    assert all("loss" in name for name in outputs["train"])
    assert set(outputs["train"]) < set(outputs["test"])


def test_build_googlenet_auxiliary_losses_weigh_three_tenths():
    net = build(
        FOLDER / "googlenet" / "train_val.prototxt", caffe_pb2.TRAIN, (3, 224, 224)
    )
    weights = {
        node.tops[0]: node.loss_weights[0]
        for node in net.graph.nodes
        if node.layer.type == "SoftmaxWithLoss"
    }
    assert weights == pytest.approx(
        {"loss1/loss1": 0.3, "loss2/loss2": 0.3, "loss3/loss3": 1.0}
    )
