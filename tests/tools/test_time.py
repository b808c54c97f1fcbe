"""`jaxcaffe time`: what it refuses, and that its numbers belong together."""

import pathlib

import pytest

from jaxcaffe.errors import CaffeError
from jaxcaffe.tools.time import main

NET = """
layer { name: "data" type: "Input" top: "data"
  input_param { shape { dim: 2 dim: 3 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("deploy.prototxt").write_text(NET)
    pathlib.Path("cut.prototxt").write_text(NET[:-20])
    pathlib.Path("empty.prototxt").write_text("")
    pathlib.Path("solver.prototxt").write_text('net: "deploy.prototxt"\nbase_lr: 1\n')


def test_time_of_a_net_with_inputs_adds_up(capfd):
    assert main(["-model", "deploy.prototxt", "--iterations=3", "-phase=TEST"]) == 0
    text = capfd.readouterr().err
    lines = [line.split("] ", 1)[1] for line in text.splitlines() if "] " in line]

    def value(start: str) -> float:
        (line,) = [line for line in lines if line.startswith(start)]
        return float(line.split(": ")[1].removesuffix(" ms."))

    each = [
        float(line.split(": ")[2].removesuffix(" ms."))
        for line in lines
        if line.startswith("Iteration: ")
    ]
    assert len(each) == 3
    assert value("Total Time") == pytest.approx(sum(each), rel=1e-4)
    mean = value("Average Forward-Backward")
    assert mean == pytest.approx(sum(each) / 3, rel=1e-4)
    forward, backward = (
        value(f"Average {way} pass") for way in ("Forward", "Backward")
    )
    assert backward == pytest.approx(max(mean - forward, 0), rel=1e-3, abs=1e-4)
    assert sum(line.startswith("        ip\t") for line in lines) == 2


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "jaxcaffe time: no net is given. Accepted: -model net.prototxt"),
        (["-model=deplyo.prototxt"], r"no such file.*deploy\.prototxt"),
        (["-model=empty.prototxt"], r"empty\.prototxt: .*empty"),
        (["-model=cut.prototxt"], r"cut\.prototxt:\d+"),
        (["-model=solver.prototxt"], r"solver\.prototxt:1: .*belongs to a solver"),
        (["-model=deploy.prototxt", "-iterations=-1"], "--iterations: is -1"),
        (["-model=deploy.prototxt", "-phase=test"], "--phase.*TRAIN.*TEST"),
        (["-model=deploy.prototxt", "-level=high"], "--level.*high"),
        (["-model=deploy.prototxt", "-gpu=0"], "--gpu: .* only the CPU"),
        (["deploy.prototxt"], "deploy.prototxt"),
    ],
)
def test_time_refuses_what_cannot_be(arguments, problem):
    with pytest.raises(CaffeError, match=problem) as caught:
        main(arguments)
    assert "\n" not in str(caught.value)
