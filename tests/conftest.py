"""A small world to train in: noisy images in an LMDB, a net and a solver."""

import atexit
import os
import pathlib
import shutil
import signal
import tempfile

import jax
import lmdb
import numpy as np
import pytest

from jaxcaffe import cpu, log
from jaxcaffe.proto import binary, caffe_pb2

# What its functions assert is shown as that of the tests.
pytest.register_assert_rewrite("whole_runs")

# A shell that starts the suite in the background has it ignore SIGINT, which the
# processes that tests start would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Most of the suite's time is compilation, and many tests compile the same programs,
# some of them in processes of their own; all of them, pytest's workers included, share
# one cache for the time of the run.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    cache = tempfile.mkdtemp(prefix="jaxcaffe-compiled-")
    atexit.register(shutil.rmtree, cache, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = cache
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    # jax has read the environment already; processes that tests start read it anew.
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

# As the commands have it; in this process, before a test asks for a device.
cpu.choose_flags()

NET = """
name: "small"
layer {
  name: "data" type: "Data" top: "data" top: "label"
  include { phase: TRAIN }
  transform_param {
    mirror: true crop_size: 12 mean_file: "mean.binaryproto" scale: 0.01
  }
  data_param { source: "train_lmdb" batch_size: 8 backend: LMDB }
}
layer {
  name: "data" type: "Data" top: "data" top: "label"
  include { phase: TEST }
  transform_param { crop_size: 12 mean_file: "mean.binaryproto" scale: 0.01 }
  data_param { source: "test_lmdb" batch_size: 8 backend: LMDB }
}
layer {
  name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param {
    num_output: 8 kernel_size: 3 group: 1 weight_filler { type: "xavier" }
  }
}
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer {
  name: "pool" type: "Pooling" bottom: "conv" top: "pool"
  pooling_param { kernel_size: 3 stride: 2 }
}
layer {
  name: "ip1" type: "InnerProduct" bottom: "pool" top: "ip1"
  inner_product_param { num_output: 32 weight_filler { type: "xavier" } }
}
layer { name: "bn" type: "BatchNorm" bottom: "ip1" top: "ip1" }
layer {
  name: "drop" type: "Dropout" bottom: "ip1" top: "ip1"
  dropout_param { dropout_ratio: 0.3 }
}
layer {
  name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2"
  inner_product_param { num_output: 4 weight_filler { type: "xavier" } }
}
layer {
  name: "accuracy" type: "Accuracy" bottom: "ip2" bottom: "label" top: "accuracy"
  include { phase: TEST }
}
layer {
  name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss"
}
"""

SOLVER = """
net: "net.prototxt"
test_iter: 2
test_interval: 10
base_lr: 0.05
lr_policy: "step"
gamma: 0.5
stepsize: 15
momentum: 0.9
weight_decay: 0.001
display: 1
average_loss: 3
max_iter: 40
snapshot: 5
snapshot_prefix: "small"
random_seed: 11
"""


@pytest.fixture(autouse=True)
def process_settings():
    """Takes back what a run in this process sets for its whole life."""
    precision = jax.config.jax_default_matmul_precision
    handlers = list(log.logger.handlers)
    yield
    jax.config.update("jax_default_matmul_precision", precision)
    log.logger.handlers[:] = handlers


@pytest.fixture
def workspace(tmp_path, monkeypatch) -> pathlib.Path:
    """The working directory: databases, mean.binaryproto, net and solver."""
    rng = np.random.default_rng(0)
    for name, count in (("train", 50), ("test", 20)):
        write_images(tmp_path / f"{name}_lmdb", count, rng)
    binary.write_blob(
        str(tmp_path / "mean.binaryproto"),
        rng.uniform(90, 110, (1, 3, 16, 16)).astype(np.float32),
    )
    (tmp_path / "net.prototxt").write_text(NET)
    (tmp_path / "solver.prototxt").write_text(SOLVER)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_images(path: pathlib.Path, count: int, rng: np.random.Generator) -> None:
    """Writes (3, 16, 16) images of noise, brighter by 40 per label, 0 to 3."""
    path.mkdir()
    with (
        lmdb.open(str(path), map_size=1 << 22) as database,
        database.begin(write=True) as transaction,
    ):
        for i in range(count):
            label = int(rng.integers(4))
            pixels = rng.integers(0, 120, (3, 16, 16)) + 40 * label
            datum = caffe_pb2.Datum(
                channels=3,
                height=16,
                width=16,
                data=pixels.astype(np.uint8).tobytes(),
                label=label,
            )
            transaction.put(f"{i:08d}_x".encode(), datum.SerializeToString())
