"""Compiled programs survive on disk, bounded, and change no result."""

import os
import subprocess
import sys
import time
import zlib

import jax
import pytest

from jaxcaffe import compile_cache


@pytest.fixture
def start(workspace, tmp_path_factory):
    """Trains five iterations in a process; returns its log and its weights' bytes."""
    home = tmp_path_factory.mktemp("home")
    count = 0

    def run(**environment):
        nonlocal count
        count += 1
        names = ("JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE")
        inherited = {k: v for k, v in os.environ.items() if k not in names}
        done = subprocess.run(
            [
                *(sys.executable, "-m", "jaxcaffe.train", "solver.prototxt"),
                *("--config.max_iter=5", f"--config.workdir=run{count}", "--overwrite"),
            ],
            env={**inherited, "XDG_CACHE_HOME": str(home), **environment},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        weights = (workspace / "small_iter_5.caffemodel").read_bytes()
        return done.stderr, weights

    run.home = home
    return run


def entries(home):
    return {p.name: p for p in home.glob("jaxcaffe/compiled-*/*-cache")}


def test_second_start_finds_what_the_first_compiled_and_trains_the_same(start):
    _, plain = start(JAX_ENABLE_COMPILATION_CACHE="false")
    assert not entries(start.home)
    _, cold = start()
    made = entries(start.home)
    assert [name for name in made if name.startswith("jit_step-")]
    # Killed in the middle of a write:
    broken = next(path for name, path in made.items() if name.startswith("jit_init-"))
    broken.write_bytes(broken.read_bytes()[:-20])
    later = time.time_ns() + 10**9
    os.utime(broken, ns=(later, later))
    log, warm = start()
    assert "cache" not in log.lower()
    assert "warn" not in log.lower()
    assert entries(start.home).keys() == made.keys()
    assert broken.stat().st_mtime_ns != later
    assert plain == cold == warm


def test_turn_on_with_an_unwritable_home_leaves_jax_as_it_is(monkeypatch, tmp_path):
    home = tmp_path / "a_file"
    home.write_text("")
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    before = jax.config.jax_compilation_cache_dir
    compile_cache.turn_on()
    assert jax.config.jax_compilation_cache_dir == before


def write_entry(folder, name, size, used):
    path = folder / f"{name}-cache"
    path.write_bytes(zlib.compress(os.urandom(size)))
    os.utime(path, (used, used))
    return path


def test_sweep_more_than_allowed_removes_what_was_used_longest_ago(tmp_path):
    for index, name in enumerate("abcd"):
        write_entry(tmp_path, name, 1000, 1000 - 100 * index)
    compile_cache.sweep(tmp_path, 2100)
    assert {p.name for p in tmp_path.glob("*-cache")} == {"a-cache", "b-cache"}


@pytest.mark.parametrize("start", [b"", b"\x28\xb5\x2f\xfd"], ids=["zlib", "zstd"])
def test_sweep_half_an_entry_removes_it_alone(tmp_path, start):
    whole = write_entry(tmp_path, "whole", 500, 1000)
    (tmp_path / "half-cache").write_bytes(start + whole.read_bytes()[:100])
    (tmp_path / "other.txt").write_text("not ours")
    compile_cache.sweep(tmp_path, 10**6)
    assert whole.exists()
    assert not (tmp_path / "half-cache").exists()
    assert (tmp_path / "other.txt").exists()


def test_turn_on_leaves_settings_of_the_user_alone(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "mine")
    compile_cache.turn_on()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "mine"
    assert not list(tmp_path.iterdir())
