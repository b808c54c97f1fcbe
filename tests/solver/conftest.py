from collections.abc import Callable

import pytest
from google.protobuf import text_format

from jaxcaffe.proto import caffe_pb2


@pytest.fixture(scope="session")
def parse() -> Callable[[str], caffe_pb2.SolverParameter]:
    """Text of a solver file -> SolverParameter, without upgrades."""

    def parse_solver(text: str) -> caffe_pb2.SolverParameter:
        return text_format.Parse(text, caffe_pb2.SolverParameter())

    return parse_solver
