"""NetSpec, layers and params: the nets they write, and what they refuse."""

import copy

import numpy as np
import pytest
from google.protobuf import text_format

from jaxcaffe.errors import CaffeError
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.pycaffe import net_spec
from jaxcaffe.pycaffe.net_spec import NetSpec, to_proto
from jaxcaffe.pycaffe.net_spec import layers as L  # noqa: N812 - as in Caffe
from jaxcaffe.pycaffe.net_spec import params as P  # noqa: N812


def parse(text):
    return text_format.Parse(text, caffe_pb2.NetParameter())


def parse_layer(text):
    return text_format.Parse(text, caffe_pb2.LayerParameter())


def only_layer(top):
    return top.to_proto().layer[-1]


def make_net():
    n = NetSpec()
    n.data, n.label = L.Data(
        source="lmdb",
        batch_size=3,
        backend=P.Data.LMDB,
        transform_param={"mean_value": [1, 2, 3], "mirror": True},
        include={"phase": caffe_pb2.TRAIN},
        ntop=2,
    )
    n["conv/1"] = L.Convolution(
        n.data,
        num_output=4,
        kernel_size=[3, 5],
        pad=1,
        param=[{"lr_mult": 1}, {"lr_mult": 2, "decay_mult": 0}],
        weight_filler={"type": "gaussian", "std": 0.5},
    )
    n.relu = L.ReLU(n["conv/1"], in_place=True)
    n.loss = L.SoftmaxWithLoss(n.relu, n.label, loss_weight=2)
    return n


def test_net_spec_writes_every_kind_of_field():
    assert make_net().to_proto() == parse("""
    layer {
      name: "data" type: "Data" top: "data" top: "label"
      include { phase: TRAIN }
      transform_param { mirror: true mean_value: 1 mean_value: 2 mean_value: 3 }
      data_param { source: "lmdb" batch_size: 3 backend: LMDB }
    }
    layer {
      name: "conv/1" type: "Convolution" bottom: "data" top: "conv/1"
      param { lr_mult: 1 } param { lr_mult: 2 decay_mult: 0 }
      convolution_param {
        num_output: 4 pad: 1 kernel_size: 3 kernel_size: 5
        weight_filler { type: "gaussian" std: 0.5 }
      }
    }
    layer { name: "relu" type: "ReLU" bottom: "conv/1" top: "conv/1" }
    layer {
      name: "loss" type: "SoftmaxWithLoss" bottom: "conv/1" bottom: "label" top: "loss"
      loss_weight: 2
    }
    """)


def test_to_proto_numbers_what_has_no_name_by_type():
    data, label = L.DummyData(shape={"dim": 2}, ntop=2)
    hidden = L.InnerProduct(L.InnerProduct(data, num_output=2), num_output=3)
    net = to_proto(L.EuclideanLoss(hidden, label))
    assert [layer.name for layer in net.layer] == [
        *("DummyData1", "InnerProduct1", "InnerProduct2", "EuclideanLoss1")
    ]
    assert list(net.layer[0].top) == ["DummyData1", "DummyData2"]
    assert list(net.layer[3].bottom) == ["InnerProduct2", "DummyData2"]


def test_to_proto_of_several_tops_writes_common_layers_once():
    data = L.Input(shape={"dim": [1, 2]})
    first, second = L.ReLU(data), L.TanH(data)
    types = [layer.type for layer in to_proto(second, first).layer]
    assert types == ["Input", "TanH", "ReLU"]
    assert first.to_proto() == to_proto(first)
    assert [layer.type for layer in first.to_proto().layer] == ["Input", "ReLU"]


def test_net_spec_leaves_out_what_no_name_needs_and_adds_what_one_needs():
    n = NetSpec()
    n.data = L.Input()
    L.ReLU(n.data)
    n.out = L.TanH(L.Sigmoid(n.data))
    assert [(la.name, la.type) for la in n.to_proto().layer] == [
        ("data", "Input"),
        ("Sigmoid1", "Sigmoid"),
        ("out", "TanH"),
    ]


def test_net_spec_with_two_names_for_a_top_takes_the_later():
    n = NetSpec()
    n.first = L.Input()
    n.second = n.first
    n.out = L.ReLU(n.first)
    assert [layer.name for layer in n.to_proto().layer] == ["second", "out"]


def test_net_spec_with_a_name_assigned_twice_keeps_the_first_layer_unnamed():
    n = NetSpec()
    n.x = L.Input()
    n.x = L.ReLU(n.x)
    net = n.to_proto()
    assert [layer.name for layer in net.layer] == ["Input1", "x"]
    assert list(net.layer[1].bottom) == ["Input1"]


def test_layer_without_tops_is_named_by_its_attribute():
    n = NetSpec()
    n.data, n.other = L.DummyData(ntop=2)
    n.quiet = L.Silence(n.data, n.other, ntop=0)
    L.Silence(n.data, ntop=0)
    layer = n.to_proto().layer[-1]
    assert (layer.name, list(layer.top)) == ("quiet", [])
    assert list(layer.bottom) == ["data", "other"]
    assert to_proto(n.quiet).layer[-1].name == "Silence1"


def test_name_given_to_a_layer_is_not_that_of_its_top():
    n = NetSpec()
    n.data = L.Input()
    n.out = L.ReLU(n.data, name="other")
    layer = n.to_proto().layer[-1]
    assert (layer.name, list(layer.top)) == ("other", ["out"])


def test_in_place_layer_of_two_bottoms_has_two_tops():
    first, second = L.DummyData(ntop=2)
    low, high = L.Custom(first, second, in_place=True, ntop=2)
    layer = only_layer(L.Eltwise(high, low))
    assert list(layer.bottom) == ["DummyData2", "DummyData1"]


def test_deep_net_needs_no_deep_stack():
    top = L.Input()
    for _ in range(3000):
        top = L.ReLU(top)
    net = top.to_proto()
    assert len(net.layer) == 3001
    assert net.layer[-1].name == "ReLU3000"


@pytest.mark.parametrize(
    ("top", "text"),
    [
        (L.Pooling(pool=P.Pooling.AVE), "pooling_param { pool: AVE }"),
        (L.Pooling(pool="AVE"), "pooling_param { pool: AVE }"),
        (
            L.Convolution(kernel_size=(2, 3)),
            "convolution_param { kernel_size: [2, 3] }",
        ),
        (
            L.Convolution(kernel_size=np.array([2, 3]), num_output=np.int64(4)),
            "convolution_param { kernel_size: [2, 3] num_output: 4 }",
        ),
        (
            L.Convolution(bias_term=np.bool_(0)),
            "convolution_param { bias_term: false }",
        ),
        (
            L.Dropout(dropout_ratio=np.float32(0.25)),
            "dropout_param{dropout_ratio:0.25}",
        ),
        (
            L.DummyData(shape=[{"dim": [1, 2]}, {"dim": 3}]),
            "dummy_data_param { shape { dim: [1, 2] } shape { dim: 3 } }",
        ),
        (
            L.Deconvolution(convolution_param={"num_output": 2}),
            "convolution_param { num_output: 2 }",
        ),
        (L.Reshape(shape={"dim": [0, -1]}), "reshape_param { shape { dim: [0, -1] } }"),
        (
            L.Python(module="m", param_str="{}"),
            'python_param{module:"m" param_str:"{}"}',
        ),
        (L.Accuracy(loss_weight=[], phase=1), "phase: TEST"),
        (
            L.LRN(norm_region=P.LRN.WITHIN_CHANNEL),
            "lrn_param{norm_region:WITHIN_CHANNEL}",
        ),
    ],
)
def test_values_of_every_kind_are_written(top, text):
    layer = only_layer(top)
    expected = parse_layer(text)
    expected.MergeFrom(
        caffe_pb2.LayerParameter(name=layer.name, type=layer.type, top=layer.top)
    )
    assert layer == expected


def test_every_parameter_message_is_found_by_its_type():
    found = net_spec.param_name_dict()
    assert found["Convolution"] == "convolution"
    assert found["HDF5Data"] == "hdf5_data"
    assert found["LRN"] == "lrn"
    assert "Deconvolution" not in found


@pytest.mark.parametrize("bottom", [3, "data", (L.Input(), L.Input())])
def test_bottom_that_is_no_top_raises(bottom):
    message = rf"^ReLU input 1 is not a Top \(type is {type(bottom)}\)$"
    with pytest.raises(TypeError, match=message):
        L.ReLU(L.Input(), bottom)


@pytest.mark.parametrize(
    ("top", "message"),
    [
        (
            L.Convolution(kernel_siz=3),
            r'layer "Convolution1" \(Convolution\): has no parameter kernel_siz\. '
            r"Accepted: kernel_size",
        ),
        (
            L.Convolution(weight_filler={"tpye": "x"}),
            "FillerParameter has no field tpye",
        ),
        (L.Deconvolution(pad=3), r"Accepted: convolution_param=dict\(pad=3\)"),
        (L.ReLU(relu_parm={}), "relu_parm.*Accepted: .*relu_param"),
        (L.Typo(n_top=2), "has no parameter n_top. Accepted: .*ntop"),
    ],
)
def test_parameter_that_does_not_exist_raises(top, message):
    with pytest.raises(AttributeError, match=message) as caught:
        top.to_proto()
    assert isinstance(caught.value, CaffeError)


@pytest.mark.parametrize(
    ("top", "message"),
    [
        (L.Convolution(num_output="x"), "num_output is 'x'. Accepted: a number"),
        (L.Convolution(num_output=None), "num_output is None"),
        (L.Convolution(num_output=-1), "num_output is -1"),
        (L.Convolution(kernel_size="x"), "kernel_size is 'x'. .*or a list of them"),
        (L.Pooling(kernel_size=[1, 2]), r"kernel_size is \[1, 2\]. Accepted: a number"),
        (L.Pooling(pool="MOX"), "pool is 'MOX'. Accepted: MAX, AVE, STOCHASTIC"),
        (L.Pooling(pool=7), "pool is 7. Accepted: MAX"),
        (L.Convolution(weight_filler="xavier"), r"xavier'. Accepted: dict\(type=...\)"),
        (L.ReLU(param=[3]), r"param is 3. Accepted: dict\(name=...\)"),
        (L.Python(module=3), "module is 3. Accepted: a string"),
    ],
)
def test_value_that_does_not_suit_raises(top, message):
    with pytest.raises(TypeError, match=message) as caught:
        top.to_proto()
    assert isinstance(caught.value, CaffeError)


def test_constant_that_does_not_exist_raises():
    with pytest.raises(AttributeError, match=r"no PolingParameter\. Accepted: Pooling"):
        P.Poling  # noqa: B018
    with pytest.raises(AttributeError, match="MOX"):
        P.Pooling.MOX  # noqa: B018


def test_net_spec_without_the_top_raises_as_attribute_and_as_item():
    n = make_net()
    with pytest.raises(AttributeError, match=r'no top "labl"\. Accepted: label'):
        n.labl  # noqa: B018
    with pytest.raises(KeyError, match=r'no top "labl"\. Accepted: label'):
        n["labl"]
    assert not hasattr(n, "nothing")


def test_net_spec_can_be_copied():
    n = make_net()
    twin = copy.copy(n)
    twin.more = L.ReLU(n.data)
    assert twin.to_proto().layer[-1].name == "more"
