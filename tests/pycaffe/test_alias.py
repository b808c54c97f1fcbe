"""`import caffe` while the names are installed, and afterwards."""

import importlib
import sys
import types

import pytest

import jaxcaffe.pycaffe
from jaxcaffe.errors import ConfigError
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.pycaffe import install, uninstall


@pytest.fixture
def installed():
    install()
    yield
    uninstall()


def test_caffe_is_this_package(installed):
    caffe = importlib.import_module("caffe")
    assert caffe is jaxcaffe.pycaffe
    assert caffe.__spec__.name == "jaxcaffe.pycaffe"
    assert caffe.TEST == caffe_pb2.TEST
    assert caffe.proto.caffe_pb2 is caffe_pb2


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("caffe.io", "jaxcaffe.pycaffe.io"),
        ("caffe.net_spec", "jaxcaffe.pycaffe.net_spec"),
        ("caffe.coord_map", "jaxcaffe.pycaffe.coord_map"),
        ("caffe.draw", "jaxcaffe.pycaffe.draw"),
        ("caffe.classifier", "jaxcaffe.pycaffe.classifier"),
        ("caffe.detector", "jaxcaffe.pycaffe.detector"),
        ("caffe.pycaffe", "jaxcaffe.pycaffe"),
        ("caffe._caffe", "jaxcaffe.pycaffe"),
        ("caffe.proto", "jaxcaffe.proto"),
        ("caffe.proto.caffe_pb2", "jaxcaffe.proto.caffe_pb2"),
        ("caffe_pb2", "jaxcaffe.proto.caffe_pb2"),
    ],
)
def test_every_module_is_ours_under_a_second_name(installed, name, target):
    module = importlib.import_module(name)
    assert module is importlib.import_module(target)
    assert module.__spec__.name == module.__name__ == target


def test_scripts_ways_of_importing_work(installed):
    space: dict = {}
    exec(
        "import caffe, caffe.draw, caffe.proto.caffe_pb2 as first\n"
        "from caffe import layers as L, params as P, NetSpec, to_proto\n"
        "from caffe.proto import caffe_pb2 as second\n"
        "from caffe.coord_map import crop\n"
        "from caffe.pycaffe import NetSpec as again\n"
        "top = L.Pooling(L.Input(), pool=P.Pooling.AVE)\n",
        space,
    )
    assert space["first"] is space["second"] is caffe_pb2
    assert space["NetSpec"] is space["again"]
    net = space["to_proto"](space["top"])
    assert isinstance(net, caffe_pb2.NetParameter)


@pytest.mark.parametrize("name", ["caffe.net", "caffe.blob", "caffe.proto.text"])
def test_module_that_caffe_does_not_have_is_not_found(installed, name):
    importlib.import_module("caffe.proto")
    with pytest.raises(ModuleNotFoundError, match=f"No module named '{name}'"):
        importlib.import_module(name)


def test_caffe_on_the_path_does_not_win(installed, tmp_path, monkeypatch):
    (tmp_path / "caffe").mkdir()
    (tmp_path / "caffe" / "__init__.py").write_text("raise RuntimeError('theirs')")
    monkeypatch.syspath_prepend(tmp_path)
    assert importlib.import_module("caffe") is jaxcaffe.pycaffe


def test_nothing_is_installed_unasked():
    uninstall()
    assert "caffe" not in sys.modules
    with pytest.raises(ModuleNotFoundError, match="No module named 'caffe'"):
        importlib.import_module("caffe")


def test_uninstall_takes_back_every_name_and_leaves_the_modules():
    before = list(sys.meta_path)
    install()
    install()
    io = importlib.import_module("caffe.io")
    uninstall()
    assert sys.meta_path == before
    assert not [n for n in sys.modules if n.split(".")[0] in ("caffe", "caffe_pb2")]
    assert sys.modules["jaxcaffe.pycaffe.io"] is io
    with pytest.raises(ModuleNotFoundError, match="No module named 'caffe'"):
        importlib.import_module("caffe.io")
    uninstall()


@pytest.mark.parametrize("name", ["caffe", "caffe.proto.caffe_pb2", "caffe_pb2"])
def test_install_beside_another_caffe_raises(monkeypatch, name):
    other = types.ModuleType(name)
    other.__file__ = "/opt/caffe/there.py"
    monkeypatch.setitem(sys.modules, name, other)
    with pytest.raises(
        ConfigError, match=rf"{name} has been imported already, from /o"
    ):
        install()
    assert sys.modules[name] is other
