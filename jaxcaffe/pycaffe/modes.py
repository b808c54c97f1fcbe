"""The few settings that pycaffe keeps for the whole process.

Follows caffe/src/caffe/common.cpp and the functions of caffe/python/caffe/_caffe.cpp.
Only this package reads them: the core below it keeps no state.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import sys
import time
from collections.abc import Iterator

import jax

from jaxcaffe.log import GlogFormatter, logger

_LEVELS = (logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)


class _Settings:
    """One instance, for the process."""

    platform: str | None = None  # None: JAX's own choice
    device = 0
    is_jax_choice: bool | None = None  # whether these two are; None: not looked at yet
    seed: int | None = None
    drawn = 0
    solver_count = 1
    solver_rank = 0
    multiprocess = False


_settings = _Settings()


def set_mode_cpu() -> None:
    """Runs nets on the CPU from now on."""
    _settings.platform = "cpu"
    _settings.is_jax_choice = None


def set_mode_gpu() -> None:
    """Runs nets on an accelerator from now on, where there is one.

    Raises:
      RuntimeError: JAX finds no accelerator.
    """
    if jax.default_backend() == "cpu":
        raise RuntimeError(
            "set_mode_gpu: JAX finds no accelerator here. Accepted: set_mode_cpu(), or "
            "jax installed with CUDA or TPU support"
        )
    _settings.platform = jax.default_backend()
    _settings.is_jax_choice = None


def set_device(device_id: int) -> None:
    """Chooses the accelerator that nets run on, counted from 0.

    Raises:
      RuntimeError: there is no such device.
    """
    count = len(jax.devices())
    if not 0 <= device_id < count:
        raise RuntimeError(
            f"set_device: there is no device {device_id}. Accepted: 0 to {count - 1}"
        )
    _settings.device = device_id
    _settings.is_jax_choice = None


PRECISION = "highest"
"""Of products: full float32."""


@contextlib.contextmanager
def on_device() -> Iterator[None]:
    """Runs what is inside on the chosen device, products in full float32."""
    with jax.default_device(_device()), jax.default_matmul_precision(PRECISION):
        yield


def chosen_device() -> jax.Device | None:
    """Returns the chosen device, or None where JAX would take it by itself."""
    if _settings.is_jax_choice is None:
        _settings.is_jax_choice = _device() == jax.devices()[0]
    return None if _settings.is_jax_choice else _device()


def _device() -> jax.Device:
    devices = jax.devices(_settings.platform)
    return devices[_settings.device if _settings.device < len(devices) else 0]


def set_random_seed(seed: int) -> None:
    """Makes fillers, dropout and data of nets made from now on repeatable."""
    _settings.seed = int(seed)
    _settings.drawn = 0


def draw_seed() -> int:
    """Returns another seed at each call, below 2**31; set_random_seed repeats them."""
    if _settings.seed is None:
        return secrets.randbelow(2**31)
    _settings.drawn += 1
    key = jax.random.fold_in(jax.random.key(_settings.seed), _settings.drawn)
    return int(jax.random.randint(key, (), 0, 2**31 - 1))


class _StderrHandler(logging.Handler):
    """Writes to what sys.stderr is now: notebooks put another stream there."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(GlogFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one line."""
        sys.stderr.write(f"{self.format(record)}\n")


def start_log() -> None:
    """Starts the log when a net is made, unless init_log has been called."""
    if not any(isinstance(handler, _StderrHandler) for handler in logger.handlers):
        init_log()


def init_log(level: int | None = None, stderr: bool = True) -> None:
    """Sends the log to stderr in glog's form, once.

    Args:
      level: least severity: 0 for all, 1 warnings, 2 errors, 3 fatal errors; None for
        what the environment variable GLOG_minloglevel says, or all.
      stderr: kept for Caffe's interface; there is no other place.
    """
    del stderr
    if level is None:
        text = os.environ.get("GLOG_minloglevel", "0")  # noqa: SIM112 - glog's name
        level = int(text) if text.isdigit() else 0
    logger.setLevel(_LEVELS[min(max(level, 0), 3)])
    logger.propagate = False
    if not any(isinstance(handler, _StderrHandler) for handler in logger.handlers):
        logger.addHandler(_StderrHandler())


def log(message: str) -> None:
    """Writes one line to the log."""
    logger.info("%s", message)


def has_nccl() -> bool:
    """Returns False: several devices are one mesh here (jaxcaffe.train)."""
    return False


def solver_count() -> int:
    """Returns what set_solver_count was told; nothing here depends on it."""
    return _settings.solver_count


def set_solver_count(count: int) -> None:
    """Keeps the number for solver_count."""
    _settings.solver_count = int(count)


def solver_rank() -> int:
    """Returns what set_solver_rank was told; rank 0 writes logs and snapshots."""
    return _settings.solver_rank


def set_solver_rank(rank: int) -> None:
    """Keeps the number for solver_rank."""
    _settings.solver_rank = int(rank)


def set_multiprocess(multiprocess: bool) -> None:
    """Keeps the flag; nothing here depends on it."""
    _settings.multiprocess = bool(multiprocess)


class NCCL:
    """Refuses: pycaffe's way to several GPUs."""

    def __init__(self, *_: object) -> None:
        raise RuntimeError(_NO_NCCL)

    @staticmethod
    def new_uid() -> bytes:
        """Refuses too: a script asks for it before it makes an NCCL."""
        raise RuntimeError(_NO_NCCL)


_NO_NCCL = (
    "NCCL is not needed here. Accepted: python -m jaxcaffe.train, which spreads a "
    "batch over all devices"
)


class Timer:
    """Measures wall-clock time.

    Source: caffe/src/caffe/util/benchmark.cpp. Differs: none.
    """

    def __init__(self) -> None:
        self._begin: float | None = None  # None: it does not run
        self._seconds = 0.0

    def start(self) -> None:
        """Starts the watch; one that runs goes on."""
        if self._begin is None:
            self._begin = time.perf_counter()

    def stop(self) -> None:
        """Stops the watch, if it runs."""
        if self._begin is not None:
            self._seconds = time.perf_counter() - self._begin
            self._begin = None

    @property
    def ms(self) -> float:
        """Milliseconds of the last run; stops the watch. 0 before the first run."""
        self.stop()
        return self._seconds * 1e3
