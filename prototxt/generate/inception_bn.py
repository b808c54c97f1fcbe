"""Inception-BN, unit by unit.

Follows lim0606/caffe-googlenet-bn, train_val.prototxt.
"""

from __future__ import annotations

from blocks import PROB, Layers, comment, convolution, data, filled, join, layer

# Name: side of its output; channels of 1x1; of 3x3, reduced and out; of double 3x3,
# reduced and out; of the projection behind pooling; pooling. Without a first and a last
# number the side is halved.
INCEPTION_MODULES = (
    ("3a", 28, 64, (64, 64), (64, 96), 32, "AVE"),
    ("3b", 28, 64, (64, 96), (64, 96), 64, "AVE"),
    ("3c", 14, 0, (128, 160), (64, 96), 0, "MAX"),
    ("4a", 14, 224, (64, 96), (96, 128), 128, "AVE"),
    ("4b", 14, 192, (96, 128), (96, 128), 128, "AVE"),
    ("4c", 14, 160, (128, 160), (128, 160), 96, "AVE"),
    ("4d", 14, 96, (128, 192), (160, 192), 96, "AVE"),
    ("4e", 7, 0, (128, 192), (192, 256), 0, "MAX"),
    ("5a", 7, 352, (192, 320), (160, 224), 128, "AVE"),
    ("5b", 7, 352, (192, 320), (192, 224), 128, "MAX"),
)
INCEPTION_BN = """\
{head}

The net of Ioffe and Szegedy, "Batch Normalization: Accelerating Deep Network Training \
by Reducing Internal Covariate Shift" (ICML 2015, https://arxiv.org/abs/1502.03167): \
GoogLeNet with two 3x3 convolutions for each 5x5, and normalisation after every \
convolution; as replicated by Jaehyun Lim. Layer and blob names are those of the \
published weights, so that a .caffemodel loads by name.{more}
Architecture: https://github.com/lim0606/caffe-googlenet-bn
Written by python prototxt/generate."""


def inception_bn(training: bool) -> str:
    """Returns Inception-BN, with lim0606's names."""
    header = INCEPTION_BN.format(
        head="Inception-BN for training and validation on ILSVRC-2012."
        if training
        else "Inception-BN for classification: ten 224x224 crops in, 1000 "
        "probabilities out.",
        more=" These count classes in the order of ILSVRC-2015, not of 2012.",
    )
    return join(header, "InceptionNetwork", _inception_layers(training))


def _inception_layers(training: bool) -> Layers:
    mean = 'mean_file: "data/ilsvrc12/imagenet_mean.binaryproto"'
    yield from data(training, 32, mean, deploy_images=10)
    pool = "pooling_param { pool: MAX kernel_size: 3 stride: 2 }"
    yield comment("Stem: 224x224x3 -> 112x112x64 -> 56x56x192 -> 28x28x192")
    yield from _inception_convolution("conv1/7x7_s2", "data", training, 64, 7, stride=2)
    yield layer("pool1/3x3_s2", "Pooling", "conv1/7x7_s2/bn/sc", "pool1/3x3_s2", pool)
    yield from _inception_convolution(
        "conv2/3x3_reduce", "pool1/3x3_s2", training, 64, 1
    )
    yield from _inception_convolution(
        "conv2/3x3", "conv2/3x3_reduce/bn/sc", training, 192, 3
    )
    yield layer("pool2/3x3_s2", "Pooling", "conv2/3x3/bn/sc", "pool2/3x3_s2", pool)
    bottom, channels, side = "pool2/3x3_s2", 192, 28
    for module in INCEPTION_MODULES:
        name, after, single, (_, threes), (_, doubles), projection, _ = module
        wide = single + threes + doubles + (projection or channels)
        yield comment(
            f"Inception {name}: {side}x{side}x{channels} -> {after}x{after}x{wide}"
        )
        yield from _inception_module(bottom, training, *module)
        bottom, channels, side = f"inception_{name}/output", wide, after
        if training and not projection:
            number = {"3c": 1, "4e": 2}[name]
            yield comment(
                f"Auxiliary classifier {number}, weight 0.3: keeps gradients alive "
                f"{'a third' if number == 1 else 'two thirds'} of the way up."
            )
            yield from _inception_auxiliary(number, bottom, training)
    yield comment("Classifier: mean over each 7x7 plane, then 1024 -> 1000")
    pool = "pooling_param { pool: AVE kernel_size: 7 stride: 1 }"
    yield layer("pool5/7x7_s1", "Pooling", bottom, "pool5/7x7_s1", pool)
    yield _inception_classifier("loss3", "pool5/7x7_s1", training)
    if training:
        yield comment("What is minimised (with the auxiliary losses) and reported.")
        yield from _inception_ending("loss3", 1)
    else:
        yield comment(PROB)
        yield layer("prob", "Softmax", "loss3/classifier", "prob")


def _inception_module(
    bottom: str,
    training: bool,
    letter: str,
    side: int,
    single: int,
    threes: tuple[int, int],
    doubles: tuple[int, int],
    projection: int,
    pool: str,
) -> Layers:
    name = f"inception_{letter}"
    stride = 1 if projection else 2
    tops = []
    if single:
        yield from _inception_convolution(f"{name}/1x1", bottom, training, single, 1)
        tops.append(f"{name}/1x1/bn/sc")
    chain = [
        (f"{name}/3x3_reduce", threes[0], 1, 1),
        (f"{name}/3x3", threes[1], 3, stride),
    ]
    double = [
        (f"{name}/double3x3_reduce", doubles[0], 1, 1),
        (f"{name}/double3x3a", doubles[1], 3, 1),
        (f"{name}/double3x3b", doubles[1], 3, stride),
    ]
    for branch in (chain, double):
        above = bottom
        for part, num_output, kernel_size, part_stride in branch:
            yield from _inception_convolution(
                part, above, training, num_output, kernel_size, part_stride
            )
            above = f"{part}/bn/sc"
        tops.append(above)
    pad = "pad: 1 " if projection else ""
    numbers = f"pool: {pool} {pad}kernel_size: 3 stride: {stride}"
    pooled = f"{name}/pool"
    yield layer(pooled, "Pooling", bottom, pooled, f"pooling_param {{ {numbers} }}")
    if projection:
        part = f"{name}/pool_proj"
        yield from _inception_convolution(part, pooled, training, projection, 1)
        pooled = f"{part}/bn/sc"
    yield layer(f"{name}/output", "Concat", [*tops, pooled], f"{name}/output")


def _inception_convolution(
    name: str,
    bottom: str,
    training: bool,
    num_output: int,
    kernel_size: int,
    stride: int = 1,
) -> Layers:
    fillers = ('weight_filler { type: "xavier" }',) if training else ()
    settings = convolution(
        num_output, kernel_size, *fillers, pad=kernel_size // 2, stride=stride
    )
    rate = ("param { lr_mult: 1 decay_mult: 1 }",) if training else ()
    yield layer(name, "Convolution", bottom, name, *rate, settings)
    yield from _inception_normalised(name)


def _inception_normalised(name: str) -> Layers:
    """Yields normalisation and scale with blobs of their own, then ReLU in place."""
    yield layer(f"{name}/bn", "BatchNorm", name, f"{name}/bn")
    top = f"{name}/bn/sc"
    affine = "scale_param { bias_term: true }"
    yield layer(top, "Scale", f"{name}/bn", top, affine)
    yield layer(f"{top}/relu", "ReLU", top, top)


def _inception_auxiliary(number: int, bottom: str, training: bool) -> Layers:
    name = f"loss{number}"
    pooled = f"pool{number + 2}/5x5_s3"
    pool = "pooling_param { pool: AVE kernel_size: 5 stride: 3 }"
    yield layer(pooled, "Pooling", bottom, pooled, pool)
    yield from _inception_convolution(f"{name}/conv", pooled, training, 128, 1)
    yield layer(
        *(f"{name}/fc", "InnerProduct", f"{name}/conv/bn/sc", f"{name}/fc"),
        "param { lr_mult: 1 decay_mult: 1 }",
        filled(
            "inner_product_param",
            "num_output: 1024 bias_term: false",
            'weight_filler { type: "xavier" }',
        ),
    )
    yield from _inception_normalised(f"{name}/fc")
    yield _inception_classifier(name, f"{name}/fc/bn/sc", training)
    yield from _inception_ending(name, 0.3)


def _inception_classifier(name: str, bottom: str, training: bool) -> str:
    top = f"{name}/classifier"
    if not training:
        numbers = filled("inner_product_param", "num_output: 1000")
        return layer(top, "InnerProduct", bottom, top, numbers)
    numbers = filled(
        *("inner_product_param", "num_output: 1000"),
        'weight_filler { type: "xavier" }',
        'bias_filler { type: "constant" value: 0 }',
    )
    rates = ("param { lr_mult: 1 decay_mult: 1 }", "param { lr_mult: 2 decay_mult: 0 }")
    return layer(top, "InnerProduct", bottom, top, *rates, numbers)


def _inception_ending(name: str, loss_weight: float) -> Layers:
    scores, loss, prob = f"{name}/classifier", f"{name}/loss", f"{name}/prob"
    weight = f"loss_weight: {loss_weight}"
    test = "include { phase: TEST }"
    yield layer(loss, "SoftmaxWithLoss", [scores, "label"], loss, weight)
    yield layer(prob, "Softmax", scores, prob, test)
    top1, top5 = f"{name}/top-1", f"{name}/top-5"
    yield layer(top1, "Accuracy", [prob, "label"], top1, test)
    best = "accuracy_param { top_k: 5 }"
    yield layer(top5, "Accuracy", [prob, "label"], top5, test, best)
