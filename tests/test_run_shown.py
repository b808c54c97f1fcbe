"""What is seen of a run besides its log: the terminal's last line, TensorBoard."""

import errno
import glob
import io
import pathlib
import re
import struct
import sys
import types

import cv2
import numpy as np
import pytest

from jaxcaffe import board, log
from jaxcaffe.config import load_config
from jaxcaffe.errors import ConfigError
from jaxcaffe.filter_grid import tile_filters
from jaxcaffe.run_view import RunView
from jaxcaffe.terminal import describe_run, show_run
from jaxcaffe.train import train

event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")


WITHOUT_LAYERS = types.SimpleNamespace(graph=types.SimpleNamespace(nodes=()), params=())


class Terminal(io.StringIO):
    def isatty(self):
        return True


def read_events(folder):
    """Reads TensorBoard's records: length, checksum, message, checksum."""
    events = []
    for path in sorted(glob.glob(f"{folder}/events.*")):
        data = pathlib.Path(path).read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            events.append(event_pb2.Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return events


def test_run_on_a_terminal_with_tensorboard_shows_line_curves_and_filters(
    workspace, monkeypatch
):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    overrides = ["max_iter=11", "tensorboard=True", "snapshot.caffe=False"]
    result = train(load_config("solver.prototxt", overrides))

    drawn = terminal.getvalue()
    assert re.search(r"Iteration \d+/11", drawn)
    kept = pathlib.Path("small_run/train.log").read_text()
    assert "\x1b" not in kept
    assert "/11 " not in kept
    # Lines of the log come through whole, however wide the terminal; but how the nets
    # are made stands in the file alone.
    lines = [line for line in kept.splitlines() if re.match(r"[IWE]\d{4} ", line)]
    assert sum(line.endswith("Network initialization done.") for line in lines) == 2
    for line in lines:
        assert (line in drawn) == (" construction.py:" not in line)

    events = read_events("small_run/tensorboard")
    assert events[0].file_version == "brain.Event:2"
    shown = {
        (event.step, value.tag): value
        for event in events
        for value in event.summary.value
    }
    for row in log.read_scalars("small_run/scalars.jsonl"):
        iteration = row.pop("iter")
        for name, value in row.items():
            assert shown[iteration, name].simple_value == np.float32(value)
    image = shown[10, "filters/conv"].image
    pixels = cv2.imdecode(
        np.frombuffer(image.encoded_image_string, np.uint8), cv2.IMREAD_COLOR
    )
    assert pixels.shape == (image.height, image.width, 3)
    drawn = {step for step, tag in shown if tag == "filters/conv"}
    assert drawn == {0, 10}
    # One update lies between this picture and the weights that the run ends with.
    weight = np.asarray(result.state.params["conv"]["weight"])
    grid = tile_filters(weight).repeat(8, 0).repeat(8, 1)[..., ::-1]
    assert np.abs(pixels.astype(int) - grid).mean() < 10


def test_run_goes_on_in_tensorboard_where_it_left_off(tmp_path):
    for first in (0, 7):
        opened = board.open_board(str(tmp_path / str(first)), WITHOUT_LAYERS, first)
        opened.write(first, loss=1.5, scores=[1.0, 2.0])
        opened.draw(first, {})
        opened.close()
        _, start, row = read_events(tmp_path / str(first))
        assert start.session_log.status == event_pb2.SessionLog.START
        assert start.step == row.step == first
        assert {v.tag: v.simple_value for v in row.summary.value} == {
            "loss": 1.5,
            "scores/0": 1.0,
            "scores/1": 2.0,
        }


def test_tensorboard_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ConfigError, match=r"jaxcaffe\[tensorboard\]"):
        board.open_board(str(tmp_path / "b"), None, 0)


def test_full_disk_under_tensorboard_is_one_error_in_the_log(tmp_path, monkeypatch):
    from tensorboardX import event_file_writer

    opened = board.open_board(str(tmp_path), WITHOUT_LAYERS, 0)

    def fail(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(event_file_writer.EventsWriter, "write_event", fail)
    lines = []
    with log.logging_to(None), log.through(lines.append):
        opened.write(0, loss=1.0)
        opened.write(1, loss=1.0)
    assert len(lines) == 1
    assert "No space left on device" in lines[0]
    assert "The run goes on" in lines[0]


def test_show_run_away_from_a_terminal_draws_nothing(capfd):
    with show_run(RunView(10)):
        pass
    assert capfd.readouterr().err == ""


def test_describe_run_tells_what_is_known():
    view = RunView(400, images=64)
    assert describe_run(view) == "Iteration 0/400"
    view.show(loss=2.30259, speed=0.1)  # mostly compilation
    view.iteration = 20
    view.accuracy = 0.98125
    view.show(loss=0.5, speed=12.5)
    text = describe_run(view)
    assert text.startswith(
        "Iteration 20/400  loss 0.5  accuracy 0.9812  800 images/s  "
    )
    assert re.search(r"  \d+:\d\d:\d\d left$", text)
    view.testing = 1
    assert "  testing net #1  " in describe_run(view)
    view.images = 0
    assert "  12.5 iterations/s" in describe_run(view)
