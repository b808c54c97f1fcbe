"""The upgrade commands against what Caffe's made of the same files.

JAXCAFFE_GOLDEN_UPGRADE names another folder of such files, with its results.json.
"""

import importlib
import json
import os
import pathlib

import pytest

from jaxcaffe.errors import ConfigError
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.proto.text import parse_solver, read_net, read_solver

OWN = pathlib.Path(__file__).parents[1] / "golden" / "upgrade"
FOLDER = pathlib.Path(os.environ.get("JAXCAFFE_GOLDEN_UPGRADE") or OWN)
KINDS = ("net_proto_text", "net_proto_binary", "solver_proto_text")


def load_results():
    """(tool, input, output or None, status) of each run on one file."""
    results = json.loads((FOLDER / "results.json").read_text())
    texts, binaries = results["texts"], results["binaries"]
    if isinstance(texts, list):
        rows = [e for e in (*texts, *binaries) if "input" in e and "status" in e]
    else:
        rows = [
            {"input": name, "output": name.replace(".prototxt", ".upgraded"), **entry}
            for name, entry in texts.items()
        ]
        statuses = {"cut.caffemodel": 2, "text.caffemodel": 2}
        rows += [
            {"input": name, "status": statuses.get(name, 0), **entry}
            for name, entry in binaries.items()
            if entry["output"] or name in statuses
        ]
    found = []
    for row in rows:
        kind = "net_proto_binary" if row["input"].endswith("caffemodel") else None
        if kind is None:
            is_solver = row.get("tool", row["input"]).removeprefix("upgrade_")
            is_solver = is_solver.startswith("solver")
            kind = "solver_proto_text" if is_solver else "net_proto_text"
        found.append((kind, row["input"], row.get("output"), row["status"]))
    return found


def call(kind, *argv):
    module = importlib.import_module(f"jaxcaffe.tools.upgrade_{kind}")
    return module.main([*map(str, argv)])


@pytest.mark.parametrize(("kind", "name", "output", "status"), load_results())
def test_upgrade_exits_and_writes_as_caffe(kind, name, output, status, tmp_path, capfd):
    out = tmp_path / "out"
    assert call(kind, FOLDER / name, out) == status
    said = capfd.readouterr().err
    if status not in (0, 1):
        assert not out.exists()
        assert str(FOLDER / name) in said
        return
    assert said.splitlines()[-1].endswith(f" to {out}")
    assert ("Left out: " in said) == (status == 1)
    if kind == "net_proto_binary":
        ours, theirs = caffe_pb2.NetParameter(), caffe_pb2.NetParameter()
        ours.ParseFromString(out.read_bytes())
        theirs.ParseFromString((FOLDER / output).read_bytes())
        assert ours == theirs
    else:
        read = read_solver if kind == "solver_proto_text" else read_net
        assert read(out)[0] == read(FOLDER / output)[0]
        assert out.read_text() == (FOLDER / output).read_text()


@pytest.mark.parametrize("kind", KINDS)
def test_upgrade_of_a_missing_file_exits_with_134(kind, tmp_path, capfd):
    assert call(kind, tmp_path / "none", tmp_path / "out") == 134
    assert "none: no such file" in capfd.readouterr().err


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("argv", [[], ["one"], ["a", "b", "c"]])
def test_upgrade_with_a_wrong_number_of_files_is_refused(kind, argv):
    with pytest.raises(ConfigError, match=rf"upgrade_{kind}: .*Try upgrade_{kind} --h"):
        call(kind, *argv)


def test_upgrade_of_a_file_of_today_says_so(tmp_path, capfd):
    out = tmp_path / "out"
    assert call("net_proto_text", OWN / "v2_current.prototxt", out) == 0
    said = capfd.readouterr().err
    assert said.startswith("File already in latest proto format: ")


def test_upgrade_replaces_a_file_only_when_asked(tmp_path):
    file = tmp_path / "s.prototxt"
    file.write_text("solver_type: ADAM # old")
    with pytest.raises(ConfigError, match="exists already, and is left as it is"):
        call("solver_proto_text", file, file)
    assert call("solver_proto_text", file, file, "--overwrite") == 0
    assert parse_solver(file.read_text(), "s")[0].type == "Adam"


def test_upgrade_of_a_binary_net_of_a_fork_names_the_fork(tmp_path, capfd):
    net = caffe_pb2.NetParameter()
    layer = net.layers.add(name="roi", type=caffe_pb2.V1LayerParameter.NONE)
    layer.MergeFromString(bytes([43 << 3 & 0x7F | 0x82, 43 >> 4, 0]))
    (tmp_path / "in").write_bytes(net.SerializeToString())
    assert call("net_proto_binary", tmp_path / "in", tmp_path / "out") == 2
    said = capfd.readouterr().err
    assert 'layer "roi" (NONE): V1LayerParameter of Caffe 1.0 has no field 43' in said
    assert '"interp_param": it comes from DeepLab' in said
    assert not (tmp_path / "out").exists()
