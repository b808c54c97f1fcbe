"""What a process asks of its system and of XLA so that a CPU computes fast.

The memory part is the counterpart of Caffe's blobs, which stay allocated for as long as
a net lives (caffe/src/caffe/syncedmem.cpp).
"""

from __future__ import annotations

import ctypes
import os
import platform
import time
from collections.abc import Callable
from typing import Any

import jax

# From glibc's malloc.h and Linux's mman.h.
_M_MXFAST, _M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = 1, -1, -2, -4, -8
_MADV_HUGEPAGE = 14
_HUGE_PAGE = 1 << 21

_LONG_STEP = 0.1  # seconds
_FREEING = 0.001  # seconds
# At first it takes longer: a compiler's threads may still be about.
_FIRST_STEPS, _FIRST_FREEING = 3, 0.03

_YNN = "--xla_cpu_experimental_ynn_fusion_type"
_EIGEN_CONVOLUTIONS = f"{_YNN}=-LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"
_OFF = "--xla_disable_hlo_passes"
_KEEP_BARRIERS = f"{_OFF}=cse_barrier_expander"


def tune_cpu() -> None:
    """Prepares this process; call it once, before anything runs on a device.

    The results of training may differ in the last digits from those without it.
    """
    choose_flags()
    keep_pages()


def choose_flags() -> bool:
    """Tells XLA's CPU client how to compile, in XLA_FLAGS.

    - Convolutions with Eigen, not with YNNPACK. YNNPACK, which it prefers from jaxlib
      0.10 on, is as fast or faster for matrix products, but takes up to twice as long
      for the gradients of convolutions and for the large strides of first layers, and
      its sums are less exact.
    - Barriers are heeded up to the end, not just against the merging of equal
      expressions; see ops.materialize.

    Returns:
      Whether XLA_FLAGS was changed: not where it speaks of the same already.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if jax.__version_info__ < (0, 10):
        return False  # An unknown flag would end the process.
    more = [
        flag
        for name, flag in ((_YNN, _EIGEN_CONVOLUTIONS), (_OFF, _KEEP_BARRIERS))
        if name not in flags
    ]
    if more:
        os.environ["XLA_FLAGS"] = " ".join([flags, *more]).strip()
    return bool(more)


def keep_pages() -> bool:
    """Tells the C library to keep what is freed, and to lay it out in huge pages.

    XLA's CPU client asks the C library for the intermediate values of every call, and
    glibc answers each large request with fresh pages from the system and returns them
    at once. CaffeNet at batch 32 touched 240,000 new pages in each iteration, a third
    of its time. Afterwards all threads share one heap, which grows and does not
    shrink; no more is held at once than before.

    Only memory that is asked for later is affected.

    Returns:
      Whether anything was changed: not without glibc on Linux, nor where the
      environment sets glibc's allocator already (GLIBC_TUNABLES, MALLOC_*).
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    if any(n.startswith(("GLIBC_TUNABLES", "MALLOC_")) for n in os.environ):
        return False
    libc = ctypes.CDLL(None)
    # Only the first arena grows without end; of others, large requests go elsewhere.
    libc.mallopt(_M_ARENA_MAX, 1)
    libc.mallopt(_M_MMAP_MAX, 0)
    libc.mallopt(_M_TRIM_THRESHOLD, -1)
    libc.mallopt(_M_TOP_PAD, 64 << 20)
    # Small pieces that are freed join their neighbours at once, or a large piece that
    # is freed between them could not be used for one as large.
    libc.mallopt(_M_MXFAST, 0)
    _advise_huge_pages(libc)
    return True


def return_pages() -> None:
    """Gives the system the pages of all that is free, such as a compiler's memory."""
    if platform.system() == "Linux" and platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(ctypes.c_size_t(0))


def pace_steps(step: Callable[..., tuple[Any, Any]]) -> Callable[..., tuple[Any, Any]]:
    """Has a training step take its temporary memory only once, on CPUs.

    XLA's CPU client takes it when the step begins, and gives it back some moments after
    it has said that the step is done. Two steps under way, or one asked for in these
    moments, take it twice, and the heap stays that large. So each step is waited for
    before the next is asked for, the longer ones a little longer; and what compiling
    took is given back before the first.

    Args:
      step: (state, ...) -> (state, report) of one step or several, jitted.

    Returns:
      The same function; on other devices `step` itself.
    """
    if jax.default_backend() != "cpu":
        return step
    last: Any = None
    begin = 0.0  # of the last step
    count = 0

    def run(state: Any, *rest: Any) -> tuple[Any, Any]:
        nonlocal last, begin, count
        if count == 0 and isinstance(step, jax.stages.Wrapped):
            step.lower(state, *rest).compile()
            return_pages()
        jax.block_until_ready(last)
        if 0 < count <= _FIRST_STEPS:
            time.sleep(_FIRST_FREEING)
        elif time.perf_counter() - begin > _LONG_STEP:
            time.sleep(_FREEING)  # whoever waited for it may have done so just now
        count += 1
        begin = time.perf_counter()
        state, last = step(state, *rest)
        return state, last

    return run


def _advise_huge_pages(libc: ctypes.CDLL) -> None:
    """Marks the room that the heap will grow into.

    Asked for and given back untouched, it takes addresses and no memory; where the
    system refuses so many, the heap has small pages.
    """
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    start = libc.malloc(size)
    if start is None:
        return
    first = -(-start // _HUGE_PAGE) * _HUGE_PAGE
    last = (start + size) // _HUGE_PAGE * _HUGE_PAGE
    libc.madvise(first, max(last - first, 0), _MADV_HUGEPAGE)
    libc.free(start)
