"""Compiled groups of iterations, on the small net."""

import functools
import itertools

import jax
import numpy as np
import pytest

from jaxcaffe import run
from jaxcaffe.config import load_config
from jaxcaffe.grouping import advance_by_group

SIZE = 4


@pytest.fixture
def small(workspace):
    """A run with clipping, its first batches, and its group step."""
    solver = workspace / "solver.prototxt"
    solver.write_text(solver.read_text() + "clip_gradients: 0.5\n")
    opened = run.open_run(load_config("solver.prototxt", ["snapshot.caffe=False"]))
    feed = run.open_device_feed(opened, opened.train)
    batches = list(itertools.islice(feed, 6))
    feed.close()
    return opened, batches, advance_by_group(run.compile_group_step(opened), SIZE)


def assert_same_bits(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def advance_in(parts, opened, batches, advance):
    """Returns the last state, the last report and all norms."""
    state, left, norms = run.make_state(opened), iter(batches), []
    for count in parts:
        state, report = advance(state, list(itertools.islice(left, count)))
        norms += np.asarray(report.norm)[:count].tolist()
        assert not np.any(report.norm[count:])
    return jax.device_get((state, report._replace(norm=None), norms))


def test_group_however_iterations_are_divided_gives_the_same_bits(small):
    results = [
        advance_in(parts, *small) for parts in [(1,) * 6, (4, 2), (2, 4), (1, 3, 2)]
    ]
    for result in results[1:]:
        assert_same_bits(result, results[0])
    assert results[0][0].iter == 6


def test_group_gives_the_numbers_of_single_steps(small):
    opened, batches, advance = small
    state, report, norms = advance_in((4, 2), opened, batches, advance)
    step = run.compile_train_step(opened)
    single, single_norms = run.make_state(opened), []
    for batch in batches:
        single, shown = step(single, batch)
        single_norms.append(shown.norm)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, state, jax.device_get(single))
    jax.tree.map(close, report, jax.device_get(shown._replace(norm=None)))
    np.testing.assert_allclose(norms, single_norms, rtol=1e-4)
    assert len(set(norms)) == 6


def test_group_with_a_loss_not_finite_keeps_the_state_before_it(small):
    opened, batches, advance = small
    # Labels are checked where they are read; here one may be anything.
    broken = {**batches[2], "label": np.full_like(batches[2]["label"], 2**20)}
    bad = [*batches[:2], broken, batches[3]]
    state, report = advance(run.make_state(opened), bad)
    assert not state.finite
    assert not report.finite
    assert state.iter == 2
    good, _ = advance(run.make_state(opened), batches[:2])
    assert_same_bits(state._replace(finite=good.finite), good)
