import pytest
from google.protobuf import text_format

from jaxcaffe.errors import PrototxtError
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.solver.nets import merge_state, solver_nets


def test_solver_nets_net_serves_training_and_every_test(parse):
    nets = solver_nets(
        parse('net: "n.prototxt" test_iter: 4 test_iter: 3 test_interval: 10')
    )
    assert nets.train[:3] == ("net", "n.prototxt", caffe_pb2.TRAIN)
    assert nets.train.test_iter == 0
    assert [use[:3] for use in nets.tests] == [
        ("net", "n.prototxt", caffe_pb2.TEST),
        ("net", "n.prototxt", caffe_pb2.TEST),
    ]
    assert [use.test_iter for use in nets.tests] == [4, 3]


def test_solver_nets_named_tests_come_before_the_generic_net(parse):
    nets = solver_nets(
        parse(
            'test_net: "b" test_net_param { name: "a" } net_param { name: "g" } '
            'test_net: "c" test_iter: 1 test_iter: 2 test_iter: 3 test_iter: 4 '
            "test_interval: 1"
        )
    )
    kinds = [(use.kind, use.test_iter) for use in nets.tests]
    assert kinds == [
        ("test_net_param", 1),
        ("test_net", 2),
        ("test_net", 3),
        ("net_param", 4),
    ]
    assert nets.tests[0].net.name == "a"
    assert [use.net for use in nets.tests[1:3]] == ["b", "c"]
    assert nets.tests[3].net.name == nets.train.net.name == "g"


def test_solver_nets_without_tests_needs_no_test_interval(parse):
    assert solver_nets(parse('train_net: "t"')).tests == ()
    assert solver_nets(parse('net: "t"')).tests == ()


def test_solver_nets_train_net_param_trains(parse):
    train = solver_nets(parse('train_net_param { name: "t" }')).train
    assert (train.kind, train.net.name) == ("train_net_param", "t")


def test_solver_nets_states_go_to_their_nets(parse):
    nets = solver_nets(
        parse(
            'net: "n" test_iter: 1 test_iter: 1 test_interval: 5 '
            'train_state { stage: "x" } '
            'test_state { stage: "y" } test_state { level: 2 }'
        )
    )
    assert list(nets.train.state.stage) == ["x"]
    assert [list(use.state.stage) for use in nets.tests] == [["y"], []]
    assert [use.state.level for use in nets.tests] == [0, 2]


def test_merge_state_defaults_then_net_then_solver(parse):
    nets = solver_nets(
        parse('net: "n" train_state { stage: "b" } test_iter: 1 test_interval: 1')
    )
    net = text_format.Parse('state { level: 3 stage: "a" }', caffe_pb2.NetParameter())
    before = net.SerializeToString()

    train = merge_state(nets.train, net)
    assert (train.phase, train.level) == (caffe_pb2.TRAIN, 3)
    assert list(train.stage) == ["a", "b"]
    test = merge_state(nets.tests[0], net)
    assert (test.phase, test.level) == (caffe_pb2.TEST, 3)
    assert list(test.stage) == ["a"]
    assert net.SerializeToString() == before
    assert list(nets.train.state.stage) == ["b"]


def test_merge_state_later_values_win(parse):
    net = text_format.Parse("state { phase: TEST level: 3 }", caffe_pb2.NetParameter())
    bare = merge_state(solver_nets(parse('net: "n"')).train, net)
    assert (bare.phase, bare.level) == (caffe_pb2.TEST, 3)
    stated = solver_nets(parse('net: "n" train_state { phase: TRAIN level: 0 }'))
    both = merge_state(stated.train, net)
    assert (both.phase, both.level) == (caffe_pb2.TRAIN, 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "max_iter: 5",
            "no training net is given. Accepted: exactly one of net, net_param, "
            "train_net, train_net_param.",
        ),
        (
            'net: "a" train_net: "b"',
            "net and train_net are both set. Accepted: exactly one of net, net_param",
        ),
        (
            'net: "a" net_param { } train_net_param { }',
            "net, net_param, train_net_param are all set. Accepted: exactly one of",
        ),
        (
            'train_net: "a" test_net: "b"',
            "test_iter is given 0 times for 1 nets named by test_net or "
            "test_net_param. Accepted: one test_iter for each, 1 here.",
        ),
        (
            'train_net: "a" test_iter: 2 test_interval: 5',
            "test_iter is given 1 times for 0 nets named by test_net",
        ),
        (
            'net: "a" test_net: "b" test_net_param { } test_iter: 3 test_interval: 5',
            "test_iter is given 1 times for 2 nets .*at least one test_iter for each, "
            "at least 2 here.",
        ),
        (
            'net: "a" test_iter: 3 test_interval: 5 test_state { } test_state { }',
            "test_state is given 2 times for 1 test nets. Accepted: no test_state, or "
            "one for each test net, 1 here.",
        ),
        (
            'net: "a" test_state { }',
            "test_state is given 1 times for 0 test nets.",
        ),
        (
            'net: "a" test_iter: 3',
            "test_iter is set and test_interval is 0. Accepted: test_interval >= 1",
        ),
    ],
)
def test_solver_nets_bad_counts_are_refused(parse, text, message):
    with pytest.raises(PrototxtError, match=f"^solver.prototxt: {message}"):
        solver_nets(parse(text), "solver.prototxt")
