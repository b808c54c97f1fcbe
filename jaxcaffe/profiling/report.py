"""Measures a subject and prints what it finds, in the words of `caffe time`.

Follows the time command of caffe/tools/caffe.cpp; parsers of its lines read these.
"""

from __future__ import annotations

import math

import jax

from jaxcaffe.profiling.layers import time_layers
from jaxcaffe.profiling.subject import (
    Program,
    ProgramTimes,
    Subject,
    compile_subject_program,
    run_program,
    time_program,
)
from jaxcaffe.profiling.timing import Compiled, Peak, measure_peak
from jaxcaffe.proto import caffe_pb2

K40_LINE = (
    "For comparison: Caffe's tutorial gives, for CaffeNet in batches of 256 images on "
    "one K40 GPU,\n  5.2 ms/image for forward and backward, 2 ms/image of it forward."
)
"""Source: caffe/examples/imagenet/readme.md."""

_TRACED_STEPS = 5


def print_profile(subject: Subject, iterations: int, trace: str = "") -> None:
    """Measures and prints everything, on stdout.

    Args:
      subject: what to profile.
      iterations: calls that each mean is taken over.
      trace: folder for a trace of a few calls of the first program; "" for none.
    """
    device = jax.devices()[0]
    phase = caffe_pb2.Phase.Name(subject.net.graph.phase)
    _say(f"Net {subject.net.graph.name} of {subject.path}, phase {phase}")
    _say(
        f"{subject.images} images per step, {subject.devices} "
        f"{device.platform.upper()} device(s) ({device.device_kind}), "
        f"precision {subject.precision}"
    )
    peak = measure_peak()
    _say(
        f"Measured peak of one device: {_scale(peak.flops)}FLOP/s (product of "
        f"float32 matrices), {_scale(peak.bytes)}B/s (memory)"
    )
    _say("")
    _print_layers(subject, iterations)
    for index, program in enumerate(subject.programs):
        _say("")
        compiled = compile_subject_program(program)
        times, arguments = time_program(program, compiled.call, iterations)
        _print_program(subject, program, compiled, times, peak)
        if trace and index == 0:
            count = min(iterations, _TRACED_STEPS)
            options = jax.profiler.ProfileOptions()
            # Python's own calls would slow the step and fill the trace.
            options.python_tracer_level = 0
            with jax.profiler.trace(trace, profiler_options=options):
                run_program(program, compiled.call, arguments, count, fed=True)
            _say(f"  Trace of {count} call(s): {trace}")
    if "caffenet" in subject.net.graph.name.lower():
        _say("")
        _say(K40_LINE)


def _print_layers(subject: Subject, iterations: int) -> None:
    _say(f"Testing for {iterations} iterations, each layer compiled by itself.")
    _say("Average time per layer: ")
    feeds = dict(subject.time_feeds(iterations))
    width = max(
        10,
        *(len(node.layer.name) for node in subject.net.graph.nodes),
        *map(len, feeds),
    )

    def row(name: str, forward: float, backward: float) -> None:
        _say(f"{name:>{width}}\tforward: {_digits(forward)} ms.")
        _say(f"{name:>{width}}\tbackward: {_digits(backward)} ms.")

    forward = backward = 0.0
    layers = time_layers(
        subject.net,
        subject.params,
        subject.stats,
        subject.feeds,
        subject.key,
        iterations,
    )
    for layer in layers:
        taken = feeds.pop(layer.name, layer.forward)
        row(layer.name, taken, layer.backward)
        forward += taken
        backward += layer.backward
    for name, taken in feeds.items():
        row(name, taken, 0.0)
        forward += taken
    _say(f"Average Forward pass: {_digits(forward)} ms.")
    _say(f"Average Backward pass: {_digits(backward)} ms.")
    _say(f"Average Forward-Backward: {_digits(forward + backward)} ms.")
    _say(f"Total Time: {_digits((forward + backward) * iterations)} ms.")


def _print_program(
    subject: Subject,
    program: Program,
    compiled: Compiled,
    times: ProgramTimes,
    peak: Peak,
) -> None:
    # Only a program with a feed takes all batches of a step; others take one batch.
    step_time = times.resident if times.fed is None else times.fed
    images = subject.images if program.advance else _batch_images(subject)
    each = " per device" if subject.devices > 1 else ""
    _say(f"{program.title}, compiled as one program:")
    _say(
        f"  Compile time: {compiled.trace_time + compiled.compile_time:.3g} s "
        f"({compiled.trace_time:.3g} s tracing, {compiled.compile_time:.3g} s XLA"
        + (", kept from an earlier start)" if compiled.was_kept else ")")
    )
    _say(
        f"  Time: {_digits(step_time)} ms/step, {_digits(step_time / images)} "
        f"ms/image, {_digits(images / step_time * 1e3)} images/s"
    )
    if times.fed is not None:
        share = max(0.0, 1 - times.resident / times.fed)
        _say(
            f"  Waiting for data: {share:.1%} of that "
            f"({_digits(times.resident)} ms/step on a batch already on the device)"
        )
    seconds = times.resident / 1e3
    cost = compiled.cost
    _say(
        f"  Computation{each}: {_scale(cost.flops)}FLOP/step, "
        f"{_scale(cost.flops / seconds)}FLOP/s, "
        f"{cost.flops / seconds / peak.flops:.1%} of the measured peak"
    )
    _say(
        f"  Memory traffic{each}: {_scale(cost.bytes)}B/step as XLA counts it, "
        f"{_scale(cost.bytes / seconds)}B/s, "
        f"{cost.bytes / seconds / peak.bytes:.1%} of the measured peak"
    )
    _say(f"  Peak memory{each}: {_scale(cost.memory)}B")


def _batch_images(subject: Subject) -> int:
    shapes = [array.shape for array in subject.feeds.values() if array.ndim]
    return math.prod(shapes[0][:1]) if shapes else subject.images


def _digits(value: float) -> str:
    """Writes four significant digits, never an exponent."""
    if abs(value) >= 1000:
        return f"{value:.0f}"
    return f"{float(f'{value:.4g}'):.6f}".rstrip("0").rstrip(".")


def _scale(value: float) -> str:
    """Writes a number and the SI prefix of its unit: 12300.0 -> "12.3 k"."""
    for prefix, factor in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= factor:
            return f"{_digits(value / factor)} {prefix}"
    return f"{_digits(value)} "


def _say(line: str) -> None:
    print(line, flush=True)
