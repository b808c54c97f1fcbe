import os
import platform
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from jaxcaffe import cpu

# Fills 64 MB again and again in a thread, as XLA's client does, and counts new pages.
COUNT_FAULTS = """
import resource, threading
from jaxcaffe import cpu

kept = cpu.keep_pages()
faults = []

def fill():
    for _ in range(3):
        begin = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        b"x" * (1 << 26)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - begin)

thread = threading.Thread(target=fill)
thread.start()
thread.join()
print(kept, faults[-1])
"""

glibc = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc's allocator is tuned"
)


def _count_faults(**environment):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    clean.pop("GLIBC_TUNABLES", None)
    done = subprocess.run(
        [sys.executable, "-c", COUNT_FAULTS],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    kept, faults = done.stdout.split()
    return kept == "True", int(faults)


@glibc
def test_keep_pages_large_buffers_of_a_thread_need_no_new_pages():
    kept, faults = _count_faults()
    assert kept
    assert faults < 100  # of 16,384


@glibc
def test_keep_pages_leaves_what_the_environment_sets():
    kept, _ = _count_faults(MALLOC_ARENA_MAX="2")
    assert not kept


RETURN_PAGES = """
import re
from jaxcaffe import cpu

def resident():
    status = open("/proc/self/status").read()
    return int(re.search(r"VmRSS:\\s+(\\d+)", status)[1]) // 1024

cpu.keep_pages()
large, barrier = [b"x" * (1 << 27) for _ in range(2)]
before = resident()
del large
kept = resident()
cpu.return_pages()
print(before - kept, before - resident())
"""


@glibc
def test_return_pages_gives_back_what_keep_pages_kept():
    done = subprocess.run(
        [sys.executable, "-c", RETURN_PAGES],
        env={
            k: v
            for k, v in os.environ.items()
            if not k.startswith(("MALLOC_", "GLIBC_"))
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    kept, given_back = map(int, done.stdout.split())
    assert kept < 10  # MiB, of 128
    assert given_back > 100


def test_pace_steps_each_step_is_done_when_the_next_is_asked_for():
    reports, were_done = [], []

    @jax.jit
    def work(state, batch):
        def once(_, array):
            return jnp.tanh(array @ batch)

        state = jax.lax.fori_loop(0, 50, once, state)
        return state, state.sum()

    def step(state, batch):
        were_done.append(all(report.is_ready() for report in reports))
        state, report = work(state, batch)
        reports.append(report)
        return state, report

    paced = cpu.pace_steps(step)
    state = batch = jnp.full((300, 300), 0.01)
    for _ in range(4):
        state, _ = paced(state, batch)
    assert were_done == [True] * 4


def test_pace_steps_compiles_once_and_changes_no_result():
    traced = []

    @jax.jit
    def step(state, batch):
        traced.append(1)
        return state + batch, state * batch

    paced = cpu.pace_steps(step)
    state = jnp.zeros(())
    for number in range(3):
        state, report = paced(state, jnp.float32(number))
    assert (float(state), float(report)) == (3, 2)
    assert len(traced) == 1


def test_choose_flags_adds_to_the_flags(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
    monkeypatch.setattr(cpu.jax, "__version_info__", (0, 10, 2))
    assert cpu.choose_flags()
    assert os.environ["XLA_FLAGS"] == (
        "--xla_cpu_enable_fast_math=false --xla_cpu_experimental_ynn_fusion_type="
        "-LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION "
        "--xla_disable_hlo_passes=cse_barrier_expander"
    )
    assert not cpu.choose_flags()


def test_choose_flags_leaves_what_is_set(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_disable_hlo_passes=dce")
    monkeypatch.setattr(cpu.jax, "__version_info__", (0, 10, 2))
    assert cpu.choose_flags()
    assert os.environ["XLA_FLAGS"].count("--xla_disable_hlo_passes") == 1


def test_choose_flags_leaves_older_versions_alone(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.setattr(cpu.jax, "__version_info__", (0, 9, 0))
    assert not cpu.choose_flags()
    assert "XLA_FLAGS" not in os.environ
