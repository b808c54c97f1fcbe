import pytest

import jaxcaffe.pycaffe as caffe
from jaxcaffe.log import logger
from jaxcaffe.pycaffe import modes


@pytest.fixture(autouse=True)
def _restore(monkeypatch):
    for name in ("platform", "device", "seed", "drawn", "solver_count", "solver_rank"):
        monkeypatch.setattr(modes._settings, name, getattr(modes._settings, name))


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(modes.time, "perf_counter", lambda: now[0])
    return now


def test_timer_measures_milliseconds_between_start_and_stop(clock):
    timer = caffe.Timer()
    assert timer.ms == 0
    timer.start()
    clock[0] += 0.25
    timer.stop()
    clock[0] += 1
    timer.stop()
    assert timer.ms == pytest.approx(250)


def test_timer_asked_while_it_runs_stops(clock):
    timer = caffe.Timer()
    timer.start()
    clock[0] += 0.5
    timer.start()
    clock[0] += 0.5
    assert timer.ms == pytest.approx(1000)
    clock[0] += 1
    assert timer.ms == pytest.approx(1000)


def test_nccl_names_the_way_to_several_devices():
    assert not caffe.has_nccl()
    for ask in (caffe.NCCL.new_uid, lambda: caffe.NCCL(None, b"")):
        with pytest.raises(RuntimeError, match=r"Accepted: python -m jaxcaffe\.train"):
            ask()


def test_random_seed_repeats_the_seeds_that_follow():
    caffe.set_random_seed(5)
    first = [modes.draw_seed() for _ in range(3)]
    caffe.set_random_seed(5)
    assert [modes.draw_seed() for _ in range(3)] == first
    assert len(set(first)) == 3


def test_solver_count_and_rank_are_kept():
    caffe.set_solver_count(4)
    caffe.set_solver_rank(2)
    assert (caffe.solver_count(), caffe.solver_rank()) == (4, 2)


def test_set_mode_gpu_without_an_accelerator_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(modes.jax, "default_backend", lambda: "cpu")
    with pytest.raises(RuntimeError, match="finds no accelerator"):
        caffe.set_mode_gpu()


def test_set_device_that_is_not_there_names_those_that_are():
    with pytest.raises(RuntimeError, match=r"no device 999\. Accepted: 0 to \d"):
        caffe.set_device(999)


def test_init_log_takes_the_least_severity(monkeypatch, capsys):
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "propagate", True)
    level = logger.level
    try:
        caffe.init_log(1)
        caffe.log("unseen")
        logger.warning("seen")
        caffe.init_log(0, True)
        caffe.log("told")
    finally:
        logger.setLevel(level)
    lines = capsys.readouterr().err.splitlines()
    assert [line.rsplit("] ", 1)[1] for line in lines] == ["seen", "told"]
    assert [line[0] for line in lines] == ["W", "I"]
