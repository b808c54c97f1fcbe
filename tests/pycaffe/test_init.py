"""The names of the package, and what asking for them loads."""

import importlib
import subprocess
import sys

import pytest

import jaxcaffe.pycaffe as caffe

NAMES = (
    *("Net", "SGDSolver", "NesterovSolver", "AdaGradSolver", "RMSPropSolver"),
    *("AdaDeltaSolver", "AdamSolver", "NCCL", "Timer", "init_log", "log"),
    *("set_mode_cpu", "set_mode_gpu", "set_device", "Layer", "get_solver"),
    *("layer_type_list", "set_random_seed", "solver_count", "set_solver_count"),
    *("solver_rank", "set_solver_rank", "set_multiprocess", "has_nccl", "TRAIN"),
    *("TEST", "Classifier", "Detector", "io", "layers", "params", "NetSpec"),
    *("to_proto", "proto", "pycaffe", "draw", "coord_map", "net_spec", "__version__"),
)


@pytest.mark.parametrize("name", NAMES)
def test_name_of_caffe_is_there(name):
    assert getattr(caffe, name) is getattr(caffe, name)
    assert name in dir(caffe)


def test_names_that_are_modules_are_their_modules():
    assert caffe.io is importlib.import_module("jaxcaffe.pycaffe.io")
    assert caffe.draw is importlib.import_module("jaxcaffe.pycaffe.draw")


def test_name_that_caffe_does_not_have_raises():
    with pytest.raises(AttributeError, match=r"'jaxcaffe\.pycaffe' has no .*'Nett'"):
        caffe.Nett  # noqa: B018


def test_parts_without_nets_load_no_jax():
    program = (
        "import sys, jaxcaffe.pycaffe as caffe\n"
        "caffe.io, caffe.net_spec, caffe.coord_map, caffe.layers, caffe.TRAIN\n"
        "sys.exit('jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_late_imports_leave_the_scripts_random_numbers_alone():
    program = (
        "import random, sys, numpy as np, jaxcaffe.pycaffe as caffe\n"
        "random.seed(1); np.random.seed(1)\n"
        "caffe.Net, caffe.SGDSolver, caffe.draw, caffe.Classifier\n"
        "found = random.random(), np.random.rand()\n"
        "random.seed(1); np.random.seed(1)\n"
        "sys.exit(found != (random.random(), np.random.rand()))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
