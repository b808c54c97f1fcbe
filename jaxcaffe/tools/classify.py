"""Names what image files show: `classify NET WEIGHTS IMAGE...`.

Follows caffe/python/classify.py, and caffe/examples/cpp_classification for what it
prints.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence

import numpy as np

from jaxcaffe.classifier import Classifier, read_input_shape
from jaxcaffe.cpu import tune_cpu
from jaxcaffe.errors import ConfigError, describe, plural
from jaxcaffe.image_io import center_crop, load_image
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.proto.binary import read_blob
from jaxcaffe.spec import Shape
from jaxcaffe.tools import classify_to_file, cli
from jaxcaffe.tools.layers_flag import add_layers_flag, load_flagged_layers
from jaxcaffe.tools.state_flags import add_state_flags, read_state

DESCRIPTION = """\
Prints, for each image file, the classes that a trained net finds most probable.

  classify deploy.prototxt caffenet.caffemodel cat.jpg \\
    --mean=imagenet_mean.binaryproto --labels=synset_words.txt
  classify deploy.prototxt runs/digits/snapshots/400 7.png --input_scale=0.00390625

The form of Caffe's classify.py, which writes a .npy file, is understood too: classify
INPUT OUT.npy --model_def=NET --pretrained_model=WEIGHTS; with these, --help tells more.

WEIGHTS is a .caffemodel, or the folder of one snapshot of a run. Images are read as
B, G, R from 0 to 255 (gray if the net has one channel), resized to image_dims, cropped
to the net's input; then the mean is subtracted, and input_scale multiplies."""

_CAFFES_FLAG = re.compile(r"--?(model[_-]def|pretrained[_-]model)(=|$)")
_GROUP = 16  # images in memory at a time


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
      argv: the arguments without the program's name; None takes the process's.

    Returns:
      0.

    Raises:
      CaffeError: wrong flags; a net, weights, labels, mean or image that is missing,
        broken or does not fit the others.
    """
    argv = sys.argv[1:] if argv is None else argv
    if any(_CAFFES_FLAG.match(word) for word in argv):
        return classify_to_file.main(argv)
    parser = cli.Parser("classify", DESCRIPTION)
    parser.argument("NET", "a prototxt with an Input layer, as deploy.prototxt")
    parser.argument("WEIGHTS", "a .caffemodel file or a snapshot's folder")
    parser.argument("IMAGE", "image files", nargs="+")
    parser.flag("labels", "", "file with the name of class k on line k, from 0")
    parser.flag("top", 5, "classes to print for each image")
    parser.flag("mean", "", "mean image, a .binaryproto")
    parser.flag("mean_value", "", "mean of each channel instead, as 104,117,123")
    parser.flag(
        "image_dims",
        "",
        "rows,columns to resize images to; by default the size of the mean image, or "
        "without one the net's input size",
    )
    parser.flag(
        "crop",
        "center",
        "the centre, or the average over 10: corners, centre, and all mirrored",
        choices=("center", "10"),
    )
    parser.flag("raw_scale", 255.0, "factor that turns 0..1 into what the net expects")
    parser.flag("input_scale", 1.0, "factor applied after the mean")
    parser.flag("output", "", "blob to read; by default the only output, or prob")
    add_state_flags(parser)
    add_layers_flag(parser)
    flags = parser.parse(argv)
    load_flagged_layers(flags)
    if flags.top < 1:
        raise ConfigError(describe("--top", f"is {flags.top}", "at least 1"))
    tune_cpu()
    classify(
        build_classifier(
            flags.NET,
            flags.WEIGHTS,
            mean_file=flags.mean,
            mean_value=_parse_numbers("mean_value", flags.mean_value),
            image_dims=_parse_dims(flags.image_dims),
            raw_scale=flags.raw_scale,
            input_scale=flags.input_scale,
            output=flags.output or None,
            level=flags.level or 0,
            stages=read_state(flags, caffe_pb2.TEST).stage,
        ),
        flags.IMAGE,
        label_file=flags.labels,
        top=flags.top,
        oversample=flags.crop == "10",
    )
    return 0


def build_classifier(
    model_file: str,
    pretrained_file: str,
    *,
    mean_file: str = "",
    mean_value: Sequence[float] = (),
    image_dims: Sequence[int] = (),
    raw_scale: float = 255.0,
    input_scale: float = 1.0,
    output: str | None = None,
    level: int = 0,
    stages: Sequence[str] = (),
) -> Classifier:
    """Makes a classifier that treats images as Caffe's test nets do.

    Args:
      model_file: see Classifier.
      pretrained_file: see Classifier.
      mean_file: a .binaryproto of the net's input size, or of image_dims, of which the
        centre crop is then taken.
      mean_value: one number, or one per channel, instead of mean_file.
      image_dims: rows and columns; empty for the size of the mean image, or without one
        the net's input size.
      raw_scale: see Classifier.
      input_scale: see Classifier.
      output: see Classifier.
      level: see Classifier.
      stages: see Classifier.

    Raises:
      CaffeError: as Classifier; both means are given, or one does not fit.
    """
    if mean_file and len(mean_value):
        raise ConfigError(
            describe("--mean", "and --mean_value are both given", "one of them")
        )
    shape = read_input_shape(model_file, level, stages)
    if shape[0] not in (1, 3):
        raise ConfigError(
            describe(
                model_file,
                f"the net's input has {shape[0]} channels",
                "1, for gray images, or 3, for B, G, R",
            )
        )
    mean: np.ndarray | None = None
    if mean_file:
        mean, default_dims = _read_mean(mean_file, shape, image_dims)
        image_dims = image_dims or default_dims
    elif len(mean_value):
        mean = _fit_mean_value(mean_value, shape[0])
    return Classifier(
        model_file,
        pretrained_file,
        image_dims=tuple(image_dims) or None,
        mean=mean,
        input_scale=input_scale,
        raw_scale=raw_scale,
        channel_swap=(2, 1, 0) if shape[0] == 3 else None,
        output=output,
        level=level,
        stages=stages,
    )


def classify(
    classifier: Classifier,
    images: Sequence[str],
    *,
    label_file: str = "",
    top: int = 5,
    oversample: bool = False,
) -> None:
    """Prints the best classes of each image.

    Args:
      classifier: from `build_classifier`.
      images: paths of image files.
      label_file: a line per class; without it classes go by their numbers.
      top: how many classes to print.
      oversample: average over ten crops.

    Raises:
      ConfigError: the labels cannot be read, or are not one per class.
      DataError: an image is missing or broken.

    Source: caffe/examples/cpp_classification/classification.cpp, main. Differs: any
    number of images.
    """
    labels = (
        read_labels(label_file, classifier.classes)
        if label_file
        else [f"class {index}" for index in range(classifier.classes)]
    )
    for start in range(0, len(images), _GROUP):
        paths = images[start : start + _GROUP]
        pixels = [load_image(path, color=classifier.channels == 3) for path in paths]
        scores = classifier.predict(pixels, oversample).reshape(len(paths), -1)
        for path, row in zip(paths, scores, strict=True):
            print(f"---------- Prediction for {path} ----------")
            for index in best_classes(row, top):
                print(f'{row[index]:.4f} - "{labels[index]}"')


def best_classes(scores: np.ndarray, count: int) -> list[int]:
    """Returns the classes with the highest scores, best first.

    Args:
      scores: (classes,) float32.
      count: how many, at most.

    Source: caffe/examples/cpp_classification/classification.cpp, Argmax. Differs: of
    equal scores the lower class comes first.
    """
    return [int(index) for index in np.argsort(-scores, kind="stable")[:count]]


def read_labels(path: str, classes: int) -> list[str]:
    """Reads one label per line.

    Raises:
      ConfigError: the file cannot be read, or has another number of lines than there
        are classes.
    """
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            labels = [line.rstrip("\n") for line in file]
    except OSError as error:
        raise ConfigError(describe(path, f"cannot be read: {error.strerror}")) from None
    if len(labels) != classes:
        raise ConfigError(
            describe(
                path,
                f"has {plural(len(labels), 'line')}, and the net's output "
                f"{plural(classes, 'value')}",
                f"{plural(classes, 'line')}, one label each",
            )
        )
    return labels


def _read_mean(
    path: str, shape: Shape, image_dims: Sequence[int]
) -> tuple[np.ndarray, Sequence[int]]:
    """Returns the mean of the net's input, and the size of the whole mean image."""
    mean = read_blob(path)
    mean = mean[0] if mean.ndim == 4 and mean.shape[0] == 1 else mean
    crop_dims = shape[1:]
    if mean.shape == shape:
        return mean, ()
    whole = tuple(image_dims) or mean.shape[1:]
    fits = mean.ndim == 3 and mean.shape == (shape[0], *whole)
    if not fits or any(m < c for m, c in zip(whole, crop_dims, strict=True)):
        accepted = [shape, (shape[0], *image_dims)] if image_dims else [shape]
        larger = "" if image_dims else ", or larger images of as many channels"
        raise ConfigError(
            describe(
                path,
                f"the mean has shape {mean.shape}, the net's input {shape}",
                " or ".join(map(str, accepted)) + larger,
            )
        )
    crop = center_crop(mean.transpose(1, 2, 0)[None], crop_dims)[0]
    return crop.transpose(2, 0, 1), whole


def _fit_mean_value(mean_value: Sequence[float], channels: int) -> np.ndarray:
    if len(mean_value) not in (1, channels):
        raise ConfigError(
            describe(
                "--mean_value",
                f"has {len(mean_value)} numbers for {plural(channels, 'channel')}",
                "1 number" + (f", or {channels}" if channels > 1 else ""),
            )
        )
    return np.broadcast_to(np.asarray(mean_value, np.float32), (channels,))


def _parse_numbers(name: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")] if text else []
    except ValueError:
        raise ConfigError(
            describe(f"--{name}", f'"{text}" is no list of numbers', "104,117,123")
        ) from None


def _parse_dims(text: str) -> tuple[int, ...]:
    parts = text.split(",") if text else []
    if any(not part.strip().isdecimal() for part in parts) or len(parts) not in (0, 2):
        raise ConfigError(
            describe("--image_dims", f'"{text}" is not rows,columns', "256,256")
        )
    return tuple(int(part) for part in parts)


if __name__ == "__main__":
    cli.run(main)
