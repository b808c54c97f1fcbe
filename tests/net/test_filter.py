import pytest

from jaxcaffe.errors import PrototxtError
from jaxcaffe.net.filter import filter_net, meets_rule, merge_state
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.proto.text import parse_net

TRAIN, TEST = caffe_pb2.TRAIN, caffe_pb2.TEST


def state(phase=TRAIN, level=0, stage=()):
    return caffe_pb2.NetState(phase=phase, level=level, stage=stage)


def rule(**fields):
    return caffe_pb2.NetStateRule(**fields)


def kept_names(text, given):
    net, source = parse_net(text, "net.prototxt")
    filtered, kept = filter_net(net, given, source)
    assert [net.layer[i].name for i in kept] == [la.name for la in filtered.layer]
    return [layer.name for layer in filtered.layer]


@pytest.mark.parametrize(
    ("wanted", "given", "met"),
    [
        (rule(), state(), True),
        (rule(phase=TRAIN), state(TRAIN), True),
        (rule(phase=TRAIN), state(TEST), False),
        (rule(min_level=2), state(level=1), False),
        (rule(min_level=2), state(level=2), True),
        (rule(max_level=2), state(level=2), True),
        (rule(max_level=2), state(level=3), False),
        (rule(min_level=-1, max_level=-1), state(level=-1), True),
        (rule(stage=["a", "b"]), state(stage=["a"]), False),
        (rule(stage=["a", "b"]), state(stage=["c", "b", "a"]), True),
        (rule(not_stage=["a", "b"]), state(stage=["b"]), False),
        (rule(not_stage=["a", "b"]), state(stage=["c"]), True),
        (rule(stage=["a"], not_stage=["a"]), state(stage=["a"]), False),
        (rule(phase=TEST, stage=["a"]), state(TRAIN, stage=["a"]), False),
    ],
)
def test_meets_rule_needs_every_condition(wanted, given, met):
    assert meets_rule(given, wanted) is met


def test_filter_net_with_several_rules_needs_any_of_them():
    text = """
      layer { name: "in" include { stage: "a" } include { phase: TEST } }
      layer { name: "out" exclude { stage: "a" } exclude { phase: TEST } }
      layer { name: "always" }
    """
    assert kept_names(text, state()) == ["out", "always"]
    assert kept_names(text, state(stage=["a"])) == ["in", "always"]
    assert kept_names(text, state(TEST)) == ["in", "always"]


def test_filter_net_leaves_its_argument_alone():
    net, _ = parse_net('layer { name: "a" include { phase: TEST } }', "n")
    before = net.SerializeToString()
    filtered, kept = filter_net(net, state())
    assert (len(filtered.layer), kept) == (0, ())
    assert net.SerializeToString() == before


def test_filter_net_with_include_and_exclude_names_the_second_of_two_layers():
    text = """layer { name: "a" }
      layer { name: "a" type: "ReLU"
        include { phase: TRAIN } exclude { stage: "s" } }"""
    with pytest.raises(
        PrototxtError,
        match=r'net\.prototxt:2: layer "a" \(ReLU\): 1 include and 1 exclude rules are '
        r"set\. Accepted: either include or exclude rules\.",
    ):
        kept_names(text, state())


def test_merge_state_puts_the_caller_over_the_file_and_adds_stages():
    net, _ = parse_net('state { phase: TEST level: 3 stage: "a" stage: "b" }', "n")
    merged = merge_state(net, state(TRAIN, 0, ["b", "c"]))
    assert (merged.phase, merged.level) == (TRAIN, 0)
    assert list(merged.stage) == ["a", "b", "c"]
    assert merge_state(net, merged) == merged
