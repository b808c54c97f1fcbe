"""Pictures of nets, as Graphviz's language and as files."""

import shutil

import pydot
import pytest
from google.protobuf import text_format

from jaxcaffe.errors import CaffeError, ConfigError, DataError
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.pycaffe import draw

NET = """
name: "small"
layer {
  name: "data" type: "Data" top: "data" top: "label"
  include { phase: TRAIN } data_param { batch_size: 8 }
}
layer {
  name: "data" type: "Data" top: "data" top: "label"
  include { phase: TEST } data_param { batch_size: 4 }
}
layer {
  name: "conv" type: "Convolution" bottom: "data" top: "conv"
  param { lr_mult: 1 } param { lr_mult: 2 }
  convolution_param { num_output: 6 kernel_h: 3 kernel_w: 5 stride: 2 group: 3 }
}
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer {
  name: "pool" type: "Pooling" bottom: "conv" top: "pool"
  pooling_param { pool: AVE kernel_size: 2 }
}
layer {
  name: "ip" type: "InnerProduct" bottom: "pool" top: "ip"
  inner_product_param { num_output: 5 }
}
layer {
  name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy"
  exclude { phase: TRAIN }
}
layer {
  name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss"
}
"""

needs_dot = pytest.mark.skipif(
    shutil.which("dot") is None, reason="Graphviz is not installed"
)


def parse(text=NET):
    return text_format.Parse(text, caffe_pb2.NetParameter())


def labels(picture):
    """Returns the text of every node, without the quotes."""
    return {node.get_name(): node.get("label")[1:-1] for node in picture.get_nodes()}


def edges(picture):
    return {(e.get_source(), e.get_destination()) for e in picture.get_edges()}


def test_picture_has_layers_and_blobs_with_what_they_are():
    picture = draw.get_pydot_graph(parse(), "TB")
    assert isinstance(picture, pydot.Dot)
    assert picture.get_rankdir() == "TB"
    assert labels(picture) == {
        **{f'"{b}_blob"': b for b in ("data", "label", "conv", "pool", "ip")},
        **{f'"{b}_blob"': b for b in ("accuracy", "loss")},
        '"data_Data"': "data (Data)",
        '"data_Data#2"': "data (Data)",
        '"conv_Convolution"': "conv (Convolution) kernel size: 3x5 stride: 2 pad: 0",
        '"relu_ReLU"': "relu (ReLU)",
        '"pool_Pooling"': "pool (Pooling AVE) kernel size: 2 stride: 1 pad: 0",
        '"ip_InnerProduct"': "ip (InnerProduct)",
        '"accuracy_Accuracy"': "accuracy (Accuracy)",
        '"loss_SoftmaxWithLoss"': "loss (SoftmaxWithLoss)",
    }
    assert ('"data_blob"', '"conv_Convolution"') in edges(picture)
    assert ('"conv_Convolution"', '"conv_blob"') in edges(picture)
    assert len(edges(picture)) == 18


def test_picture_shows_kinds_of_layers_by_color():
    nodes = {n.get_name(): n for n in draw.get_pydot_graph(parse(), "LR").get_nodes()}
    fills = {
        name.strip('"'): n.get("fillcolor").strip('"') for name, n in nodes.items()
    }
    assert fills["conv_Convolution"] == "#FF5050"
    assert fills["relu_ReLU"] == "#90EE90"
    assert fills["pool_Pooling"] == "#FF9900"
    assert fills["ip_InnerProduct"] == "#CC33FF"
    assert fills["loss_SoftmaxWithLoss"] == "#6495ED"
    assert nodes['"conv_blob"'].get("shape") == "octagon"


@pytest.mark.parametrize(
    ("phase", "expected"),
    [
        (caffe_pb2.TRAIN, ["Batch 8"]),
        (caffe_pb2.TEST, ["Batch 4"]),
        (None, ["Batch 4", "Batch 8"]),
    ],
)
def test_phase_picks_layers(phase, expected):
    picture = draw.get_pydot_graph(parse(), "LR", phase=phase)
    found = {e.get("label") for e in picture.get_edges()}
    assert sorted(t for t in found if t and t.startswith("Batch")) == expected
    assert ('"accuracy_Accuracy"' in labels(picture)) == (phase != caffe_pb2.TRAIN)


def test_edges_tell_outputs_unless_told_not_to():
    picture = draw.get_pydot_graph(parse(), "LR")
    assert [
        e.get("label") for e in picture.get_edge('"conv_Convolution"', '"conv_blob"')
    ] == ["6"]
    picture = draw.get_pydot_graph(parse(), "LR", label_edges=False)
    assert {e.get("label") for e in picture.get_edges()} <= {None, '""'}


@pytest.mark.parametrize(
    ("rankdir", "separator"), [("LR", r"\n"), ("RL", r"\n"), ("TB", " "), ("BT", " ")]
)
def test_layer_label_uses_the_room_there_is(rankdir, separator):
    layer = parse().layer[2]
    lines = [
        *("conv", "(Convolution)", "kernel size: 3x5", "stride: 2", "pad: 0"),
        "lr mult: 1.0, 2.0",
    ]
    label = draw.get_layer_label(layer, rankdir, display_lrm=True)
    assert label == f'"{separator.join(lines)}"'


@pytest.mark.parametrize(
    ("param", "expected"),
    [("", (1, 1)), ("param { lr_mult: 3 }", (3, 1)), ("param {} param {}", (1, 1))],
)
def test_lr_mult_has_its_default_where_it_is_not_given(param, expected):
    net = parse(f'layer {{ name: "ip" type: "InnerProduct" {param} }}')
    assert draw.get_layer_lr_mult(net.layer[0]) == expected


def test_lr_mult_of_zero_is_not_shown():
    param = "param { lr_mult: 0 }"
    net = parse(f'layer {{ name: "ip" type: "InnerProduct" {param} {param} }}')
    label = draw.get_layer_label(net.layer[0], "TB", display_lrm=True)
    assert label == '"ip (InnerProduct)"'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('type: "ReLU"', "ReLU layers do not have a learning rate multiplier"),
        ('type: "InnerProduct" param {} param {} param {}', "has 3 param"),
    ],
)
def test_lr_mult_of_what_has_none_raises(text, message):
    with pytest.raises(ValueError, match=message):
        draw.get_layer_lr_mult(parse(f'layer {{ name: "x" {text} }}').layer[0])


def test_global_pooling_is_told():
    net = parse('layer{name:"p" type:"Pooling" pooling_param{global_pooling:true}}')
    assert draw.get_layer_label(net.layer[0], "TB") == '"p (Pooling MAX) global"'


def test_names_with_signs_of_graphviz_are_escaped():
    net = parse("""
    layer { name: 'a "b"|{c}:\\\\d' type: "ReLU" bottom: "x:0" top: "y/<1>" }
    """)
    picture = draw.get_pydot_graph(net, "TB")
    assert '"x:0_blob"' in labels(picture)
    assert r"a \"b\"\|\{c\}:\\d (ReLU)" in labels(picture).values()
    [again] = pydot.graph_from_dot_data(picture.to_string())
    assert len(again.get_nodes()) == 3
    assert len(again.get_edges()) == 2


def test_net_in_an_older_form_is_drawn():
    net = parse("""
    input: "data" input_dim: 1 input_dim: 1 input_dim: 4 input_dim: 4
    layers { name: "conv" type: CONVOLUTION bottom: "data" top: "conv"
      convolution_param { num_output: 2 kernel_size: 3 } }
    """)
    before = net.SerializeToString()
    found = labels(draw.get_pydot_graph(net, "TB"))
    assert found['"conv_Convolution"'].startswith("conv (Convolution) kernel size: 3")
    assert net.SerializeToString() == before


def test_costs_are_shown_and_summed():
    picture = draw.get_pydot_graph(
        parse(), "TB", phase=caffe_pb2.TRAIN, display_costs=True, data_shape=(3, 9, 11)
    )
    found = labels(picture)
    assert found['"data_Data"'] == r"data (Data)\n8x3x9x11, 8"
    # 6 filters of 1 x 3 x 5, 8 x 6 x 4 x 4 values of 15 products each.
    assert found['"conv_Convolution"'].endswith(
        r"pad: 0\n8x6x4x4 params: 96 FLOPs: 23.04 k"
    )
    assert found['"relu_ReLU"'] == r"relu (ReLU)\n8x6x4x4"
    # 5 x 54 weights and 5 biases on 8 rows.
    assert found['"ip_InnerProduct"'].endswith("8x5 params: 275 FLOPs: 4.32 k")
    assert found['"loss_SoftmaxWithLoss"'] == r"loss (SoftmaxWithLoss)\n1"
    title = '"small: 371 params, 27.36 k FLOPs a batch"'
    assert picture.get_label() == title


def test_costs_of_all_phases_tell_each_data_layer_its_own():
    picture = draw.get_pydot_graph(
        parse(), "TB", display_costs=True, data_shape=(3, 9, 11)
    )
    found = labels(picture)
    assert found['"data_Data"'].endswith("8x3x9x11, 8")
    assert found['"data_Data#2"'].endswith("4x3x9x11, 4")
    assert found['"ip_InnerProduct"'].endswith("8x5 params: 275 FLOPs: 4.32 k")
    assert found['"accuracy_Accuracy"'] == r"accuracy (Accuracy)\n1"


def test_costs_without_the_data_ask_for_their_shape():
    net = parse(NET.replace("batch_size", 'source: "nowhere" batch_size'))
    with pytest.raises(DataError, match=r"nowhere.* Or: data_shape=\(C, H, W\)\."):
        draw.get_pydot_graph(net, "TB", display_costs=True)


@pytest.mark.parametrize("ext", ["raw", "dot", "gv"])
def test_draw_net_to_file_writes_the_description_without_graphviz(
    tmp_path, monkeypatch, ext
):
    monkeypatch.setenv("PATH", "")
    path = tmp_path / f"net.{ext}"
    path.write_text("older")
    draw.draw_net_to_file(parse(), str(path), "BT", caffe_pb2.TEST, True)
    [again] = pydot.graph_from_dot_data(path.read_text())
    assert again.get_rankdir() == "BT"
    assert len(again.get_nodes()) == 14
    assert list(tmp_path.iterdir()) == [path]


def test_draw_net_without_graphviz_says_so(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match=r"dot, which draws, .* Accepted: Graphviz"):
        draw.draw_net(parse(), "LR")


@needs_dot
def test_draw_net_gives_a_png_and_an_svg():
    assert draw.draw_net(parse(), "LR").startswith(b"\x89PNG")
    assert b">conv</text>" in draw.draw_net(parse(), "LR", "svg")


@needs_dot
def test_draw_net_of_no_format_says_what_dot_says():
    with pytest.raises(ConfigError, match=r'format xyz: dot says: .*"xyz" not recog'):
        draw.draw_net(parse(), "LR", "xyz")


def test_draw_net_to_file_without_extension_raises(tmp_path):
    with pytest.raises(ConfigError, match=r"has no extension .* Accepted: png"):
        draw.draw_net_to_file(parse(), str(tmp_path / "net"))


def test_rankdir_that_does_not_exist_raises():
    with pytest.raises(ValueError, match=r'rankdir is "XY"\. Accepted: TB, BT, LR, RL'):
        draw.get_pydot_graph(parse(), "XY")


def test_layer_with_include_and_exclude_raises_where_a_phase_is_asked_for():
    net = parse('layer { name: "x" type: "ReLU" include {} exclude {} }')
    assert len(draw.get_pydot_graph(net, "LR").get_nodes()) == 1
    with pytest.raises(ValueError, match=r'layer "x" .* both include and exclude') as e:
        draw.get_pydot_graph(net, "LR", phase=caffe_pb2.TEST)
    assert isinstance(e.value, CaffeError)
