"""`python -m jaxcaffe.pycaffe SCRIPT`: what the script sees, and how it ends."""

import subprocess
import sys
import zipfile

import h5py
import numpy as np
import pytest

SHOW = """
import sys
from caffe.proto import caffe_pb2
import jaxcaffe.proto.caffe_pb2
assert caffe_pb2 is jaxcaffe.proto.caffe_pb2
import __main__
print(sys.argv, sys.path[0], __name__, __main__.__dict__ is globals())
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        command = [sys.executable, "-m", "jaxcaffe.pycaffe", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    return run


def test_script_sees_what_python_would_show_it(run, tmp_path):
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "show.py").write_text(SHOW)
    done = run("scripts/show.py", "-x", "--help")
    path = tmp_path / "scripts"
    assert done.stderr == ""
    assert done.stdout == (
        f"['scripts/show.py', '-x', '--help'] {path} __main__ True\n"
    )


def test_link_to_a_script_finds_the_scripts_neighbours(run, tmp_path):
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "neighbour.py").write_text("print('found')")
    (tmp_path / "scripts" / "script.py").write_text("import neighbour")
    (tmp_path / "link.py").symlink_to(tmp_path / "scripts" / "script.py")
    assert run("link.py").stdout == "found\n"


def test_archive_and_folder_are_run_as_python_does(run, tmp_path):
    with zipfile.ZipFile(tmp_path / "app.zip", "w") as archive:
        archive.writestr("__main__.py", SHOW)
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__main__.py").write_text(SHOW)
    for name in ("app.zip", "app"):
        # Python gives the archive's path as it was written.
        assert run(name, "y").stdout == f"['{name}', 'y'] {name} __main__ True\n"


def test_module_is_run_from_the_working_directory(run, tmp_path):
    (tmp_path / "show.py").write_text(SHOW)
    done = run("-m", "show", "y")
    path = tmp_path / "show.py"
    assert done.stdout == f"['{path}', 'y'] {tmp_path} __main__ True\n"


@pytest.mark.parametrize(
    ("text", "status", "message"),
    [
        ("import sys; sys.exit(7)", 7, ""),
        ("import sys; sys.exit('no')", 1, "no\n"),
        ("raise ValueError('broken')", 1, "ValueError: broken\n"),
        ("1 +", 1, "SyntaxError: invalid syntax\n"),
        ("import sys; sys.exit()", 0, ""),
        ("import caffe.net", 1, "No module named 'caffe.net'\n"),
    ],
)
def test_script_ends_as_under_python(run, tmp_path, text, status, message):
    (tmp_path / "script.py").write_text(text)
    done = run("script.py")
    assert done.returncode == status
    assert done.stderr.endswith(message)
    assert bool(done.stderr) == bool(message)


def test_script_that_is_not_there_ends_with_2(run):
    done = run("nowhere.py")
    assert done.returncode == 2
    assert "can't open file 'nowhere.py': [Errno 2] No such file" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status"), [((), 2), (("-m",), 2), (("-x", "a.py"), 2), (("-h",), 0)]
)
def test_usage_is_told_where_there_is_nothing_to_run(run, arguments, status):
    done = run(*arguments)
    assert done.returncode == status
    told = done.stderr if status else done.stdout
    assert told.startswith("usage: python -m jaxcaffe.pycaffe SCRIPT [ARGS...]")


def test_script_with_a_net_and_its_data_ends_quietly(run, tmp_path):
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["data"] = np.zeros((4, 2), np.float32)
    (tmp_path / "list.txt").write_text("data.h5\n")
    (tmp_path / "net.prototxt").write_text(
        'layer { name: "data" type: "HDF5Data" top: "data" '
        'hdf5_data_param { source: "list.txt" batch_size: 2 } }'
    )
    (tmp_path / "script.py").write_text(
        "import caffe\n"
        "caffe.init_log(1)\n"
        "net = caffe.Net('net.prototxt', caffe.TEST)\n"
        "print(net.forward()['data'].shape)\n"
    )
    done = run("script.py")
    assert (done.stdout, done.stderr, done.returncode) == ("(2, 2)\n", "", 0)
