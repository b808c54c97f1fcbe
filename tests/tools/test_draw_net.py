import pathlib
import shutil

import cv2
import pytest

from jaxcaffe.errors import ConfigError, PrototxtError
from jaxcaffe.pycaffe import draw
from jaxcaffe.tools import draw_net

LENET = str(
    pathlib.Path(__file__).parents[2] / "prototxt" / "lenet_digits" / "deploy.prototxt"
)
NET = """
layer {
  name: "data" type: "Data" top: "data" top: "label"
  data_param { source: "nowhere" batch_size: 8 backend: LMDB }
}
layer {
  name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  param { lr_mult: 3 } inner_product_param { num_output: 5 }
}
layer {
  name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss"
  include { phase: TRAIN }
}
"""
needs_dot = pytest.mark.skipif(
    shutil.which("dot") is None, reason="Graphviz is not installed"
)


@pytest.fixture
def net(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text(NET)
    return str(path)


def run(*argv):
    out = pathlib.Path(argv[1])
    assert draw_net.main([*map(str, argv)]) == 0
    return out.read_text()


def test_draw_net_shows_shapes_values_and_flops(tmp_path, capsys):
    out = tmp_path / "net.dot"
    text = run(LENET, out)
    assert "rankdir=LR" in text
    assert "LeNet_digits: 30.36 k params, 21.18 M FLOPs a batch" in text
    assert r"60x20x8x8\nparams: 200\nFLOPs: 1.382 M" in text
    assert "lr mult" not in text
    assert capsys.readouterr().out == f"Drawing net to {out}\n"


def test_draw_net_flags_in_both_forms(net, tmp_path):
    text = run(
        net, tmp_path / "a.dot", "-rankdir", "TB", "--display_lrm", "--shape=1,4,4"
    )
    assert "rankdir=TB" in text
    assert r"ip (InnerProduct) lr mult: 3.0, 1.0\n8x5 params: 85 FLOPs: 1.28 k" in text
    text = run(
        net, tmp_path / "b.dot", "--phase=TEST", "--nodisplay_costs", "-rankdir=RL"
    )
    assert "loss" not in text
    assert "params" not in text


def test_draw_net_missing_data_draws_without_costs_and_says_why(net, tmp_path, capsys):
    text = run(net, tmp_path / "a.dot")
    assert "ip_InnerProduct" in text
    assert "params" not in text
    said = capsys.readouterr().err
    assert said.startswith("Drawn without shapes and costs, for which the net must run")
    assert 'layer "data" (Data): nowhere: no such file' in said
    assert said.endswith("Or: --shape=C,H,W.\n")


@needs_dot
@pytest.mark.parametrize(
    ("ext", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")]
)
def test_draw_net_makes_each_kind_of_picture(tmp_path, ext, start):
    out = tmp_path / f"net.{ext}"
    assert draw_net.main([LENET, str(out)]) == 0
    content = out.read_bytes()
    assert content.startswith(start)
    if ext == "png":
        assert cv2.imread(str(out)).shape[1] > 1000
    else:
        assert len(content) > 5000


def test_draw_net_without_graphviz_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="Graphviz's command dot"):
        draw_net.main([LENET, str(tmp_path / "a.png")])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("argv", "error", "message"),
    [
        (["nowhere", "a.dot"], PrototxtError, "nowhere: no such file"),
        (["empty", "a.dot"], PrototxtError, "empty: "),
        (["picture", "a.dot"], PrototxtError, "picture:1: not a text file"),
        (["both", "a.dot"], draw.DrawError, "has both include and exclude"),
        ([LENET], ConfigError, "required: OUT"),
        ([LENET, "a.txt"], ConfigError, r'a\.txt: has the extension "txt"'),
        ([LENET, "a"], ConfigError, "a: has no extension"),
        ([LENET, "a.dot", "--rankdir=XY"], ConfigError, "rankdir: invalid choice"),
        ([LENET, "a.dot", "--phase=BOTH"], ConfigError, "phase: invalid choice"),
        ([LENET, "a.dot", "--shape=3,x"], ConfigError, '--shape: "3,x" is no shape'),
        ([LENET, "mine.dot"], ConfigError, r"mine\.dot: exists already"),
        ([LENET, "no/a.dot"], ConfigError, r"no/a\.dot: cannot be written"),
    ],
)
def test_draw_net_bad_input_is_refused(tmp_path, monkeypatch, argv, error, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").write_text("")
    (tmp_path / "picture").write_bytes(b"\x89PNG\r\n\x00\xff")
    rules = (
        'layer { name: "a" type: "ReLU" include { phase: TEST } exclude { level: 1 } }'
    )
    (tmp_path / "both").write_text(rules.replace("level", "min_level"))
    (tmp_path / "mine.dot").write_text("mine")
    if "both" in argv:
        argv = [*argv, "--phase=TEST"]
    with pytest.raises(error, match=message):
        draw_net.main(argv)
    assert (tmp_path / "mine.dot").read_text() == "mine"
    assert not (tmp_path / "a.dot").exists()
