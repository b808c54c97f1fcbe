import pytest

from jaxcaffe import profile, train
from jaxcaffe.classifier import read_input_shape
from jaxcaffe.errors import ConfigError
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.solver.nets import ask, merge_state, solver_nets
from jaxcaffe.tools import cli
from jaxcaffe.tools.state_flags import add_state_flags, read_state

TRAIN, TEST = caffe_pb2.TRAIN, caffe_pb2.TEST


def parse(*argv):
    parser = cli.Parser("tool", "what it does")
    add_state_flags(parser)
    return read_state(parser.parse(argv), TRAIN)


@pytest.mark.parametrize(
    ("argv", "level", "stages"),
    [
        ((), None, []),
        (("-level", "2"), 2, []),
        (("--level=-1", "--stage=a,b"), -1, ["a", "b"]),
        (
            (
                "-stage",
                "deploy",
            ),
            None,
            ["deploy"],
        ),
        (("--level=0", "--stage=a,,b,"), 0, ["a", "b"]),
    ],
)
def test_read_state_holds_what_is_given(argv, level, stages):
    state = parse(*argv)
    assert state.phase == TRAIN
    assert (state.level if state.HasField("level") else None) == level
    assert list(state.stage) == stages


def test_level_that_is_no_number_is_refused():
    with pytest.raises(ConfigError, match="--level: invalid int value: 'high'"):
        parse("--level=high")


SOLVER = caffe_pb2.SolverParameter(
    net="n",
    test_iter=[1],
    test_interval=1,
    train_state={"level": 1, "stage": ["s"]},
    test_state=[{"level": 3}],
)
NET = caffe_pb2.NetParameter(state={"stage": ["n"]})


def test_ask_puts_the_command_line_over_the_solvers_train_state():
    uses = ask(solver_nets(SOLVER), parse("--level=5", "--stage=c"))
    state = merge_state(uses.train, NET)
    assert (state.phase, state.level, list(state.stage)) == (TRAIN, 5, ["n", "s", "c"])
    state = merge_state(uses.tests[0], NET)
    assert (state.phase, state.level, list(state.stage)) == (TEST, 3, ["n"])
    assert SOLVER.train_state.level == 1


def test_ask_without_a_level_keeps_the_solvers():
    uses = ask(solver_nets(SOLVER), parse("--stage=c"))
    assert uses.train.state.level == 1
    assert ask(uses, None) == uses


def test_ask_for_the_test_phase_goes_to_the_test_nets():
    asked = caffe_pb2.NetState(phase=TEST, level=7)
    uses = ask(solver_nets(SOLVER), asked)
    assert uses.tests[0].state.level == 7
    assert uses.train.state.level == 1


STAGED = """
layer { name: "x" type: "Input" top: "x" exclude { stage: "wide" }
  input_param { shape { dim: 1 dim: 3 dim: 2 dim: 2 } } }
layer { name: "x" type: "Input" top: "x" include { stage: "wide" min_level: 1 }
  input_param { shape { dim: 1 dim: 3 dim: 2 dim: 8 } } }
layer { name: "top" type: "Power" bottom: "x" top: "top" include { min_level: 2 } }
layer { name: "end" type: "ReLU" bottom: "x" top: "end" }
"""


@pytest.fixture
def staged(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text(STAGED)
    return str(path)


def test_read_input_shape_of_a_stage(staged):
    assert read_input_shape(staged) == (3, 2, 2)
    assert read_input_shape(staged, 1, ["wide"]) == (3, 2, 8)


@pytest.mark.parametrize("level", [0, 2])
def test_profile_times_the_layers_of_level_and_stage(staged, capfd, level):
    argv = [staged, f"--level={level}", "--stage=other", "--iterations=1"]
    assert profile.main(argv) == 0
    out = capfd.readouterr().out
    assert ("top\tforward" in out) == (level == 2)
    assert "end\tforward" in out


def test_train_hands_level_and_stages_to_the_run(monkeypatch, tmp_path):
    solver = tmp_path / "s.prototxt"
    solver.write_text('net: "n" base_lr: 1 lr_policy: "fixed"')
    asked = []
    monkeypatch.setattr(train, "train", lambda *args: asked.append(args[4]))
    assert train.main([str(solver), "--level=2", "--stage=a,b"]) == 0
    assert asked == [caffe_pb2.NetState(phase=TRAIN, level=2, stage=["a", "b"])]
