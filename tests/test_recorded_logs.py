"""Our commands' logs beside those of Caffe for the same command lines and files.

golden/logs/recorded.json has, per command line, Caffe's exit status, the signals that
it was sent and after which line, and what it logged: of a text of many lines the first,
and the construction of nets only in some.
"""

import json
import logging
import os
import pathlib
import re
import shutil
import signal

import pytest

from jaxcaffe import __main__ as entry
from jaxcaffe.errors import CaffeError
from jaxcaffe.log import CONSTRUCTION, logger

GOLDEN = pathlib.Path(__file__).parent / "golden"
RECORDED = {
    case["name"]: case
    for case in json.loads((GOLDEN / "logs" / "recorded.json").read_text())
}

# Lines that Caffe has not.
OURS = "|".join(
    (
        r"Using \d+ \w+ device\(s\)",
        r"Layer \w+: \d+ records",
        r"Layer \w+ has no weights in",
        r"solver field \w+: ",
        r"Test score #\d+: ",
        r"Snapshotting to \w+/snapshots/\d+$",
        r"Snapshotting to snaps/\w+/snapshots/\d+$",
        r"Snapshot of iteration \d+ is complete: ",
        r"Copied the weights of \d+ layers from ",
        r"Copying the weights of ",
        r"Ignoring source layer ",
        r"A solverstate holds no data positions: ",
        r"The snapshot has weights of its own",
        # Of time: what transform_param asks for is done for all layers together.
        r"   augment\t",
        # Of device_query: Caffe without GPUs has nothing to tell.
        r"(Device id|Platform|Name|Memory (that|in use)[\w ()]*): ",
    )
)

# Lines that we have not.
CAFFES = "|".join(
    (
        # Which iterations have it depends on how the weights were filled.
        r"Gradient clipping: ",
        # Once in a process, of the first HDF5 file.
        r"Datatype class: H5T_FLOAT$",
        # When a net is made; here, when its weights are first needed.
        r"Ignoring source layer ",
    )
)

NUMBER = r"(?<![\w.-])-?(?:\d[\d.]*(?:e[+-]?\d+)?|nan|inf)"


def normal(line: str, loose: bool) -> str:
    """Puts N for numbers; iterations, rates and file names stay, unless `loose`."""
    if loose:
        return re.sub(r"-?\d[\d.]*(e[+-]?\d+)?", "N", line)
    if line.startswith(("Snapshotting", "Resuming", "Finetuning", "MultiStep")):
        return line
    line = re.sub(rf"(?<!Iteration )(?<!lr = )(?<!Batch ){NUMBER}", "N", line)
    return re.sub(r"Ns/", "N s/", line)


CUT = {CONSTRUCTION, "Initializing solver from parameters: "}


class Recorder(logging.Handler):
    """Keeps the messages, and sends us signals after some of them."""

    def __init__(self, signals):
        super().__init__()
        self.lines, self.signals = [], list(signals)
        self.cut = []  # those that are in all recordings

    def emit(self, record):
        line = record.getMessage().split("\n")[0]
        self.lines.append(line)
        if not {record.name, line} & CUT:
            self.cut.append(line)
        if self.signals and re.search(self.signals[0][1], line):
            signal.raise_signal(getattr(signal, self.signals.pop(0)[0]))


def call(arguments, signals=(), recorder=None):
    """Runs a command line in this process; returns its status and its Recorder."""
    recorder = recorder or Recorder(signals)
    logger.addHandler(recorder)
    try:
        status = entry.dispatch(arguments)
    finally:
        logger.removeHandler(recorder)
    return status, recorder


def compare(case, recorder, expected, loose=False):
    """Holds a log against what is recorded, up to numbers and to CAFFES and OURS."""
    lines = recorder.lines if is_whole(case) else recorder.cut
    ours = [normal(x, loose) for x in lines if not re.match(f"{OURS}|{CAFFES}", x)]
    theirs = [
        normal(line, loose)
        for before, line in zip(["", *expected], expected, strict=False)
        # The Softmax that Caffe makes within SoftmaxWithLoss.
        if not re.match(CAFFES, line)
        and not (line.startswith("Creating layer") and " -> " in before)
    ]
    assert ours == theirs


def is_whole(case):
    """Returns whether the construction of the nets is in the recording."""
    return any(line.startswith("Creating Layer") for line in case["lines"])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The files of all cases, and the snapshots that some of them go on from."""
    folder = tmp_path_factory.mktemp("logs")
    for path in (GOLDEN / "logs").glob("*.prototxt"):
        shutil.copy(path, folder)
    for path in (GOLDEN / "solvers" / "sgd_step").glob("*"):
        if path.suffix in (".h5", ".txt", ".caffemodel") and "snap" not in path.name:
            shutil.copy(path, folder)
    (folder / "snaps").mkdir()
    (folder / "moved").mkdir()
    before = os.getcwd()
    os.chdir(folder)
    logs = {}
    try:
        for name in ("train_basic", "train_hdf5_snapshots"):
            logs[name] = call(RECORDED[name]["arguments"].split())
    finally:
        os.chdir(before)
    shutil.copy(folder / "run_iter_20.solverstate", folder / "moved")
    return folder, logs


@pytest.fixture
def folder(made, tmp_path, monkeypatch):
    shutil.copytree(made[0], tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train_cases():
    return [
        name
        for name, case in RECORDED.items()
        if case["arguments"].startswith("train -") and case["status"] in (0, 143)
    ]


@pytest.mark.parametrize("name", train_cases())
def test_train_logs_what_caffe_logs(name, made, folder):
    case = RECORDED[name]
    signals = case.get("signals", [])
    if name == "bn_lr_three_params":
        prepare_bad(name)
    for solver in folder.glob("solver_long*") if signals else ():
        # As many lines in a twentieth of the iterations.
        solver.write_text(solver.read_text().replace("display: 1000", "display: 50"))
    signals = [
        (number, re.sub(r"Iteration (\d+) ", r"Iteration 50.0 ", after))
        if "Iteration" not in after
        else (number, f"Iteration {int(after.split()[1]) // 20} ")
        for number, after in signals
    ]
    if name in made[1]:
        status, recorder = made[1][name]
    else:
        status, recorder = call([*case["arguments"].split(), "--overwrite"], signals)
    assert status == 0
    expected = list(case["lines"])
    match name:
        case "sigint_none":
            # SIGTERM, which ends Caffe, snapshots and stops.
            expected += [
                "Snapshotting to binary proto file sig_iter_0.caffemodel",
                "Snapshotting solver state to binary proto file sig_iter_0.solverstate",
                "Optimization stopped early.",
                "Optimization Done.",
            ]
        case "sighup_during_test":
            # The second snapshot would be the first one over again.
            again = expected.index("Test interrupted.") + 1
            del expected[again : again + 2]
        case "train_resume_hdf5":
            # Caffe says so of the other format only.
            expected.insert(
                expected.index("Starting Optimization"), "SGDSolver: restoring history"
            )
    compare(case, recorder, expected, bool(signals))


def other_cases():
    return [
        name
        for name, case in RECORDED.items()
        if re.match(r"(test|time|device_query)\b", case["arguments"])
        and case["status"] == 0
    ]


@pytest.mark.parametrize("name", other_cases())
def test_test_time_and_device_query_log_what_caffe_logs(name, folder):
    case = RECORDED[name]
    status, recorder = call(case["arguments"].split())
    assert status == 0
    compare(case, recorder, case["lines"])


def failing_cases():
    return [
        name
        for name, case in RECORDED.items()
        if (case["status"] not in (0, 143) or name == "error_two_commands")
        and not name.startswith("usage_")
        and not re.match(TOOLS, case["arguments"])
    ]


TOOLS = r"(convert_imageset|compute_image_mean|extract_features)\b|.*solver_pics"


def pictures_cases(status):
    """Returns the cases about a database of images that end with a status."""
    return [
        name
        for name, case in RECORDED.items()
        if re.match(TOOLS, case["arguments"])
        and case["status"] == status
        and "usage" not in name
    ]


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    (tmp_path / "images").symlink_to(GOLDEN / "data" / "images")
    for path in (GOLDEN / "data" / "same.txt", *(GOLDEN / "logs").glob("*pics*")):
        shutil.copy(path, tmp_path)
    monkeypatch.chdir(tmp_path)


def test_tools_say_what_caffe_says(pictures, capsys):
    for name in pictures_cases(0):
        assert call(RECORDED[name]["arguments"].split())[0] == 0
        printed = "".join(capsys.readouterr()).splitlines()
        ours = [line for line in printed if not line.startswith("Values in units of")]
        assert ours == RECORDED[name]["lines"]


def test_tools_that_fail_in_caffe_fail_with_one_line(pictures):
    for name in pictures_cases(0):
        call(RECORDED[name]["arguments"].split())
    for name in pictures_cases(134):
        if name == "error_mean_missing":
            continue
        recorder = Recorder(())
        with pytest.raises(CaffeError) as caught:
            call(RECORDED[name]["arguments"].split(), recorder=recorder)
        assert "\n" not in str(caught.value)
        if name == "train_lmdb":
            # Caffe makes layers before it looks at the first record.
            lines = RECORDED[name]["lines"]
            expected = lines[: lines.index("Creating layer data")]
            compare(RECORDED[name], recorder, expected)
    pathlib.Path("mean.binaryproto").unlink()
    with pytest.raises(CaffeError, match=r"^none_lmdb: "):
        call(RECORDED["error_mean_missing"]["arguments"].split())


def test_help_has_the_commands_and_flags_of_caffe(capsys):
    lines = RECORDED["usage_help"]["lines"]
    rows = [line.split() for line in lines if re.match(r"  \w+ ", line)]
    commands = [row[0] for row in rows if row[0] != "Flags"]
    assert sorted(commands) == ["device_query", "test", "time", "train"]
    assert entry.dispatch(["--help"]) == 0
    ours = capsys.readouterr().out
    assert all(re.search(f"^  {command} ", ours, re.M) for command in commands)
    helps = [help_of(command, capsys) for command in commands]
    for flag in re.findall(r"^    -(\w+) \(", "\n".join(lines), re.M):
        assert any(f" --{flag} " in help_ for help_ in helps), flag


def help_of(command, capsys):
    with pytest.raises(SystemExit):
        entry.dispatch([command, "--help"])
    return capsys.readouterr().out


def test_version_is_name_and_number(capsys):
    assert RECORDED["version"]["lines"] == ["caffe version 1.0.0"]
    assert entry.dispatch(["--version"]) == 0
    assert re.fullmatch(r"jaxcaffe version \d+\.\d+\.\d+\n", capsys.readouterr().out)


@pytest.mark.parametrize("name", ["compute_image_mean", "extract_features"])
def test_tool_without_arguments_fails_with_one_line(name):
    assert RECORDED[f"usage_{name}"]["status"] == 1
    with pytest.raises(CaffeError, match=rf"Try {name} --help\."):
        entry.dispatch([name])


# Where Caffe cannot go on and we can.
ACCEPTED = {
    "error_snapshot_model_moved": "the weights are looked for beside the state too",
    "error_prefix_unwritable": "the folder of a snapshot_prefix is made",
}


@pytest.mark.parametrize("name", failing_cases())
def test_command_that_fails_in_caffe_fails_with_one_line(name, folder):
    prepare_bad(name)
    arguments = RECORDED[name]["arguments"].split()
    arguments += ["--overwrite"] * (arguments[0] == "train")
    if name in ACCEPTED:
        assert call(arguments)[0] == 0
        return
    with pytest.raises(CaffeError) as caught:
        call(arguments)
    assert "\n" not in str(caught.value)
    assert not list(folder.glob("*_iter_0.*"))


def prepare_bad(name):
    """Puts the net or the solver of a case where its command line looks for it."""
    net = pathlib.Path(f"{name}.net.prototxt")
    solver = pathlib.Path(f"{name}.solver.prototxt")
    if net.exists():
        net.rename("bad_net.prototxt")
    text = pathlib.Path("solver.prototxt").read_text()
    text = text.replace('"net.prototxt"', '"bad_net.prototxt"')
    pathlib.Path("bad_solver.prototxt").write_text(
        solver.read_text() if solver.exists() else text
    )
