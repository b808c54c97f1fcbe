"""What classify.py and detect.py share: a trained net, and the way images go to it.

Follows python/classify.py and python/detect.py of Caffe.
"""

from __future__ import annotations

import os
from argparse import Namespace

import numpy as np

from jaxcaffe.errors import ConfigError, DataError, describe
from jaxcaffe.proto.binary import read_blob
from jaxcaffe.tools import cli


def add_net_flags(parser: cli.Parser) -> None:
    """Declares the flags that both have."""
    parser.flag("model_def", "", "the net's prototxt, as deploy.prototxt")
    parser.flag("pretrained_model", "", "its weights, a .caffemodel")
    parser.flag("gpu", False, "compute on a GPU; by default JAX chooses the device")
    parser.flag("mean_file", "", "mean image, a .npy (C, H, W) or a .binaryproto")
    parser.flag("input_scale", None, "factor applied after the mean", float)
    parser.flag("raw_scale", 255.0, "factor that turns 0..1 into what the net expects")
    parser.flag("channel_swap", "2,1,0", "order of channels; '' leaves R, G, B")


def check_net_flags(flags: Namespace, tool: str) -> None:
    """Raises ConfigError unless net and weights are named, and are there.

    Source: caffe/python/classify.py. Differs: Caffe's defaults are CaffeNet's files in
    its own folders, and ImageNet's mean.
    """
    for name in ("model_def", "pretrained_model"):
        if not getattr(flags, name):
            raise ConfigError(describe(tool, f"--{name} is not given", "a file's name"))
        if not os.path.exists(getattr(flags, name)):
            raise ConfigError(describe(getattr(flags, name), "no such file"))


def read_channel_swap(flags: Namespace) -> list[int] | None:
    """Returns --channel_swap, None if it is empty.

    Raises:
      ConfigError: it is no list of numbers.
    """
    parts = flags.channel_swap.split(",") if flags.channel_swap else []
    if not all(part.strip().isdecimal() for part in parts):
        problem = f'"{flags.channel_swap}" is no list of channels'
        raise ConfigError(describe("--channel_swap", problem, "2,1,0"))
    return [int(part) for part in parts] or None


def read_mean(path: str) -> np.ndarray | None:
    """Returns a mean image, (C, H, W) or (C,); None for no path.

    Raises:
      DataError: the file is missing, broken, or no such array.
    """
    if not path:
        return None
    if not path.endswith(".npy"):
        mean = read_blob(path)
        return mean[0] if mean.ndim == 4 and len(mean) == 1 else mean
    array = read_npy(path)
    if array.ndim not in (1, 3):
        problem = f"is an array of shape {array.shape}"
        raise DataError(describe(path, problem, "(C, H, W) or (C,)"))
    return array


def read_npy(path: str) -> np.ndarray:
    """Returns the array of numbers in a .npy file.

    Raises:
      DataError: the file is missing, broken, or holds something else.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except OSError as error:
        problem = f"cannot be read: {error.strerror or error}"
        raise DataError(describe(path, problem)) from None
    except (ValueError, EOFError) as error:
        raise DataError(describe(path, f"is no .npy file: {error}")) from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub":
        raise DataError(describe(path, "is no .npy file of numbers"))
    return array
