"""Lines about single updates: which, in which order, and when."""

import math

import jax.numpy as jnp

from jaxcaffe import log
from jaxcaffe.display import UpdateLines
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.solver.transform import sum_norm


def lines_of(act) -> list[str]:
    lines: list[str] = []
    with log.logging_to(None), log.through(lines.append):
        act()
    return [line.split("] ", 1)[1].rstrip("\n") for line in lines]


def test_sum_norm_is_that_of_all_gradients_together():
    norm = sum_norm({"a": jnp.array([[3.0], [0.0]]), "b": {"c": jnp.array(4.0)}})
    assert norm == 5.0


def test_clipped_gradients_are_logged_in_order_when_the_host_waits_anyway():
    solver = caffe_pb2.SolverParameter(
        clip_gradients=0.5, lr_policy="multistep", stepvalue=[1, 2]
    )
    lines = UpdateLines(solver)

    def three_updates():
        for iteration, norm in enumerate((0.4, 2.0, 0.75)):
            lines.note_rate(iteration)
            lines.note_norm(jnp.float32(norm))

    assert lines_of(three_updates) == []
    clipped = "Gradient clipping: scaling down gradients (L2 norm"
    assert lines_of(lines.flush) == [
        "MultiStep Status: Iteration 1, step = 1",
        f"{clipped} 2 > 0.5) by scale factor 0.25",
        "MultiStep Status: Iteration 2, step = 2",
        f"{clipped} 0.75 > 0.5) by scale factor 0.666667",
    ]
    assert lines_of(lines.flush) == []


def test_without_clipping_a_new_rate_is_logged_at_once():
    solver = caffe_pb2.SolverParameter(lr_policy="multistep", stepvalue=[3])
    lines = UpdateLines(solver)
    assert lines_of(lambda: lines.note_norm(None)) == []
    assert lines_of(lambda: lines.note_rate(3)) == [
        "MultiStep Status: Iteration 3, step = 1"
    ]


def test_lines_held_back_are_logged_after_a_thousand_updates():
    lines = UpdateLines(caffe_pb2.SolverParameter(clip_gradients=1.0))
    norm = jnp.float32(math.pi)

    def updates():
        for _ in range(1001):
            lines.note_norm(norm)

    assert len(lines_of(updates)) == 1000
