import pytest

from jaxcaffe.errors import PrototxtError
from jaxcaffe.net.graph import AUTOMATIC_TOP
from jaxcaffe.proto import caffe_pb2

DATA = """layer { name: "data" type: "Input" top: "x" top: "label"
  input_param { shape { dim: 2 dim: 3 } shape { dim: 2 } } }
"""


def test_build_graph_connects_layers_in_file_order(graph_of):
    graph = graph_of(
        'name: "small"\n'
        + DATA
        + """layer { name: "r" type: "ReLU" bottom: "x" top: "x" }
        layer { name: "z" type: "Power" bottom: "x" top: "z" }
        layer { name: "a" type: "Power" bottom: "z" top: "a" }
        layer { name: "b" type: "Power" bottom: "z" top: "b" }"""
    )
    assert graph.name == "small"
    assert graph.phase == caffe_pb2.TRAIN
    assert [node.layer.name for node in graph.nodes] == [
        *["data", "r", "z", "z_z_0_split", "a", "b"]
    ]
    assert graph.blobs == (
        *("x", "label", "z", "z_z_0_split_0", "z_z_0_split_1", "a", "b"),
    )
    assert graph.outputs == ("a", "b", "label")
    # A split stands where the layer does whose top it copies.
    assert [node.where for node in graph.nodes] == [
        f"net.prototxt:{line}" for line in (2, 4, 5, 5, 6, 7)
    ]


def test_build_graph_fills_in_the_phase_that_a_layer_leaves_out(graph_of):
    text = (
        DATA
        + """layer { name: "a" type: "Dropout" bottom: "x" top: "a"
        phase: TRAIN }
      layer { name: "b" type: "Dropout" bottom: "a" top: "b" }"""
    )
    graph = graph_of(text, phase=caffe_pb2.TEST)
    phases = {node.layer.name: node.layer.phase for node in graph.nodes}
    assert phases == {
        "data": caffe_pb2.TEST,
        "a": caffe_pb2.TRAIN,
        "b": caffe_pb2.TEST,
    }


def test_build_graph_weighs_top_0_of_a_loss_and_makes_missing_tops(graph_of):
    graph = graph_of(
        DATA
        + """layer { name: "l" type: "SoftmaxWithLoss" bottom: "x" bottom: "label" }
        layer { name: "m" type: "EuclideanLoss" bottom: "label" bottom: "label" }"""
    )
    losses = [node for node in graph.nodes if node.layer.type.endswith("Loss")]
    assert [node.tops for node in losses] == [(AUTOMATIC_TOP,)] * 2
    assert [node.loss_weights for node in losses] == [(1.0,)] * 2
    assert graph.blobs.count(AUTOMATIC_TOP) == 2
    assert graph.outputs == ()


def test_build_graph_with_two_tops_of_a_loss_weighs_only_the_first(graph_of):
    text = (
        DATA
        + """layer { name: "l" type: "SoftmaxWithLoss" bottom: "x"
      bottom: "label" top: "loss" top: "prob" }"""
    )
    assert graph_of(text).nodes[-1].loss_weights == (1.0, 0.0)


def test_build_graph_with_a_used_loss_counts_its_weight_once(graph_of):
    graph = graph_of(
        DATA
        + """layer { name: "l" type: "SoftmaxWithLoss" bottom: "x" bottom: "label"
          top: "loss" loss_weight: 3 }
        layer { name: "p" type: "Power" bottom: "loss" top: "p" }"""
    )
    weights = {
        top: weight
        for node in graph.nodes
        for top, weight in zip(node.tops, node.loss_weights, strict=True)
        if weight
    }
    assert weights == {"loss_l_0_split_0": 3.0}


def test_build_graph_with_force_backward_overrides_propagate_down(graph_of):
    text = (
        DATA
        + """layer { name: "p" type: "Power" bottom: "x" top: "p"
        propagate_down: false }
      layer { name: "l" type: "SoftmaxWithLoss" bottom: "p" bottom: "label"
        propagate_down: true propagate_down: true }"""
    )
    graph = graph_of(text)
    assert not graph.force_backward
    assert [node.propagate_down for node in graph.nodes[1:]] == [
        (False,),
        (True, False),  # labels never get a gradient
    ]
    graph = graph_of("force_backward: true " + text)
    assert graph.force_backward
    assert [node.propagate_down for node in graph.nodes[1:]] == [(True,), (True, False)]


def test_build_graph_with_the_same_top_in_two_phases_uses_the_one_kept(graph_of):
    text = (
        DATA
        + """
      layer { name: "a" type: "TanH" bottom: "x" top: "y" include { phase: TRAIN } }
      layer { name: "a" type: "ReLU" bottom: "x" top: "y" include { phase: TEST } }"""
    )
    assert graph_of(text).nodes[-1].layer.type == "TanH"
    node = graph_of(text, phase=caffe_pb2.TEST).nodes[-1]
    assert (node.layer.type, node.where) == ("ReLU", "net.prototxt:5")


def test_build_graph_keeps_the_stages_of_the_file(graph_of):
    text = (
        'state { phase: TEST stage: "a" }'
        + DATA
        + """
      layer { name: "t" type: "TanH" bottom: "x" top: "y"
        include { phase: TRAIN stage: "a" stage: "b" } }"""
    )
    assert len(graph_of(text, stages=["b"]).nodes) == 2
    assert len(graph_of(text).nodes) == 1


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (
            'name: "a" type: "Relu" bottom: "x" top: "y"',
            r'layer "a" \(Relu\): layer type "Relu" is not known\. '
            r"Accepted: ReLU",
        ),
        (
            'name: "a" type: "Eltwise" bottom: "x" bottom: "labels" top: "y"',
            r'layer "a" \(Eltwise\): bottom 1 "labels" is not the top of an earlier '
            r"layer\. Accepted: label\.",
        ),
        (
            'name: "a" type: "ReLU" bottom: "later" top: "y" } '
            'layer { name: "b" type: "ReLU" bottom: "x" top: "later"',
            r'bottom 0 "later" is not the top .* \(it is a top of layer "b", which '
            r"stands later\)",
        ),
        (
            'name: "b" type: "ReLU" bottom: "x" top: "gone" include { phase: TEST } } '
            'layer { name: "a" type: "ReLU" bottom: "gone" top: "y"',
            r'bottom 0 "gone" .* layer "b", which the phase, level or stages leave out',
        ),
        (
            'name: "a" type: "ReLU" top: "y"',
            r'layer "a" \(ReLU\): 0 bottoms\. Accepted: 1\.',
        ),
        (
            'name: "a" type: "ReLU" bottom: "x" top: "y" top: "z"',
            r"2 tops\. Accepted: 1\.",
        ),
        (
            'name: "a" type: "SoftmaxWithLoss" bottom: "x" bottom: "label" '
            'top: "y" top: "z" top: "w"',
            r"3 tops\. Accepted: 1 to 2\.",
        ),
        (
            'name: "a" type: "Eltwise" bottom: "x" top: "y"',
            r"1 bottom\. Accepted: 2 or more\.",
        ),
        (
            'name: "a" type: "Convolution" bottom: "x" bottom: "label" top: "y"',
            r"2 bottoms but 1 top\. Accepted: as many tops as bottoms\.",
        ),
        (
            'name: "a" type: "ReLU" bottom: "x" top: "label"',
            r'top 0 "label" is a blob that layer "data" at net\.prototxt:1 makes '
            r"already\. Accepted: another name, or the name of bottom 0",
        ),
        (
            'name: "a" type: "Slice" bottom: "x" top: "y" top: "y"',
            r'top 1 "y" is a blob that layer "a" .* makes already',
        ),
        (
            'name: "a" type: "Slice" bottom: "x" top: "y" top: "x"',
            r'top 1 "x" is a blob that layer "data" .* makes already',
        ),
        (
            'name: "a" type: "ReLU" bottom: "x" top: "x" } '
            'layer { name: "b" type: "ReLU" bottom: "x" top: "x" } '
            'layer { name: "c" type: "ReLU" bottom: "label" top: "x"',
            r'layer "c" .*: top 0 "x" is a blob that layer "data"',
        ),
        (
            'name: "a" type: "TanH" bottom: "x" top: "y" } '
            'layer { name: "b" type: "ReLU" bottom: "x" top: "x"',
            r'layer "b" \(ReLU\): it changes in place blob "x", which layer "data" at '
            r"net\.prototxt:1 makes and other layers use\. Accepted: a top of another",
        ),
        (
            'name: "a" type: "Permute" bottom: "x" top: "y"',
            r'layer "a" \(Permute\): Caffe 1\.0 has no layer type "Permute"; it comes '
            r"from SSD \(weiliu89/caffe\), .* more forks of Caffe\. Accepted: the "
            r"layer types of Caffe 1\.0\.",
        ),
        (
            'name: "a" type: "DepthwiseConvolution" bottom: "x" top: "y"',
            r'has no layer type "DepthwiseConvolution"; it comes from MobileNet.* '
            r'Accepted: type "Convolution" with group: as many as',
        ),
        *(
            (
                f'name: "a" type: "{type_}" bottom: "x" top: "x"',
                rf'layer "a" .*: top "x" is bottom 0, and {type_} does not work in '
                r"place\. Accepted: a top of another name",
            )
            for type_ in ("AbsVal", "Flatten", "Reshape", "Split")
        ),
        (
            'name: "a" type: "ReLU" bottom: "x" top: "y" loss_weight: 1 loss_weight: 2',
            r"loss_weight is given 2 times for 1 top",
        ),
        (
            'name: "a" type: "Slice" bottom: "x" top: "y" top: "z" loss_weight: 1',
            r"loss_weight is given 1 times for 2 tops",
        ),
        (
            'name: "a" type: "ReLU" bottom: "x" top: "y" '
            "propagate_down: true propagate_down: true",
            r"propagate_down is given 2 times for 1 bottom",
        ),
    ],
)
def test_build_graph_refuses_a_layer_that_does_not_fit(graph_of, layer, message):
    with pytest.raises(PrototxtError, match=r"^net\.prototxt:3: .*" + message):
        graph_of(f"{DATA}layer {{ {layer} }}")


def test_build_graph_of_thousands_of_layers_needs_no_recursion(graph_of):
    layers = "".join(
        f'layer {{ name: "r{i}" type: "ReLU" bottom: "x" top: "x" }}\n'
        for i in range(3000)
    )
    graph = graph_of(DATA + layers)
    assert len(graph.nodes) == 3001
    assert graph.blobs == ("x", "label")
