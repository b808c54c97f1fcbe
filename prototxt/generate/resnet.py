"""ResNet, unit by unit.

Follows KaimingHe/deep-residual-networks, prototxt/ResNet-50-deploy.prototxt.
"""

from __future__ import annotations

from blocks import Layers, comment, convolution, data, ending, filled, join, layer

RESNET_UNITS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
RESNET = """\
{head}

The net of He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition" \
(CVPR 2016, https://arxiv.org/abs/1512.03385). {more}
Layer and blob names are those of the published weights, so that a .caffemodel loads \
by name.
Architecture: https://github.com/KaimingHe/deep-residual-networks
Written by python prototxt/generate."""


def resnet(depth: int, training: bool) -> str:
    """Returns ResNet-50, 101 or 152, with the names that its authors published."""
    header = RESNET.format(
        head=f"ResNet-{depth} for training and validation on ILSVRC-2012."
        if training
        else f"ResNet-{depth} for classification: a 224x224 image in, 1000 "
        "probabilities out.",
        more="The authors published no training file: crops and filling follow the "
        "paper, whose augmentation of scale and colour is left out."
        if training
        else "Subtract the mean of the training images.",
    )
    return join(header, f"ResNet-{depth}", _resnet_layers(depth, training))


def _resnet_layers(depth: int, training: bool) -> Layers:
    means = "mean_value: 104 mean_value: 117 mean_value: 123"
    yield from data(training, 32, means, deploy_images=1)
    yield comment("Stem: 224x224x3 -> 112x112x64 -> 56x56x64")
    # Only the smallest of the published nets has biases in its first layer.
    yield from _resnet_convolution(
        *("conv1", "data", training, 64, 7),
        pad=3,
        stride=2,
        bias_term=depth == 50,
    )
    yield layer("conv1_relu", "ReLU", "conv1", "conv1")
    pool = "pooling_param { pool: MAX kernel_size: 3 stride: 2 }"
    yield layer("pool1", "Pooling", "conv1", "pool1", pool)
    bottom = "pool1"
    for stage, units in enumerate(RESNET_UNITS[depth], start=2):
        side, width = 224 // 2**stage, 16 * 2**stage
        yield comment(
            f"Stage {stage}: {units} units of 1x1, 3x3 and 1x1 convolutions beside a "
            f"shortcut -> {side}x{side}x{4 * width}"
        )
        for unit in range(units):
            letters = depth == 50 or stage in (2, 5)
            suffix = "abcdef"[unit] if letters or unit == 0 else f"b{unit}"
            name = f"res{stage}{suffix}"
            stride = 2 if unit == 0 and stage > 2 else 1
            yield from _resnet_unit(name, bottom, training, width, stride, unit == 0)
            bottom = name
    yield comment("Classifier: mean over each 7x7 plane, then 2048 -> 1000")
    pool = "pooling_param { pool: AVE kernel_size: 7 stride: 1 }"
    yield layer("pool5", "Pooling", bottom, "pool5", pool)
    fillers = ['weight_filler { type: "msra" }', 'bias_filler { type: "constant" }']
    numbers = filled(
        "inner_product_param", "num_output: 1000", *(fillers if training else ())
    )
    yield layer("fc1000", "InnerProduct", "pool5", "fc1000", numbers)
    yield from ending(training, "fc1000")


def _resnet_unit(
    name: str, bottom: str, training: bool, width: int, stride: int, projected: bool
) -> Layers:
    """Yields three convolutions, the sum with the shortcut, and a ReLU after it."""
    shortcut = bottom
    if projected:
        shortcut = f"{name}_branch1"
        yield from _resnet_convolution(
            shortcut, bottom, training, 4 * width, 1, stride=stride
        )
    first, second, third = (f"{name}_branch2{letter}" for letter in "abc")
    yield from _resnet_convolution(first, bottom, training, width, 1, stride=stride)
    yield layer(f"{first}_relu", "ReLU", first, first)
    yield from _resnet_convolution(second, first, training, width, 3, pad=1)
    yield layer(f"{second}_relu", "ReLU", second, second)
    yield from _resnet_convolution(third, second, training, 4 * width, 1)
    yield layer(name, "Eltwise", [shortcut, third], name)
    yield layer(f"{name}_relu", "ReLU", name, name)


def _resnet_convolution(
    name: str,
    bottom: str,
    training: bool,
    num_output: int,
    kernel_size: int,
    pad: int = 0,
    stride: int = 1,
    bias_term: bool = False,
) -> Layers:
    """Yields a convolution, its normalisation, and scale and shift, in place."""
    fillers = ('weight_filler { type: "msra" }',) if training else ()
    settings = convolution(
        *(num_output, kernel_size, *fillers),
        pad=pad,
        stride=stride,
        bias_term=bias_term,
    )
    yield layer(name, "Convolution", bottom, name, settings)
    suffix = f"_{name}" if name == "conv1" else name.removeprefix("res")
    fixed = () if training else ("batch_norm_param { use_global_stats: true }",)
    yield layer(f"bn{suffix}", "BatchNorm", name, name, *fixed)
    affine = "scale_param { bias_term: true }"
    yield layer(f"scale{suffix}", "Scale", name, name, affine)
