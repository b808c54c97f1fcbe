import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcaffe.errors import PrototxtError
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.proto.text import (
    format_message,
    parse_net,
    parse_solver,
    read_net,
    read_solver,
    write_text,
)

NET = """# net {
name: 'quotes "inside" {'
layer { name: "a" type: "Input" } layer {
  name: "b" # }
  type: "ReLU" }
layer: {
  type: "Convolution"
  name: "c" "d"
  convolution_param < num_output: 3 weight_filler { type: "x}{<" } >
}
layer <
  name: "b"
>
"""


def test_source_of_odd_layout_has_line_of_each_layer():
    _, source = parse_net(NET, "net.prototxt")
    assert source.lines == {"a": (3,), "b": (3, 11), "cd": (6,)}


def test_locate_of_second_occurrence_gives_its_line():
    _, source = parse_net(NET, "net.prototxt")
    assert source.locate("b", 1) == "net.prototxt:11"


@pytest.mark.parametrize(("name", "occurrence"), [("zz", 0), ("a", 1), ("a", -1)])
def test_locate_of_unknown_layer_gives_path(name, occurrence):
    _, source = parse_net(NET, "net.prototxt")
    assert source.locate(name, occurrence) == "net.prototxt"


def test_source_of_list_form_has_line_of_each_brace():
    _, source = parse_net('layer: [ { name: "a" },\n { name: "b" } ]', "n")
    assert source.lines == {"a": (1,), "b": (2,)}


def test_source_of_old_layers_has_v0_and_v1_names():
    text = 'layers {\n layer { name: "a" type: "relu" }\n}\nlayers { name: "b" }'
    _, source = parse_net(text, "n")
    assert source.lines == {"a": (1,), "b": (4,)}


def test_source_of_solver_has_layers_of_each_inline_net():
    text = """base_lr: 0.1
train_net_param { layer { name: "data" } }
test_net_param {
  layer { name: "data" } }
test_net_param {

  layer { name: "data" } layer { name: "x" } }
"""
    _, source = parse_solver(text, "s")
    assert source.lines == {"data": (2, 4, 7), "x": (7,)}
    assert source.net("test_net_param", 1).lines == {"data": (7,), "x": (7,)}
    assert source.net("train_net_param").locate("data") == "s:2"
    assert source.net("net_param").locate("data") == "s"


def test_source_pickled_is_equal():
    _, source = parse_solver('net_param { layer { name: "a" } }', "s")
    assert pickle.loads(pickle.dumps(source)) == source


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "layer { convolution_param {\n num_outputs: 6 } }",
            r'f:2: ConvolutionParameter has no field "num_outputs"\. '
            r"Accepted: num_output\.$",
        ),
        (
            "layer {\n\npooling_param { pool: MEDIAN } }",
            r"f:3: pool is MEDIAN\. Accepted: MAX, AVE, STOCHASTIC\.$",
        ),
        (
            'layers { type: "Convolution" }',
            r'f:1: type is "Convolution"\. Accepted: CONVOLUTION, DECONVOLUTION\.$',
        ),
        ("layer { pooling_param { pool: 7 } }", r"f:1: pool is 7\. Accepted: MAX,"),
        (
            'layer {\n convolution_param { num_output: "six" } }',
            r'f:2: num_output is "six"\. Accepted: a whole number from 0',
        ),
        ("layer { convolution_param { pad: -1 } }", "f:1: pad is -1"),
        ("input_dim: 1.0", r"f:1: input_dim is 1\.0\. Accepted: a whole number"),
        ("input_dim: 99999999999", "f:1: input_dim is 99999999999"),
        ("input_dim: 08", "f:1: input_dim is 08"),
        ("force_backward: yes", r"f:1: force_backward is yes\. Accepted: true, false"),
        ("name: a", "f:1: name is a. Accepted: text in quotes"),
        ("layer { loss_weight: big }", r"loss_weight is big\. Accepted: a number"),
        ('name "a"', r'f:1: name is followed by "a"\. Accepted: ":" and text'),
        ("name: ", "f:1: name is followed by the end of the file"),
        ("layer { convolution_param: 5 }", r"Accepted: convolution_param \{ \.\.\. \}"),
        ('name: "a"\nlayer {}\nname: "b"', "f:3: name of NetParameter is set twice, f"),
        (
            "layer { pooling_param { pool: MAX }\n pooling_param { pool: AVE } }",
            "f:2: pooling_param of LayerParameter is set twice, first on line 1",
        ),
        (
            'layer {\n name: "a"\n\n\nlayer {\n}',
            'f:5: LayerParameter has no field "layer"; .* line 1 may lack its closing',
        ),
        (
            "layer {\n}\nlayer {\n include {\n}\n",
            'f:5: the file ends inside "layer {" of line 3: a closing brace is missing',
        ),
        ("layer {\n}\n}", 'f:3: "}" closes nothing'),
        ("layer {\n>", 'f:2: ">" closes "layer {" of line 1. Accepted: "}"'),
        ('name: "a\n', "f:1: name: a string does not end"),
        ('name: "a" @', "f:1: @ stands where the name of a field is expected. Ac"),
        ("input_dim: [1; 2]", '";" is out of place after input_dim'),
        ("layer {\n loss_weight: }", "f:2: loss_weight is followed by }"),
        ("layer {\n clip_param { min: 1 }\n}", "f:2: clip_param lacks max"),
        ("base_lr: 0.1", "belongs to a solver, and a net was expected here"),
        ("# only a comment", "f: the file says nothing"),
        ('\nname: "\udce9"', "f:2: not a text file in UTF-8"),
        ('name: "\x01"', "f:1: not a text file in UTF-8"),
    ],
)
def test_parse_net_of_wrong_text_says_where_and_what(text, message):
    with pytest.raises(PrototxtError, match=message):
        parse_net(text, "f")


@pytest.mark.parametrize(
    "value", ["1_000", "+5", "0b11", "0o17"], ids=["under", "plus", "binary", "octal"]
)
def test_parse_net_of_number_caffe_refuses_is_refused(value):
    with pytest.raises(PrototxtError, match=r"f:1: input_dim is .*does not read"):
        parse_net(f"input_dim: {value}", "f")


def test_parse_net_of_escape_caffe_refuses_is_refused():
    with pytest.raises(PrototxtError, match=r"f:1: name is .*does not read"):
        parse_net(r'name: "C:\data"', "f")


def test_parse_solver_of_net_says_so():
    with pytest.raises(PrototxtError, match="belongs to a net, and a solver was expec"):
        parse_solver('name: "LeNet"', "f")


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1f", 1.0),
        (".5", 0.5),
        ("2.", 2.0),
        ("1E3", 1000.0),
        ("1e-3f", 0.001),
        ("-inf", float("-inf")),
        ("3", 3.0),
        ("-0.5", -0.5),
        ("1.5F", 1.5),
    ],
)
def test_parse_net_of_float_reads_what_caffe_reads(written, value):
    net, _ = parse_net(f"layer {{ loss_weight: {written} }}", "f")
    assert net.layer[0].loss_weight[0] == pytest.approx(value, rel=1e-7)


@pytest.mark.parametrize(("written", "value"), [("0x1F", 31), ("010", 8), ("-3", -3)])
def test_parse_net_of_integer_reads_what_caffe_reads(written, value):
    net, _ = parse_net(f"input_dim: {written}", "f")
    assert list(net.input_dim) == [value]


@pytest.mark.parametrize("written", ["1", "t", "true", "True"])
def test_parse_net_of_bool_reads_what_caffe_reads(written):
    assert parse_net(f"force_backward: {written}", "f")[0].force_backward


def test_read_net_with_mark_and_foreign_comment_is_read(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_bytes(b'\xef\xbb\xbfname: "n" # caf\xe9\r\nlayer { name: "a" }\r\n')
    net, source = read_net(path)
    assert net.name == "n"
    assert source.locate("a") == f"{path}:2"


def test_read_net_of_missing_file_names_its_neighbours(tmp_path):
    (tmp_path / "train_val.prototxt").write_text("name: 'n'")
    with pytest.raises(PrototxtError, match=r"no such file\. Accepted: .*train_val\.p"):
        read_net(tmp_path / "train_vla.prototxt")


def test_read_net_in_missing_folder_names_the_folder(tmp_path):
    with pytest.raises(PrototxtError, match=r'the folder ".*/none" does not exist'):
        read_net(tmp_path / "none" / "net.prototxt")


def test_read_solver_of_folder_is_refused(tmp_path):
    with pytest.raises(PrototxtError, match="is a folder"):
        read_solver(tmp_path)


def test_read_solver_of_empty_file_is_refused(tmp_path):
    (tmp_path / "s.prototxt").touch()
    with pytest.raises(PrototxtError, match="the file is empty"):
        read_solver(tmp_path / "s.prototxt")


def test_read_net_of_weights_is_refused(golden):
    with pytest.raises(PrototxtError, match="not a text file"):
        read_net(golden / "v1.caffemodel")


@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=st.data())
def test_parse_net_of_damaged_text_parses_or_says_where(data):
    start = data.draw(st.integers(0, len(NET)))
    stop = data.draw(st.integers(start, min(len(NET), start + 5)))
    noise = data.draw(st.text("{}<>[]:\"'#\\ \nname0.+-,", max_size=3))
    try:
        parse_net(NET[:start] + noise + NET[stop:], "f")
    except PrototxtError as error:
        assert str(error).startswith("f:")  # noqa: PT017 (parsing is allowed too)


def test_format_message_of_what_caffe_wrote_is_the_same_text(golden):
    files = sorted(golden.glob("*.upgraded"))
    assert len(files) > 15
    for file in files:
        read = read_solver if file.name.startswith("solver") else read_net
        assert format_message(read(file)[0]) == file.read_text(), file.name


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0.1, "0.1"),
        (1.0, "1"),
        (1e-5, "1e-05"),
        (16777216.0, "16777216"),
        (0.441227496, "0.441227496"),
        (3.4028234663852886e38, "3.40282347e+38"),
        (1e10, "1e+10"),
        (-0.0, "-0"),
        (float("inf"), "inf"),
        (float("nan"), "nan"),
    ],
)
def test_format_message_of_float_has_digits_of_caffe(value, written):
    layer = caffe_pb2.LayerParameter(loss_weight=[value])
    assert format_message(layer) == f"loss_weight: {written}\n"


def test_format_message_of_string_escapes_as_caffe():
    net = caffe_pb2.NetParameter(name="é \"q\" 'r' \\ \n\t\x01")
    assert (
        format_message(net) == 'name: "\\303\\251 \\"q\\" \\\'r\\\' \\\\ \\n\\t\\001"\n'
    )


def test_write_text_read_back_is_equal_and_leaves_no_part(tmp_path):
    net, _ = parse_net(NET, "n")
    write_text(tmp_path / "out.prototxt", net)
    assert read_net(tmp_path / "out.prototxt")[0] == net
    assert [p.name for p in tmp_path.iterdir()] == ["out.prototxt"]


def test_write_text_into_missing_folder_is_refused(tmp_path):
    with pytest.raises(PrototxtError, match="cannot be written"):
        write_text(tmp_path / "none" / "out.prototxt", caffe_pb2.NetParameter())
