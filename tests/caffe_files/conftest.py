"""A run that Caffe has snapshotted, and nets by their text."""

import os
import pathlib
import shutil

import jax
import pytest

from jaxcaffe.net import graph, translate
from jaxcaffe.proto import caffe_pb2, text

SOLVERS = pathlib.Path(__file__).parents[1] / "golden" / "solvers"


@pytest.fixture
def case(tmp_path, monkeypatch):
    """Copies a recorded run into the working directory, which it returns."""

    def copy(name: str) -> pathlib.Path:
        folder = tmp_path / name
        shutil.copytree(SOLVERS / name, folder, copy_function=shutil.copyfile)
        for path in folder.iterdir():
            os.chmod(path, 0o644)
        monkeypatch.chdir(folder)
        return folder

    return copy


@pytest.fixture(scope="session")
def net_of():
    """Builds a TRAIN net from its text."""

    def build(source: str):
        net, where = text.parse_net(source, "net.prototxt")
        built = graph.build_graph(net, caffe_pb2.NetState(phase=caffe_pb2.TRAIN), where)
        return translate.build_net(built, {})

    return build


@pytest.fixture(scope="session")
def key():
    return jax.random.key(0)
