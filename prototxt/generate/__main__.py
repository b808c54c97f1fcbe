"""Writes the files of nets that repeat one block many times.

  python prototxt/generate

ResNet, DenseNet, MobileNet and Inception-BN: train_val.prototxt and deploy.prototxt of
each, over those that are there. Change the code here rather than those, and run it
again; a test compares the two. Solvers are written by hand.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable

from densenet import densenet
from inception_bn import inception_bn
from mobilenet import mobilenet
from resnet import resnet

MODELS: dict[str, Callable[[bool], str]] = {
    "densenet121": lambda training: densenet(121, training),
    "inception_bn": inception_bn,
    "mobilenet": mobilenet,
    "resnet50": lambda training: resnet(50, training),
    "resnet101": lambda training: resnet(101, training),
    "resnet152": lambda training: resnet(152, training),
}


def build_files() -> dict[str, str]:
    """Returns every file's text by its path under prototxt/."""
    return {
        f"{model}/{name}.prototxt": make(name == "train_val")
        for model, make in MODELS.items()
        for name in ("train_val", "deploy")
    }


def main() -> None:
    """Writes the files."""
    for path, text in build_files().items():
        target = pathlib.Path(__file__).parents[1] / path
        target.parent.mkdir(exist_ok=True)
        target.write_text(text)
        print(f"{target}: {text.count('layer {')} layers")


if __name__ == "__main__":
    main()
