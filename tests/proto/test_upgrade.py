import json

import pytest

from jaxcaffe.errors import PrototxtError
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.proto.text import parse_net, parse_solver, read_net, read_solver
from jaxcaffe.proto.upgrade import (
    needs_upgrade,
    upgrade_net,
    upgrade_net_with_report,
    upgrade_solver,
)
from jaxcaffe.proto.upgrade_v1 import V1_TYPES

NETS = [
    "v0_data_layers",
    "v0_padding_convnet",
    "v0_wrong_fields",
    "v1_all_types",
    "v1_data_mixed",
    "v1_inputs",
    "v1_train_net",
    "v2_batchnorm",
    "v2_current",
    "v2_input_alone",
    "v2_input_shape",
]
SOLVERS = ["adadelta", "adagrad", "adam", "current", "nesterov", "number"]
SOLVERS += ["rmsprop", "sgd"]


def _upgraded(text):
    net, source = parse_net(text, "f")
    return upgrade_net(net, source)


@pytest.mark.parametrize("name", NETS)
def test_upgrade_net_of_old_file_is_what_caffe_wrote(golden, name):
    net, source = read_net(golden / f"{name}.prototxt")
    before = net.SerializeToString()
    assert upgrade_net(net, source) == read_net(golden / f"{name}.upgraded")[0]
    assert net.SerializeToString() == before


@pytest.mark.parametrize("name", NETS)
def test_upgrade_net_report_has_steps_and_problems_of_caffe(golden, name):
    told = json.loads((golden / "results.json").read_text())["texts"]
    expected = told[f"{name}.prototxt"]
    report = upgrade_net_with_report(read_net(golden / f"{name}.prototxt")[0])
    assert list(report.problems) == expected["problems"]
    assert len(report.steps) == len(expected["steps"])
    for step, message in zip(report.steps, expected["steps"], strict=True):
        assert step in message


@pytest.mark.parametrize("name", NETS)
def test_upgrade_net_twice_changes_nothing_more(golden, name):
    net = upgrade_net(read_net(golden / f"{name}.prototxt")[0])
    assert not needs_upgrade(net) or name == "v2_batchnorm"
    assert upgrade_net(net) == net


def test_upgrade_net_of_current_net_is_an_equal_copy(golden):
    net, _ = read_net(golden / "v2_current.prototxt")
    upgraded = upgrade_net(net)
    assert upgraded == net
    assert upgraded is not net
    assert not needs_upgrade(net)


def test_every_v1_type_has_a_name():
    assert set(V1_TYPES) == set(caffe_pb2.V1LayerParameter.LayerType.values())
    assert len(set(V1_TYPES.values())) == len(V1_TYPES)


def test_upgrade_net_of_params_pads_to_longest_list():
    net = _upgraded(
        'layers { param: "w" blobs_lr: 1 blobs_lr: 2 weight_decay: 0.5 weight_decay: 0 '
        "weight_decay: 3 blob_share_mode: PERMISSIVE }"
    )
    params = net.layer[0].param
    assert [p.HasField("lr_mult") for p in params] == [True, True, False]
    assert [p.decay_mult for p in params] == [0.5, 0, 3]
    assert params[0].name == "w"
    assert params[0].share_mode == caffe_pb2.ParamSpec.PERMISSIVE


def test_upgrade_net_of_padding_takes_pad_and_bottom():
    net = _upgraded(
        'input: "x" input_dim: [1, 3, 8, 8]'
        'layers { layer { name: "p" type: "padding" pad: 2 } bottom: "x" top: "q" }'
        'layers { layer { name: "c" type: "conv" pad: 1 } bottom: "q" top: "y" }'
    )
    assert [layer.name for layer in net.layer] == ["input", "c"]
    assert list(net.layer[1].bottom) == ["x"]
    assert list(net.layer[1].convolution_param.pad) == [2]


def test_upgrade_net_of_v0_keeps_only_what_caffe_keeps():
    net = _upgraded(
        'name: "n" debug_info: true force_backward: true state { level: 3 }'
        'layers { layer { name: "r" type: "relu" } }'
    )
    assert net.name == "n"
    assert net.force_backward
    assert not net.debug_info
    assert not net.HasField("state")


def test_upgrade_net_of_v1_keeps_the_net_fields():
    net = _upgraded('debug_info: true state { level: 3 } layers { name: "r" }')
    assert net.debug_info
    assert net.state.level == 3


def test_upgrade_net_of_both_shapes_takes_input_shape():
    net = _upgraded('input: "x" input_shape { dim: 7 } input_dim: [1, 2, 3, 4]')
    assert list(net.layer[0].input_param.shape[0].dim) == [7]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'layer { name: "a" }\nlayers { name: "b" }',
            r"f:2: the net has 1 layer in the old form `layers` and 1 in the form",
        ),
        (
            '\nlayers { layer { name: "a" type: "convolve" } }',
            r'f:2: layer "a" \(convolve\): is of no V0 type\. Accepted: conv',
        ),
        (
            'input: "data" layers { layer { name: "a" type: "relu" } bottom: "dta" }',
            r'f:1: layer "a" \(relu\): bottom "dta" is made by no.* Accepted: data\.',
        ),
        (
            'input: "x" layers { layer { name: "p" type: "padding" } bottom: "x" '
            'top: "q" }\nlayers { layer { name: "r" type: "relu" } bottom: "q" }',
            r'f:2: layer "r" \(relu\): has the padding layer "p" as bottom',
        ),
        (
            'input: "x" layers { layer { name: "p" type: "padding" } bottom: "x" '
            'top: "q" }\nlayers { layer { name: "c" type: "conv" } bottom: "x" '
            'bottom: "q" }',
            r'f:2: layer "c" \(conv\): has 2 bottoms, one from padding layer "p"',
        ),
        (
            'input: "x" layers { layer { name: "p" type: "padding" } bottom: "x" '
            'top: "q" top: "z" }\nlayers { layer { name: "c" type: "conv" } '
            'bottom: "q" }',
            r'f:1: layer "p" \(padding\): has 1 bottom and 2 tops',
        ),
        (
            'input: "a" input: "b" input_dim: [1, 2, 3, 4, 5]',
            "f: 2 inputs but 5 input_dim. Accepted: 8 input_dim",
        ),
        (
            'input: "a" input: "b" input_shape { dim: 1 }',
            "f: 2 inputs but 1 input_shape",
        ),
    ],
)
def test_upgrade_net_of_what_caffe_refuses_is_refused(text, message):
    with pytest.raises(PrototxtError, match=message):
        _upgraded(text)


@pytest.mark.parametrize(
    "name", ["mixed_v1_v2", "v0_padding_to_relu", "v0_unknown_bottom"]
)
def test_upgrade_net_of_file_caffe_refuses_is_refused(golden, name):
    net, source = read_net(golden / f"{name}.prototxt")
    with pytest.raises(PrototxtError, match=rf"{name}\.prototxt:\d+: "):
        upgrade_net(net, source)


@pytest.mark.parametrize("name", SOLVERS)
def test_upgrade_solver_of_old_file_is_what_caffe_wrote(golden, name):
    solver, source = read_solver(golden / f"solver_{name}.prototxt")
    before = solver.SerializeToString()
    upgraded = upgrade_solver(solver, source)
    assert upgraded == read_solver(golden / f"solver_{name}.upgraded")[0]
    assert solver.SerializeToString() == before


def test_upgrade_solver_with_both_types_is_refused():
    solver, source = parse_solver('type: "Adam" solver_type: ADAM', "s")
    with pytest.raises(PrototxtError, match='s: type "Adam" and solver_type ADAM are'):
        upgrade_solver(solver, source)
