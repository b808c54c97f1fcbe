"""Text of layers, of what feeds a net and of what ends it, in the style of ours."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

Layers = Iterator[str]
"""The text of layers and, between them, of comments."""

WIDTH = 88
DATA = "ILSVRC-2012 records of 256x256 pixels, three planes in the order B, G, R."
PROB = "Class probabilities."
REPORT = "What is minimised and what is reported."
# What shicai's nets take: means of B, G and R, then a scale.
SHICAI_TRANSFORM = """\
mean_value: 103.94 mean_value: 116.78 mean_value: 123.68
    scale: 0.017"""
SHICAI_NOTE = (
    "Subtract 103.94, 116.78 and 123.68 from the B, G and R planes of the input and "
    "multiply by 0.017."
)


def comment(text: str) -> str:
    """Returns lines of a comment; a line of `text` begins a new one."""
    lines = [
        f"# {line}"
        for part in text.strip().split("\n")
        for line in textwrap.wrap(part, WIDTH - 2, break_on_hyphens=False) or [""]
    ]
    return "\n".join(line.rstrip() for line in lines)


def layer(name: str, kind: str, bottom: str | list[str], top: str, *fields: str) -> str:
    """Returns one layer; `fields` are whole lines, or messages of several."""
    bottoms = [bottom] if isinstance(bottom, str) else bottom
    blobs = [f'bottom: "{blob}"' for blob in bottoms] + [f'top: "{top}"']
    lines = [f'name: "{name}" type: "{kind}"']
    if len(blobs) < 4 and len(" ".join(blobs)) <= WIDTH - 2:
        lines.append(" ".join(blobs))
    else:
        lines += blobs
    lines += [line for field in fields for line in field.split("\n")]
    return "\n".join(["layer {", *(f"  {line}" for line in lines), "}"])


def filled(param: str, numbers: str, *fillers: str) -> str:
    """Returns the settings of a layer with weights, on one line if they fit."""
    line = f"{param} {{ {numbers} }}"
    if not fillers and len(line) <= WIDTH - 2:
        return line
    return "\n".join([f"{param} {{", *(f"  {x}" for x in (numbers, *fillers)), "}"])


def convolution(
    num_output: int,
    kernel_size: int,
    *fillers: str,
    pad: int = 0,
    stride: int = 1,
    group: int = 1,
    bias_term: bool = False,
) -> str:
    """Returns convolution_param; what is Caffe's default is left out."""
    numbers = [f"num_output: {num_output}"]
    numbers += [f"pad: {pad}"] if pad else []
    numbers += [f"kernel_size: {kernel_size}"]
    numbers += [f"group: {group}"] if group > 1 else []
    numbers += [f"stride: {stride}"] if stride > 1 else []
    numbers += [] if bias_term else ["bias_term: false"]
    return filled("convolution_param", " ".join(numbers), *fillers)


def data(training: bool, batch_size: int, transform: str, deploy_images: int) -> Layers:
    """Yields what feeds the net: two databases, or an array of images."""
    if not training:
        yield comment(
            "One image of 224x224."
            if deploy_images == 1
            else "Ten crops: centre and corners, and their mirror images."
        )
        yield "\n".join(
            [
                "layer {",
                '  name: "data" type: "Input"',
                '  top: "data"',
                f"  input_param {{ shape {{ dim: {deploy_images} dim: 3 dim: 224 "
                "dim: 224 } }",
                "}",
            ]
        )
        return
    yield comment(DATA)
    phases = (("TRAIN", "true", "train", batch_size), ("TEST", "false", "val", 50))
    for phase, mirror, part, size in phases:
        yield "\n".join(
            [
                "layer {",
                '  name: "data" type: "Data"',
                '  top: "data" top: "label"',
                f"  include {{ phase: {phase} }}",
                "  transform_param {",
                f"    mirror: {mirror} crop_size: 224",
                f"    {transform}",
                "  }",
                "  data_param {",
                f'    source: "data/ilsvrc12/ilsvrc12_{part}_lmdb"',
                f"    batch_size: {size} backend: LMDB",
                "  }",
                "}",
            ]
        )


def ending(training: bool, scores: str) -> Layers:
    """Yields loss and accuracies, or probabilities."""
    if not training:
        yield comment(PROB)
        yield layer("prob", "Softmax", scores, "prob")
        return
    yield comment(REPORT)
    yield layer("loss", "SoftmaxWithLoss", [scores, "label"], "loss")
    test = "include { phase: TEST }"
    yield layer("accuracy", "Accuracy", [scores, "label"], "accuracy", test)
    yield layer(
        *("accuracy_top5", "Accuracy", [scores, "label"], "accuracy_top5", test),
        "accuracy_param { top_k: 5 }",
    )


def join(header: str, name: str, layers: Layers) -> str:
    """Returns a file: its head, the net's name, and layers under their comments."""
    parts = [comment(header), "", f'name: "{name}"']
    blank = True
    for text in layers:
        parts += ["", text] if blank else [text]
        blank = not text.startswith("#")
    return "\n".join(parts) + "\n"
