"""DenseNet, unit by unit.

Follows shicai/DenseNet-Caffe, DenseNet_121.prototxt.
"""

from __future__ import annotations

from blocks import (
    SHICAI_NOTE,
    SHICAI_TRANSFORM,
    Layers,
    comment,
    convolution,
    data,
    ending,
    join,
    layer,
)

DENSENET_UNITS = {121: (6, 12, 24, 16)}
DENSENET = """\
{head}

The net of Huang, Liu, van der Maaten and Weinberger, "Densely Connected Convolutional \
Networks" (CVPR 2017, https://arxiv.org/abs/1608.06993), growing by 32 channels a \
unit. {more}
Layer and blob names are those of the weights that Shicai Yang converted from the \
authors', so that a .caffemodel loads by name.
Architecture: https://github.com/shicai/DenseNet-Caffe
Written by python prototxt/generate."""


def densenet(depth: int, training: bool) -> str:
    """Returns DenseNet-121, with the names of shicai's conversion."""
    header = DENSENET.format(
        head=f"DenseNet-{depth} for training and validation on ILSVRC-2012."
        if training
        else f"DenseNet-{depth} for classification: a 224x224 image in, 1000 "
        "probabilities out.",
        more="The files of the conversion are for classification only: crops, filling "
        "and mirror images are ours."
        if training
        else SHICAI_NOTE,
    )
    return join(header, f"DENSENET_{depth}", _densenet_layers(depth, training))


def _densenet_layers(depth: int, training: bool) -> Layers:
    yield from data(training, 32, SHICAI_TRANSFORM, deploy_images=1)
    fillers = ('weight_filler { type: "msra" }',) if training else ()
    yield comment("Stem: 224x224x3 -> 112x112x64 -> 56x56x64")
    settings = convolution(64, 7, *fillers, pad=3, stride=2)
    yield layer("conv1", "Convolution", "data", "conv1", settings)
    yield from _densenet_relu("conv1", "conv1", "relu1")
    yield layer(
        *("pool1", "Pooling", "conv1/bn", "pool1"),
        "pooling_param { pool: MAX pad: 1 kernel_size: 3 stride: 2 round_mode: FLOOR }",
    )
    bottom, channels = "pool1", 64
    units = DENSENET_UNITS[depth]
    for stage, count in enumerate(units, start=2):
        side = 224 // 2**stage
        wide = channels + 32 * count
        yield comment(
            f"Stage {stage}: {count} units, each of which sees the stage's input and "
            f"all units before it, {side}x{side}x{channels} -> {side}x{side}x{wide}"
        )
        channels = wide
        for unit in range(1, count + 1):
            name = f"conv{stage}_{unit}"
            for part, num_output, kernel_size in (("x1", 128, 1), ("x2", 32, 3)):
                above = bottom if part == "x1" else f"{name}/x1"
                yield from _densenet_relu(
                    above, f"{name}/{part}", f"relu{stage}_{unit}/{part}"
                )
                settings = convolution(
                    num_output, kernel_size, *fillers, pad=kernel_size // 2
                )
                yield layer(
                    *(f"{name}/{part}", "Convolution", f"{name}/{part}/bn"),
                    *(f"{name}/{part}", settings),
                )
            concat = f"concat_{stage}_{unit}"
            yield layer(concat, "Concat", [bottom, f"{name}/x2"], concat)
            bottom = concat
        block = f"conv{stage}_blk"
        if stage < len(units) + 1:
            channels //= 2
            yield comment(
                f"Transition: half of the channels, half of the side -> "
                f"{side // 2}x{side // 2}x{channels}"
            )
        yield from _densenet_relu(bottom, block, f"relu{stage}_blk")
        if stage < len(units) + 1:
            settings = convolution(channels, 1, *fillers)
            yield layer(block, "Convolution", f"{block}/bn", block, settings)
            bottom = f"pool{stage}"
            pool = "pooling_param { pool: AVE kernel_size: 2 stride: 2 }"
            yield layer(bottom, "Pooling", block, bottom, pool)
    yield comment(f"Classifier: mean over each 7x7 plane, then {channels} -> 1000")
    pool = "pooling_param { pool: AVE global_pooling: true }"
    yield layer("pool5", "Pooling", f"{block}/bn", "pool5", pool)
    settings = convolution(1000, 1, *fillers, bias_term=True)
    yield layer("fc6", "Convolution", "pool5", "fc6", settings)
    yield from ending(training, "fc6")


def _densenet_relu(bottom: str, name: str, relu: str) -> Layers:
    """Yields normalisation, scale and shift, and ReLU, which come before convolutions.

    The first of them takes a blob of its own, as others need the bottom as it is.
    """
    top = f"{name}/bn"
    yield layer(top, "BatchNorm", bottom, top, "batch_norm_param { eps: 1e-5 }")
    affine = "scale_param { bias_term: true }"
    yield layer(f"{name}/scale", "Scale", top, top, affine)
    yield layer(relu, "ReLU", top, top)
