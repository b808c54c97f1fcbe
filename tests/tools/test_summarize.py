import pathlib
import re

import pytest

from jaxcaffe.errors import ConfigError, PrototxtError
from jaxcaffe.tools import summarize

NET = """
layer { name: "data" type: "Python" top: "data" top: "label"
  python_param { module: "feeds" layer: "Feed" } }
layer {
  name: "conv" type: "Convolution" bottom: "data" top: "conv"
  param { name: "w" } param { lr_mult: 2 decay_mult: 0 }
  convolution_param { num_output: 6 kernel_size: 3 stride: 2 pad: 1 group: 2 }
}
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" param { lr_mult: 1 } }
layer {
  name: "tall" type: "Deconvolution" bottom: "conv" top: "tall"
  convolution_param { num_output: 6 kernel_h: 3 kernel_w: 5 stride: 2 stride: 1 }
}
layer { name: "pool" type: "Pooling" bottom: "tall" top: "pool"
  pooling_param { kernel_size: 2 stride: 2 pad: 1 } }
layer { name: "all" type: "Pooling" bottom: "pool" top: "all"
  pooling_param { global_pooling: true } }
layer { name: "loss" type: "EuclideanLoss" bottom: "all" bottom: "other" top: "loss"
  loss_weight: 0.5 }
"""
TABLE = """\
data feeds.Feed                             -> data, label
conv Convolution   (w, x2.0 Dx0.0) data       -> conv        3/2+1 6/2
relu ReLU                          conv       -> conv
tall Deconvolution                 conv       -> tall        3x5/2x1 6
pool Pooling                       tall       -> pool        2/2+1
all  Pooling                       pool       -> all         global
loss EuclideanLoss                 all, other -> 0.5 * loss
"""
OLD = 'layers { name: "a" type: POOLING bottom: "x" top: "y" }\n'


@pytest.fixture
def net(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text(NET)
    return str(path)


def test_summarize_prints_a_line_for_each_layer(net, capsys):
    assert summarize.main([net]) == 0
    said = capsys.readouterr().out
    squeeze = re.compile(" +").sub
    assert squeeze(" ", said) == squeeze(" ", TABLE)
    arrows = [line.index("->") for line in said.splitlines()]
    assert len(set(arrows)) == 1


@pytest.mark.parametrize("flag", [["-w", "6"], ["--max-width=6"], ["--max_width", "6"]])
def test_summarize_narrow_columns_let_texts_flow_over(net, capsys, flag):
    summarize.main([net, *flag])
    narrow = capsys.readouterr().out.splitlines()
    assert narrow[1] == "conv Convolution (w, x2.0 Dx0.0) data -> conv 3/2+1 6/2"


def test_summarize_colours_tell_who_makes_a_blob(net, capsys):
    summarize.main([net, "--color=always"])
    lines = capsys.readouterr().out.splitlines()
    assert "\033[92mdata\033[0m" in lines[0]
    assert "\033[93m\033[1;4mlabel\033[0m" in lines[0]  # nobody reads it
    assert "\033[92mdata\033[0m" in lines[1]
    assert "\033[41mother\033[0m" in lines[6]  # nobody makes it


def test_summarize_old_net_is_upgraded(tmp_path, capsys):
    path = tmp_path / "old.prototxt"
    path.write_text(OLD)
    summarize.main([str(path)])
    assert capsys.readouterr().out == "a Pooling  x -> y 0\n"


def test_lay_out_no_rows_is_no_lines():
    assert summarize.lay_out([], 30) == []


@pytest.mark.parametrize(
    ("argv", "error", "message"),
    [
        (["nowhere"], PrototxtError, "nowhere: no such file"),
        (["broken"], PrototxtError, "broken:1"),
        (["."], PrototxtError, r"\.: "),
        ([], ConfigError, "required: NET"),
        (["net.prototxt", "-w", "x"], ConfigError, "max_width: invalid int"),
        (["net.prototxt", "-w", "0"], ConfigError, "--max_width is 0|is 0"),
        (["net.prototxt", "-w"], ConfigError, "has no value"),
        (["net.prototxt", "--color=red"], ConfigError, "color: invalid choice"),
    ],
)
def test_summarize_bad_input_is_refused(
    net, tmp_path, monkeypatch, argv, error, message
):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("broken").write_text("layer { name: ")
    with pytest.raises(error, match=message):
        summarize.main(argv)
