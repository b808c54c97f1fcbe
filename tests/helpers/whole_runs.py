"""What the tests of whole runs share."""

import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Sequence

import jax
import numpy as np

from jaxcaffe import config, log

SHUFFLE = "data.shuffle=True"
# Runs in several workdirs would meet at one snapshot_prefix.
WITHOUT_CAFFE = "snapshot.caffe=False"


def load_config(path: str, overrides: Sequence[str] = ()):
    return config.load_config(path, [WITHOUT_CAFFE, *overrides])


def leaves(state):
    flat, _ = jax.tree_util.tree_flatten_with_path(jax.device_get(state))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in flat}


def assert_equal_states(ours, theirs):
    ours, theirs = leaves(ours), leaves(theirs)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)


def start(*arguments: str, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "jaxcaffe.train", *arguments),
            f"--config.{WITHOUT_CAFFE}",
        ],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def wait_for_row(path: str, count: int, process: subprocess.Popen) -> None:
    for _ in range(6000):
        if os.path.exists(path) and len(log.read_scalars(path)) >= count:
            return
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    raise AssertionError(f"{path} never had {count} rows")


def break_file(path: str, old: str, new: str) -> None:
    text = pathlib.Path(path).read_text()
    assert old in text
    pathlib.Path(path).write_text(text.replace(old, new))
