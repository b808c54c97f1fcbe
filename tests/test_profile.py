"""The command profile: its lines, its numbers, and what it refuses."""

import os
import re

import pytest

from jaxcaffe import profile
from jaxcaffe.config import load_config
from jaxcaffe.errors import ConfigError, DataError, PrototxtError
from jaxcaffe.profiling.from_config import open_config
from jaxcaffe.profiling.subject import compile_subject_program
from jaxcaffe.proto import caffe_pb2

LINE = re.compile(r" *(\S+)\t(forward|backward): ([\d.]+) ms\.")
NUMBER = r"(\d+(?:\.\d+)?)"


def run(capsys, *argv):
    assert profile.main([*argv, "--iterations=1"]) == 0
    out = capsys.readouterr().out
    rows = {(m[1], m[2]): float(m[3]) for m in LINE.finditer(out)}
    return out, rows


def shrink(workspace):
    """Leaves only the last layers in the net, to compile quickly."""
    text = (workspace / "net.prototxt").read_text()
    start = text.index('layer {\n  name: "conv"')
    end = text.index('layer {\n  name: "ip2"')
    short = text[:start] + text[end:].replace('"ip1"', '"data"')
    (workspace / "net.prototxt").write_text(short)


def find(pattern, out):
    """Returns the numbers of the first line that fits; N stands for a number."""
    match = re.search(pattern.replace("N", NUMBER), out, re.MULTILINE)
    assert match, (pattern, out)
    return [float(text) for text in match.groups()]


def check_totals(out, rows):
    for word in ("Forward", "Backward"):
        parts = sum(ms for (_, way), ms in rows.items() if way == word.lower())
        assert find(rf"^Average {word} pass: N ms\.$", out) == [
            pytest.approx(parts, rel=2e-3)
        ]
    both = sum(rows.values())
    assert find(r"^Average Forward-Backward: N ms\.$", out) == [
        pytest.approx(both, rel=2e-3)
    ]
    assert find(r"^Total Time: N ms\.$", out) == [pytest.approx(both, rel=2e-3)]


def check_program(out, title, images):
    """Checks one program's lines and returns them, with what follows."""
    block = out[out.index(title) :]
    compiled = (
        r"^  Compile time: N s \(N s tracing, N s XLA(?:, kept from an .* start)?\)$"
    )
    total, tracing, xla = find(compiled, block)
    assert total == pytest.approx(tracing + xla, rel=0.02)
    step, image, rate = find(r"^  Time: N ms/step, N ms/image, N images/s$", block)
    assert image == pytest.approx(step / images, rel=2e-3)
    assert rate == pytest.approx(images / step * 1e3, rel=2e-3)
    assert find(r"^  Peak memory: N [kMG]B$", block)[0] > 0
    assert find(r"^  Memory traffic: N [kMG]B/step as XLA .* N [kMG]B/s, N%", block)
    assert find(r"^  Computation: N [kMG]FLOP/step, N [kMG]FLOP/s, N% of th", block)
    return block


def test_profile_of_a_solver_times_layers_and_the_training_step(workspace, capsys):
    shrink(workspace)
    before = sorted(os.listdir())
    out, rows = run(capsys, "solver.prototxt", "--trace=trace", "--config.seed=3")
    assert "Net small of solver.prototxt, phase TRAIN\n8 images per step, 1 CPU" in out
    assert find(r"^Measured peak .*: N [GT]FLOP/s .*, N [GT]B/s \(memory\)$", out)
    layers = ["data", "ip2", "loss", "augment"]
    assert [name for name, way in rows if way == "forward"] == layers
    assert rows["data", "backward"] == 0
    assert min(rows[name, "backward"] for name in ("ip2", "loss")) > 0
    assert min(rows[name, "forward"] for name in layers) > 0
    check_totals(out, rows)
    block = check_program(out, "Training step (augment, forward, backward, upd", 8)
    share, _ = find(r"^  Waiting for data: N% of that \(N ms/step on a batch al", block)
    assert 0 <= share < 100
    check_program(out, "Forward alone, compiled", 8)
    assert "K40" not in out
    traced = [name for _, _, names in os.walk("trace") for name in names]
    assert any(name.endswith(".xplane.pb") for name in traced)
    assert sorted(os.listdir()) == sorted([*before, "trace"])


def test_profile_counts_every_batch_of_iter_size(workspace):
    def compile_step(path):
        asked = caffe_pb2.NetState(phase=caffe_pb2.TRAIN)
        subject = open_config(load_config(path), path, asked)
        try:
            step = compile_subject_program(subject.programs[0])
        finally:
            subject.close()
        return subject, step.cost

    shrink(workspace)
    _, once = compile_step("solver.prototxt")
    with open("solver.prototxt", "a") as file:
        file.write("iter_size: 3\n")
    subject, thrice = compile_step("solver.prototxt")
    assert subject.images == 24
    assert subject.feeds["data"].shape == (8, 3, 12, 12)
    # The update, which is done once, is small.
    assert 2.2 < thrice.flops / once.flops <= 3.2
    assert "of 3 batches" in subject.programs[0].title
    assert "of one batch" in subject.programs[1].title


def test_profile_of_a_test_net_has_no_update(workspace, capsys):
    shrink(workspace)
    out, rows = run(capsys, "solver.prototxt", "--phase=TEST")
    assert "phase TEST" in out
    assert ("accuracy", "forward") in rows
    assert rows["accuracy", "backward"] == 0
    assert rows["loss", "backward"] > 0
    check_totals(out, rows)
    check_program(out, "Test step (augment, forward), compiled", 8)
    assert "Training step" not in out


def test_profile_of_a_net_needs_no_data_with_shape(workspace, capsys):
    shrink(workspace)
    text = (workspace / "net.prototxt").read_text().replace("train_lmdb", "gone")
    text = text.replace('"small"', '"CaffeNet"')
    (workspace / "gone.prototxt").write_text(text)
    with pytest.raises(DataError, match=r"gone: no such.* Or: --shape=C,H,W, to time"):
        profile.main(["gone.prototxt"])
    out, rows = run(capsys, "gone.prototxt", "--shape=3,16,16")
    assert rows["ip2", "forward"] > 0
    assert (rows["data", "forward"], rows["data", "backward"]) == (0, 0)
    check_totals(out, rows)
    check_program(out, "Forward, compiled", 8)
    check_program(out, "Forward and backward, compiled", 8)
    assert out.endswith(
        "5.2 ms/image for forward and backward, 2 ms/image of it forward.\n"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('name: "a" layer { name: "b" type: "Input" top: "c" }', True),
        ('input: "data" input_dim: 1 layers { type: RELU }', True),
        ('net: "a.prototxt" base_lr: 1', False),
        ('net_param { name: "x" layer { } } type: "SGD"', False),
        ('# layer { }\ntrain_net: "a" base_lr: 0.1', False),
    ],
)
def test_is_net_tells_by_the_fields(tmp_path, text, expected):
    (tmp_path / "a.prototxt").write_text(text)
    assert profile.is_net(str(tmp_path / "a.prototxt")) is expected
    assert profile.is_net("configs/any.py") is False


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        ("solver.prototxt --iterations=0", "--iterations: is 0. Accepted: at least 1"),
        ("solver.prototxt --shape=3,8,8", "--shape: solver.prototxt has data of its"),
        ("solver.prototxt --phase=VAL", "--phase: invalid choice: 'VAL'"),
        ("solver.prototxt --trace=train_lmdb", "--trace=train_lmdb: exists already"),
        ("solver.prototxt --trace=net.prototxt", "--trace=net.prototxt: exists alr"),
        ("solver.prototxt --config.sed=1", 'unknown field "sed". Accepted: seed'),
        ("net.prototxt --config.seed=1", "--config.seed=1: net.prototxt is a net"),
        ("net.prototxt --shape=3,a", '--shape: "3,a" is no shape. Accepted: 3,227'),
        ("none.prototxt", "none.prototxt: no such file"),
    ],
)
def test_profile_refuses_wrong_flags(workspace, argv, problem):
    with pytest.raises(ConfigError, match=problem):
        profile.main(argv.split())


def test_profile_of_test_phase_without_test_net_is_refused(workspace):
    text = (workspace / "solver.prototxt").read_text()
    text = text.replace("test_iter: 2", "").replace("test_interval: 10", "")
    (workspace / "untested.prototxt").write_text(text)
    with pytest.raises(ConfigError, match=r"is TEST, and untested.prototxt has no"):
        profile.main(["untested.prototxt", "--phase=TEST"])


def test_profile_of_a_net_that_does_not_parse_names_the_line(workspace):
    (workspace / "bad.prototxt").write_text('name: "a"\nlayer { nam: "x" }\n')
    with pytest.raises(PrototxtError, match=r"bad.prototxt:2: .*nam"):
        profile.main(["bad.prototxt"])
