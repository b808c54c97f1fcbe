"""MobileNet, unit by unit.

Follows shicai/MobileNet-Caffe, mobilenet_deploy.prototxt.
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

# Name, channels out, stride of its 3x3 convolution.
MOBILENET_UNITS = (
    *(("2_1", 64, 1), ("2_2", 128, 2), ("3_1", 128, 1), ("3_2", 256, 2)),
    *(("4_1", 256, 1), ("4_2", 512, 2)),
    *((f"5_{unit}", 512, 1) for unit in range(1, 6)),
    *(("5_6", 1024, 2), ("6", 1024, 1)),
)
MOBILENET = """\
{head}

The net of Howard et al., "MobileNets: Efficient Convolutional Neural Networks for \
Mobile Vision Applications" (https://arxiv.org/abs/1704.04861): 3x3 convolutions of \
each channel by itself (dw), and 1x1 convolutions that mix channels (sep). {more}
Layer and blob names are those of the weights that Shicai Yang published, so that a \
.caffemodel loads by name.
Architecture: https://github.com/shicai/MobileNet-Caffe
Written by python prototxt/generate."""


def mobilenet(training: bool) -> str:
    """Returns MobileNet, first version, with shicai's names."""
    header = MOBILENET.format(
        head="MobileNet for training and validation on ILSVRC-2012."
        if training
        else "MobileNet for classification: a 224x224 image in, 1000 probabilities "
        "out.",
        more="The loss and the crops are those that the README of the weights gives "
        "for fine-tuning."
        if training
        else SHICAI_NOTE,
    )
    return join(header, "MOBILENET", _mobilenet_layers(training))


def _mobilenet_layers(training: bool) -> Layers:
    yield from data(training, 32, SHICAI_TRANSFORM, deploy_images=1)
    yield comment("Stem: 224x224x3 -> 112x112x32")
    yield from _mobilenet_convolution("conv1", "relu1", "data", training, 32, 3, 2)
    bottom, channels, side = "conv1", 32, 112
    for unit, num_output, stride in MOBILENET_UNITS:
        before, side = side, side // stride
        yield comment(
            f"Unit {unit}: {before}x{before}x{channels} -> {side}x{side}x{num_output}"
        )
        name = f"conv{unit}"
        yield from _mobilenet_convolution(
            f"{name}/dw", f"relu{unit}/dw", bottom, training, channels, 3, stride
        )
        yield from _mobilenet_convolution(
            f"{name}/sep", f"relu{unit}/sep", f"{name}/dw", training, num_output, 1, 1
        )
        bottom, channels = f"{name}/sep", num_output
    yield comment("Classifier: mean over each 7x7 plane, then 1024 -> 1000")
    pool = "pooling_param { pool: AVE global_pooling: true }"
    yield layer("pool6", "Pooling", bottom, "pool6", pool)
    fillers = (
        'weight_filler { type: "msra" }',
        'bias_filler { type: "constant" value: 0 }',
    )
    settings = convolution(1000, 1, *(fillers if training else ()), bias_term=True)
    rates = ("param { lr_mult: 1 decay_mult: 1 }", "param { lr_mult: 2 decay_mult: 0 }")
    yield layer(
        "fc7", "Convolution", "pool6", "fc7", *(rates if training else ()), settings
    )
    yield from ending(training, "fc7")


def _mobilenet_convolution(
    name: str,
    relu: str,
    bottom: str,
    training: bool,
    num_output: int,
    kernel_size: int,
    stride: int,
) -> Layers:
    """Yields a convolution, normalisation, scale and shift, and ReLU, in place."""
    fillers = ('weight_filler { type: "msra" }',) if training else ()
    settings = convolution(
        *(num_output, kernel_size, *fillers),
        pad=kernel_size // 2,
        stride=stride,
        group=num_output if name.endswith("/dw") else 1,
    )
    decay = ("param { lr_mult: 1 decay_mult: 1 }",) if training else ()
    yield layer(name, "Convolution", bottom, name, *decay, settings)
    fixed = "" if training else "use_global_stats: true "
    norm = f"batch_norm_param {{ {fixed}eps: 1e-5 }}"
    yield layer(f"{name}/bn", "BatchNorm", name, name, norm)
    no_decay = ("param { lr_mult: 1 decay_mult: 0 }",) * 2 if training else ()
    affine = "scale_param { bias_term: true }"
    yield layer(f"{name}/scale", "Scale", name, name, *no_decay, affine)
    yield layer(relu, "ReLU", name, name)
