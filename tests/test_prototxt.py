"""The nets and solvers that come with the project: whole, and as big as published."""

import functools
import gc
import itertools
import math
import pathlib
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcaffe.layers import registry
from jaxcaffe.net.count import count_net
from jaxcaffe.net.graph import build_graph
from jaxcaffe.net.translate import build_net
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.proto.text import read_net, read_solver
from jaxcaffe.proto.upgrade import needs_upgrade, upgrade_net
from jaxcaffe.solver.schedule import make_schedule

ROOT = pathlib.Path(__file__).parents[1]
FOLDER = ROOT / "prototxt"
MODELS = sorted({path.parent.name for path in FOLDER.glob("*/*.prototxt")})
SOLVERS = sorted(FOLDER.glob("*/*solver*.prototxt"))
NETS = sorted(set(FOLDER.glob("*/*.prototxt")) - set(SOLVERS))
DEPLOYS = sorted(path.parent.name for path in NETS if path.stem == "deploy")
TRAIN_VALS = [path for path in NETS if path.stem.endswith("train_val")]

PHASES = {"train": caffe_pb2.TRAIN, "test": caffe_pb2.TEST}


def images(channels, side, data="data", label="label"):
    return {data: (channels, side, side), label: ()}


PASCAL = {"data": (3, 500, 500), "label": (1, 500, 500)}

# Shape of one record in each top of the data layers, after cropping: what the files do
# not tell.
RECORDS = {
    "alexnet": images(3, 227),
    "caffenet": images(3, 227),
    "char_lstm": {"input": (32,), "cont": (32,), "target": (32,)},
    "cifar10_full": images(3, 32),
    "cifar10_full_sigmoid": images(3, 32),
    "cifar10_full_sigmoid_bn": images(3, 32),
    "cifar10_quick": images(3, 32),
    "densenet121": images(3, 224),
    "fashion_mnist": images(1, 28),
    "fcn16s": PASCAL,
    "fcn32s": PASCAL,
    "fcn8s": PASCAL,
    "feature_extraction": images(3, 227),
    "flickr_style": images(3, 227),
    "googlenet": images(3, 224),
    "hdf5_classification": {"data": (4,), "label": ()},
    "inception_bn": images(3, 224),
    "lenet": images(1, 28),
    "lenet_digits": images(1, 8),
    "linreg": {},
    "mnist_autoencoder": {"data": (1, 28, 28)},
    "mnist_siamese": images(2, 28, "pair_data", "sim"),
    "mobilenet": images(3, 224),
    "net_surgery": {},
    "nin_imagenet": images(3, 224),
    "pascal_detection": images(3, 227),
    "rcnn_ilsvrc13": {},
    "resnet101": images(3, 224),
    "resnet152": images(3, 224),
    "resnet50": images(3, 224),
    "squeezenet_v1.0": images(3, 227),
    "squeezenet_v1.1": images(3, 227),
    "vgg16": images(3, 224),
    "vgg19": images(3, 224),
}


def count_convolutions(*shapes):
    """(outputs, inputs, side) -> learned numbers of convolutions with biases."""
    return sum(outputs * (inputs * side**2 + 1) for outputs, inputs, side in shapes)


def count_inception_bn():
    """From the channels of Ioffe and Szegedy's figure 5, as lim0606 has them.

    A module: inputs, 1x1, 3x3 reduced and out, double 3x3 reduced and out, projection.
    """
    modules = [
        (192, 64, 64, 64, 64, 96, 32),
        (256, 64, 64, 96, 64, 96, 64),
        (320, 0, 128, 160, 64, 96, 0),
        (576, 224, 64, 96, 96, 128, 128),
        (576, 192, 96, 128, 96, 128, 128),
        (576, 160, 128, 160, 128, 160, 96),
        (576, 96, 128, 192, 160, 192, 96),
        (576, 0, 128, 192, 192, 256, 0),
        (1024, 352, 192, 320, 160, 224, 128),
        (1024, 352, 192, 320, 192, 224, 128),
    ]
    shapes = [(64, 3, 7), (64, 64, 1), (192, 64, 3)]
    for inputs, one, reduce3, three, reduce33, double, projection in modules:
        shapes += [(one, inputs, 1), (reduce3, inputs, 1), (three, reduce3, 3)]
        shapes += [(reduce33, inputs, 1), (double, reduce33, 3), (double, double, 3)]
        shapes += [(projection, inputs, 1)]
    # A scale and a shift for each channel, no biases; then the classifier.
    affine = sum(outputs for outputs, _, _ in shapes)
    return count_convolutions(*shapes) + affine + 1000 * 1025


# Learned numbers of the deploy nets, BatchNorm statistics not among them. Those written
# in full are what the authors, Keras or torchvision publish; the others are sums over
# layers.
VGG16_CONVOLUTIONS = 14_714_688
FCN_FC = 4096 * (512 * 7 * 7 + 1) + 4096 * (4096 + 1) + 21 * (4096 + 1)
LSTM_256 = 4 * 256 * (256 + 1)
CAFFENET_FC7 = 60_965_224 - 1000 * 4097
COUNTS = {
    "alexnet": 60_965_224,
    "caffenet": 60_965_224,
    "char_lstm": 128 * 64 + 4 * 256 * 64 + 4 * 256 * 256 + 2 * LSTM_256 + 128 * 257,
    "cifar10_full": 2_432 + 25_632 + 51_264 + 10_250,
    "cifar10_full_sigmoid": 2_432 + 25_632 + 51_264 + 10_250,
    "cifar10_full_sigmoid_bn": 2_400 + 25_600 + 51_200 + 10_250,
    "cifar10_quick": 145_578,
    "densenet121": 7_978_856,
    "fashion_mnist": 431_080,
    "fcn16s": VGG16_CONVOLUTIONS + FCN_FC + 21 * 513 + 21 * 21 * (4**2 + 32**2),
    "fcn32s": VGG16_CONVOLUTIONS + FCN_FC + 21 * 21 * 64**2,
    "fcn8s": VGG16_CONVOLUTIONS
    + FCN_FC
    + 21 * (513 + 257)
    + 21 * 21 * (4**2 + 4**2 + 16**2),
    "flickr_style": CAFFENET_FC7 + 20 * 4097,
    "googlenet": 6_998_552,
    "inception_bn": count_inception_bn(),
    "lenet": 431_080,
    "lenet_digits": 200 + 9_050 + 20_100 + 1_010,
    "mnist_siamese": 431_080 + 2 * 11,
    "mobilenet": 4_231_976,
    "nin_imagenet": count_convolutions(
        *((96, 3, 11), (96, 96, 1), (96, 96, 1)),
        *((256, 96, 5), (256, 256, 1), (256, 256, 1)),
        *((384, 256, 3), (384, 384, 1), (384, 384, 1)),
        *((1024, 384, 3), (1024, 1024, 1), (1000, 1024, 1)),
    ),
    "rcnn_ilsvrc13": CAFFENET_FC7 + 200 * 4097,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnet50": 25_557_032 + 64,  # the authors' first layer has biases
    "squeezenet_v1.0": 1_248_424,
    "squeezenet_v1.1": 1_235_496,
    "vgg16": 138_357_544,
    "vgg19": 143_667_240,
}

# Multiply-adds of one image in billions, as published.
MULTIPLY_ADDS = {
    "alexnet": 0.72,  # Howard et al. (MobileNet), table 9
    "densenet121": 2.83,  # torchvision
    "googlenet": 1.55,  # Howard et al., table 8
    "mobilenet": 0.569,  # Howard et al., table 4
    "resnet101": 7.6,  # He et al. (ResNet), table 1
    "resnet152": 11.3,
    "resnet50": 3.8,
    "squeezenet_v1.0": 1.72 / 2,  # README of the weights: FLOPs
    "vgg16": 15.3,  # He et al., section 3.3
    "vgg19": 19.6,
}
# Papers cut digits off, and some leave the last layers out.
MULTIPLY_ADDS_TOLERANCE = 0.025

# What a deploy net gives for one image, where it is not ("prob", (1000,)).
SCORES = {
    **dict.fromkeys(("fcn16s", "fcn32s", "fcn8s"), ("score", (21, 500, 500))),
    **dict.fromkeys(
        ("densenet121", "mobilenet", "nin_imagenet"), ("prob", (1000, 1, 1))
    ),
    **dict.fromkeys(("squeezenet_v1.0", "squeezenet_v1.1"), ("prob", (1000, 1, 1))),
    **dict.fromkeys(
        (model for model in MODELS if model.startswith(("cifar", "fashion", "lenet"))),
        ("prob", (10,)),
    ),
    "char_lstm": ("prob", (1, 128)),
    "flickr_style": ("prob", (20,)),
    "mnist_siamese": ("feat", (2,)),
    "rcnn_ilsvrc13": ("fc-rcnn", (200,)),
}

# Layers with blobs that train and deploy leaves out.
TRAINED_ALONE = {
    "googlenet": {"loss1", "loss2"},
    "inception_bn": {"loss1", "loss2"},
    "mnist_siamese": {"conv1_p", "conv2_p", "ip1_p", "ip2_p", "feat_p"},
}

# How many records the sets for testing have that the solvers go through.
TEST_RECORDS = {
    "digits": 360,
    "flickr_style": 5000,  # a fifth or so of its test set
    "hdf5_classification": 2500,
    "ilsvrc12": 50_000,
    "pascal": 736,
}


@pytest.fixture(autouse=True, scope="module")
def no_garbage_collection():
    """Traced layers stay, so that looking for garbage takes a fifth of the time."""
    gc.disable()
    yield
    gc.enable()


@functools.cache
def read_graph(path, phase, *stages):
    net, source = read_net(path)
    state = caffe_pb2.NetState(phase=phase, stage=stages)
    return build_graph(upgrade_net(net), state, source)


@functools.cache
def build(path, phase, *stages):
    """path, phase, stages -> Net; allocates no weights."""
    graph = read_graph(path, phase, *stages)
    return build_net(graph, feed_structs(graph, RECORDS[path.parent.name]))


def feed_structs(graph, records):
    structs = {}
    for node in graph.nodes:
        kind = registry.lookup(node.layer.type)
        if kind.module is not None or node.layer.type == "Input":
            continue
        for top in node.tops:
            shape = (batch_size(node.layer), *records[top])
            structs[top] = jax.ShapeDtypeStruct(shape, jnp.float32)
    return structs


def batch_size(layer):
    (param,) = [
        value
        for field, value in layer.ListFields()
        if field.name.endswith("data_param") and hasattr(value, "batch_size")
    ]
    return param.batch_size


def build_deploy(model):
    return build(FOLDER / model / "deploy.prototxt", caffe_pb2.TEST)


def learned_blobs(net):
    return [(info.layer, info.blob, info.shape) for info in net.params]


def name_of(path):
    return f"{path.parent.name}-{path.stem}"


def test_models_every_folder_has_expectations_and_files_that_belong_together():
    assert sorted(RECORDS) == MODELS
    assert sorted(COUNTS) == DEPLOYS
    for path in TRAIN_VALS:
        prefix = path.stem.removesuffix("train_val")
        assert (path.parent / f"{prefix}solver.prototxt").is_file(), path


def test_models_for_ilsvrc_can_be_trained_and_deployed():
    trained = {path.parent.name for path in TRAIN_VALS}
    assert {model for model, top in SCORES.items() if top[1] == (1000, 1, 1)} <= trained
    assert {model for model, top in RECORDS.items() if top == images(3, 224)} <= (
        trained & set(DEPLOYS)
    )


@pytest.mark.parametrize("path", NETS, ids=name_of)
def test_net_file_is_in_modern_form(path):
    net, _ = read_net(path)
    assert len(net.layer) > 1
    # BVLC's net lists the three blobs of each BatchNorm layer, so ours does.
    lists_statistics = path.parent.name == "cifar10_full_sigmoid_bn"
    assert needs_upgrade(net) == lists_statistics
    assert not net.layers
    assert not net.input


@pytest.mark.parametrize("path", [*NETS, *SOLVERS], ids=name_of)
def test_file_says_what_it_is_and_keeps_to_88_columns(path):
    lines = path.read_text().split("\n")
    assert lines[0].startswith("# ")
    assert max(map(len, lines)) <= 88
    assert all(line == line.rstrip() for line in lines)


@pytest.mark.parametrize("path", SOLVERS, ids=name_of)
def test_solver_names_nets_of_its_folder_and_a_run_folder(path):
    solver, _ = read_solver(path)
    model = path.parent.name
    nets = [solver.net, solver.train_net, *solver.test_net]
    for net in filter(None, nets):
        assert (ROOT / net).parent == path.parent
        assert (ROOT / net).is_file()
    assert any(nets) or solver.HasField("net_param")
    assert solver.snapshot_prefix.startswith(f"runs/{model}/{model}")


@pytest.mark.parametrize("path", SOLVERS, ids=name_of)
def test_solver_starts_at_its_base_lr(path):
    solver, _ = read_solver(path)
    assert make_schedule(solver)(jnp.asarray(0)) == pytest.approx(solver.base_lr)


def data_layers(solver):
    """The data layers for testing, in the order of test_iter."""
    if solver.HasField("net_param"):
        net = solver.net_param
    else:
        net, _ = read_net(ROOT / (solver.test_net or [solver.net])[0])
    layers = [layer for layer in net.layer if layer.type.endswith("Data")]
    tested = [
        layer
        for layer in layers
        if not layer.include or layer.include[0].phase == caffe_pb2.TEST
    ]
    if not solver.test_state:
        return tested[:1]
    return [
        next(layer for layer in tested if state.stage[0] in layer.include[0].stage)
        for state in solver.test_state
    ]


@pytest.mark.parametrize("path", SOLVERS, ids=name_of)
def test_solver_tests_the_whole_test_set_once(path):
    """test_iter batches hold as many records as the data set has for testing."""
    if path.parent.name in ("char_lstm", "pascal_detection"):
        pytest.skip("its test set has no known size")
    solver, _ = read_solver(path)
    layers = data_layers(solver)
    assert len(layers) == len(solver.test_iter)
    for layer, test_iter in zip(layers, solver.test_iter, strict=True):
        (param,) = [
            value
            for field, value in layer.ListFields()
            if field.name in ("data_param", "image_data_param", "hdf5_data_param")
        ]
        expected = TEST_RECORDS.get(param.source.split("/")[1], 10_000)
        if "mnist_train" in param.source:  # of the digits that are trained on
            expected = 50_000 if "autoencoder" in path.parent.name else 60_000
        assert test_iter * param.batch_size == expected


@pytest.mark.parametrize("model", DEPLOYS)
def test_deploy_net_has_the_published_number_of_parameters(model):
    assert count_net(build_deploy(model)).params == COUNTS[model]


@pytest.mark.parametrize("model", sorted(MULTIPLY_ADDS))
def test_deploy_net_has_the_published_multiply_adds(model):
    net = build_deploy(model)
    counted = count_net(net).multiply_adds / net.structs["data"].shape[0]
    assert counted / 1e9 == pytest.approx(
        MULTIPLY_ADDS[model], rel=MULTIPLY_ADDS_TOLERANCE
    )


@pytest.mark.parametrize("model", DEPLOYS)
def test_deploy_net_gives_scores_of_each_image(model):
    net = build_deploy(model)
    top, shape = SCORES.get(model, ("prob", (1000,)))
    feed = net.structs["input" if model == "char_lstm" else "data"]
    assert net.graph.outputs == (top,)
    assert net.structs[top].shape == (feed.shape[0], *shape)
    if top == "prob" and model != "char_lstm":
        assert feed.shape[1:] == RECORDS[model]["data"]


# The largest nets are of the same text as resnet50, so one phase of them is enough.
@pytest.mark.parametrize(
    ("path", "phase"),
    [
        pytest.param(path, phase, id=f"{name_of(path)}-{phase}")
        for path in TRAIN_VALS
        for phase in PHASES
        if path.parent.name in DEPLOYS
        and (phase, path.parent.name)
        not in (("test", "resnet101"), ("test", "resnet152"))
    ],
)
def test_train_val_net_builds_and_holds_the_blobs_of_deploy(path, phase):
    """By layer name and shape, so weights trained on the one load into the other."""
    net = build(path, PHASES[phase])
    deploy = build_deploy(path.parent.name)
    missing = set(learned_blobs(deploy)) - set(learned_blobs(net))
    extra = set(learned_blobs(net)) - set(learned_blobs(deploy))
    assert not missing
    assert {layer.split("/")[0] for layer, _, _ in extra} == TRAINED_ALONE.get(
        path.parent.name, set()
    )


@pytest.mark.parametrize("path", TRAIN_VALS, ids=name_of)
def test_train_val_net_reports_accuracy_only_in_testing(path):
    stages = ["test-on-test"] if path.parent.name == "mnist_autoencoder" else []
    train = read_graph(path, PHASES["train"])
    test = read_graph(path, PHASES["test"], *stages)
    losses = {
        top
        for node in train.nodes
        for top, loss_weight in zip(node.tops, node.loss_weights, strict=True)
        if loss_weight
    }
    assert losses
    assert losses <= {*train.outputs, "(automatic)"}  # where the file names no top
    # As published, one SqueezeNet tests no loss, and the other trains with accuracies.
    if path.parent.name != "squeezenet_v1.0":
        assert set(train.outputs) <= set(test.outputs)
    if path.parent.name != "squeezenet_v1.1":
        assert not [top for top in train.outputs if "accuracy" in top]


@pytest.mark.parametrize("model", ["googlenet", "inception_bn"])
def test_build_auxiliary_losses_weigh_three_tenths(model):
    net = build(FOLDER / model / "train_val.prototxt", caffe_pb2.TRAIN)
    weights = [
        node.loss_weights[0]
        for node in net.graph.nodes
        if node.layer.type == "SoftmaxWithLoss"
    ]
    assert weights == pytest.approx([0.3, 0.3, 1])


@pytest.mark.parametrize("phase", PHASES)
def test_build_lenet_auto_nets_have_the_parameters_of_lenet(phase):
    net = build(FOLDER / "lenet" / f"auto_{phase}.prototxt", PHASES[phase])
    assert count_net(net).params == COUNTS["lenet"]
    assert net.graph.outputs == ("loss",)


@pytest.mark.parametrize("phase", PHASES)
def test_build_hdf5_auto_nets_report_accuracy_and_loss(phase):
    path = FOLDER / "hdf5_classification" / f"nonlinear_auto_{phase}.prototxt"
    net = build(path, PHASES[phase])
    assert count_net(net).params == 4 * 40 + 40 + 40 * 2 + 2
    assert net.graph.outputs == ("accuracy", "loss")


def test_build_autoencoder_gives_back_784_pixels_through_30():
    path = FOLDER / "mnist_autoencoder" / "train_val.prototxt"
    net = build(path, caffe_pb2.TEST, "test-on-train")
    sides = (784, 1000, 500, 250, 30)
    encoder = sum(a * b + b for a, b in itertools.pairwise(sides))
    decoder = sum(a * b + a for a, b in itertools.pairwise(sides))
    assert count_net(net).params == encoder + decoder
    assert net.structs["encode4"].shape == (100, 30)
    assert net.structs["decode1"].shape == net.structs["flatdata"].shape
    assert net.graph.outputs == ("cross_entropy_loss", "l2_error")


def test_build_siamese_copies_share_all_blobs():
    net = build(FOLDER / "mnist_siamese" / "train_val.prototxt", caffe_pb2.TRAIN)
    owners = {info.layer: info.owner[0] for info in net.params}
    assert {layer: owner for layer, owner in owners.items() if layer != owner} == {
        f"{layer}_p": layer for layer in ("conv1", "conv2", "ip1", "ip2", "feat")
    }
    assert count_net(net).params == COUNTS["mnist_siamese"]


def test_build_pascal_net_scores_20_classes_and_background():
    net = build(FOLDER / "pascal_detection" / "train_val.prototxt", caffe_pb2.TRAIN)
    assert count_net(net).params == CAFFENET_FC7 + 21 * 4097
    assert net.structs["fc8_pascal"].shape == (128, 21)


def test_build_feature_net_is_caffenet():
    net = build(FOLDER / "feature_extraction" / "imagenet_val.prototxt", PHASES["test"])
    assert learned_blobs(net) == learned_blobs(build_deploy("caffenet"))


def test_build_full_conv_net_has_caffenets_weights_in_another_shape():
    path = FOLDER / "net_surgery" / "caffenet_full_conv.prototxt"
    net = build(path, caffe_pb2.TEST)
    sizes = {
        (layer.removesuffix("-conv"), blob): math.prod(shape)
        for layer, blob, shape in learned_blobs(net)
    }
    assert sizes == {
        (layer, blob): math.prod(shape)
        for layer, blob, shape in learned_blobs(build_deploy("caffenet"))
    }
    assert net.structs["prob"].shape == (1, 1000, 8, 8)


def test_build_conv_net_filters_a_gray_image():
    net = build(FOLDER / "net_surgery" / "conv.prototxt", caffe_pb2.TEST)
    assert net.structs["conv"].shape == (1, 3, 96, 96)


@pytest.mark.parametrize("model", ["fcn16s", "fcn32s", "fcn8s"])
def test_build_fcn_scores_every_pixel_of_an_image_of_another_size(model):
    net, source = read_net(FOLDER / model / "deploy.prototxt")
    graph = build_graph(net, caffe_pb2.NetState(phase=caffe_pb2.TEST), source)
    data = jax.ShapeDtypeStruct((2, 3, 333, 251), jnp.float32)
    assert build_net(graph, {"data": data}).structs["score"].shape == (2, 21, 333, 251)


def test_linreg_python_loss_has_the_gradient_of_its_formula():
    net = build(FOLDER / "linreg" / "linreg.prototxt", caffe_pb2.TRAIN)
    params, stats = net.init(jax.random.key(0))
    key = jax.random.key(1)
    blobs = net.apply(params, stats, {}, key).blobs

    def loss(params):
        return net.apply(params, stats, {}, key).loss

    def formula(params):
        a, b = (
            blobs[bottom].reshape(10, -1) @ params[name]["weight"].T
            + params[name]["bias"]
            for bottom, name in (("x", "ipx"), ("y", "ipy"))
        )
        return jnp.sum((a - b) ** 2) / 20

    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    expected = jax.value_and_grad(formula)(params)
    jax.tree.map(close, jax.value_and_grad(loss)(params), expected)


@pytest.mark.parametrize(
    ("state", "batches"),
    [
        ({"phase": caffe_pb2.TRAIN}, 64),
        ({"phase": caffe_pb2.TEST, "stage": ["test-on-test-set"]}, 100),
        ({"phase": caffe_pb2.TEST, "stage": ["test-on-train-set"]}, 100),
    ],
)
def test_consolidated_solver_holds_lenet_with_one_data_layer_for_each_state(
    state, batches
):
    solver, _ = read_solver(FOLDER / "lenet" / "solver_consolidated.prototxt")
    graph = build_graph(solver.net_param, caffe_pb2.NetState(**state))
    net = build_net(graph, feed_structs(graph, RECORDS["lenet"]))
    assert net.structs["data"].shape == (batches, 1, 28, 28)
    assert learned_blobs(net) == learned_blobs(build_deploy("lenet"))


def test_generate_writes_the_files_that_are_there():
    files = runpy.run_path(str(FOLDER / "generate"), run_name="generate")
    texts = files["build_files"]()
    assert len(texts) == 12
    for path, text in texts.items():
        assert (FOLDER / path).read_text() == text, f"run {FOLDER}/generate"


def rows_of_models():
    """Rows of docs/models.md that tell parameters: model -> its cells."""
    text = (ROOT / "docs" / "models.md").read_text()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    return {
        row[1].strip("`"): row for row in rows if row[1] in map("`{}`".format, DEPLOYS)
    }


def scale(count):
    """1234567 -> "1.23 M"."""
    for unit in ("", " k", " M", " G"):
        if count < 1000:
            return f"{float(f'{count:.3g}'):#.3g}".rstrip(".") + unit
        count /= 1000
    raise AssertionError(count)


@pytest.mark.parametrize("model", DEPLOYS)
def test_models_page_tells_input_parameters_and_multiply_adds(model):
    net = build_deploy(model)
    feed = net.structs["input" if model == "char_lstm" else "data"]
    count = count_net(net)
    _, _, shape, params, multiply_adds, *_ = rows_of_models()[model]
    if model != "char_lstm":
        assert shape == "x".join(map(str, feed.shape[1:]))
    assert params == f"{count.params:,}"
    assert multiply_adds == scale(count.multiply_adds / feed.shape[0])


def test_models_page_names_every_folder():
    text = (ROOT / "docs" / "models.md").read_text()
    assert [model for model in MODELS if f"| `{model}` |" not in text] == []
