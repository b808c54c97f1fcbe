"""Turns images into what a net's input expects, and back.

Follows caffe/python/caffe/io.py, Transformer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxcaffe.errors import ConfigError, PrototxtError, describe, nearest, plural
from jaxcaffe.pycaffe.images import ArrayError, resize_image

if TYPE_CHECKING:
    from jaxcaffe.pycaffe.net import Net


class Transformer:
    """Turns images into what a net's inputs expect, and back.

    Args:
      inputs: input blob -> its shape, (N, C, H, W) for images.

    Source: caffe/python/caffe/io.py. Differs: the images given are never changed.
    """

    def __init__(self, inputs: Mapping[str, Sequence[int]]) -> None:
        self.inputs = inputs
        self.transpose: dict[str, Sequence[int]] = {}
        self.channel_swap: dict[str, Sequence[int]] = {}
        self.raw_scale: dict[str, float] = {}
        self.mean: dict[str, np.ndarray] = {}
        self.input_scale: dict[str, float] = {}

    def preprocess(self, in_: str, data: np.ndarray) -> np.ndarray:
        """Makes an image ready for an input blob.

        In this order, each where it has been set: resize to the blob's H and W,
        transpose, swap channels, multiply by raw_scale, subtract the mean, multiply by
        input_scale.

        Args:
          in_: name of the blob.
          data: (H', W', C) image.

        Returns:
          float32; (C, H, W) with the transpose (2, 0, 1).

        Raises:
          CaffeError: no such blob; an image that cannot be resized, or has other
            channels than are swapped.

        Source: caffe/python/caffe/io.py. Differs: none.
        """
        self._check_input(in_)
        caffe_in = np.array(data, np.float32)
        in_dims = tuple(self.inputs[in_])[2:]
        if caffe_in.shape[:2] != in_dims:
            caffe_in = resize_image(caffe_in, in_dims)
        if in_ in self.transpose:
            caffe_in = caffe_in.transpose(self.transpose[in_])
        swap = self.channel_swap.get(in_)
        if swap is not None:
            if len(swap) != len(caffe_in):
                problem = f"channel_swap {tuple(swap)} is for an image of "
                problem += plural(len(caffe_in), "channel")
                raise ArrayError(describe("", problem, plural(len(swap), "channel")))
            caffe_in = caffe_in[list(swap)]
        # In place, so that float32 is kept whatever type the numbers have.
        if self.raw_scale.get(in_) is not None:
            caffe_in *= self.raw_scale[in_]
        if in_ in self.mean:
            caffe_in -= self.mean[in_]
        if self.input_scale.get(in_) is not None:
            caffe_in *= self.input_scale[in_]
        return caffe_in

    def deprocess(self, in_: str, data: np.ndarray) -> np.ndarray:
        """Turns the values of an input blob back into an image.

        Args:
          in_: name of the blob.
          data: (C, H, W) or (1, C, H, W).

        Returns:
          (H, W, C) with the transpose (2, 0, 1); not resized.

        Raises:
          ConfigError: no such blob.

        Source: caffe/python/caffe/io.py. Differs: an axis of length 1 is only dropped
        where that leaves as many axes as the transpose has.
        """
        self._check_input(in_)
        transpose = self.transpose.get(in_)
        decaf_in = np.array(data)
        if not np.issubdtype(decaf_in.dtype, np.floating):
            decaf_in = decaf_in.astype(np.float32)
        if transpose is None:
            decaf_in = decaf_in.squeeze()
        else:
            while decaf_in.ndim > len(transpose) and decaf_in.shape[0] == 1:
                decaf_in = decaf_in[0]
        if self.input_scale.get(in_) is not None:
            decaf_in /= self.input_scale[in_]
        if in_ in self.mean:
            decaf_in += self.mean[in_]
        if self.raw_scale.get(in_) is not None:
            decaf_in /= self.raw_scale[in_]
        if in_ in self.channel_swap:
            decaf_in = decaf_in[np.argsort(self.channel_swap[in_])]
        if transpose is not None:
            decaf_in = decaf_in.transpose(np.argsort(transpose))
        return decaf_in

    def set_transpose(self, in_: str, order: Sequence[int]) -> None:
        """Sets which axis of an image becomes each axis of the blob.

        Args:
          in_: name of the blob.
          order: (2, 0, 1) makes (C, H, W) of (H, W, C).

        Raises:
          ConfigError: no such blob; not one number for each of its axes but the first.
        """
        self._check_input(in_)
        axes = len(self.inputs[in_]) - 1
        if len(order) != axes:
            problem = (
                "Transpose order needs to have the same number of dimensions as the "
                f"input. {tuple(order)} is for a blob of {axes}"
            )
            raise ConfigError(describe("", problem, plural(axes, "number")))
        if sorted(order) != list(range(axes)):
            problem = f"transpose {tuple(order)} does not name every axis once"
            raise ConfigError(describe("", problem, f"0 to {axes - 1} in any order"))
        self.transpose[in_] = order

    def set_channel_swap(self, in_: str, order: Sequence[int]) -> None:
        """Sets which channel of an image becomes each channel of the blob.

        Args:
          in_: name of the blob.
          order: (2, 1, 0) makes B, G, R of R, G, B. Channels are the first axis after
            the transpose.

        Raises:
          ConfigError: no such blob; not one number for each of its channels.
        """
        self._check_input(in_)
        channels = self.inputs[in_][1]
        if len(order) != channels:
            problem = (
                "Channel swap needs to have the same number of dimensions as the input "
                f"channels. {tuple(order)} is for {channels} channels"
            )
            raise ConfigError(describe("", problem, plural(channels, "number")))
        if not all(0 <= index < channels for index in order):
            problem = f"channel_swap {tuple(order)} names a channel that is not there"
            raise ConfigError(describe("", problem, f"0 to {channels - 1}"))
        self.channel_swap[in_] = order

    def set_raw_scale(self, in_: str, scale: float) -> None:
        """Sets the factor before the mean; 255 for nets that learned from bytes."""
        self._check_input(in_)
        self.raw_scale[in_] = scale

    def set_mean(self, in_: str, mean: np.ndarray) -> None:
        """Sets what is subtracted.

        Args:
          in_: name of the blob.
          mean: (C,), or (C, H', W') or (H', W'), which is resized to the blob's size.

        Raises:
          ConfigError: no such blob.
          ArrayError: a mean of another number of channels or axes.

        Source: caffe/python/caffe/io.py. Differs: (H', W') is resized too.
        """
        self._check_input(in_)
        shape = tuple(self.inputs[in_])[1:]
        if mean.ndim == 1:
            if len(mean) != shape[0]:
                problem = (
                    f"Mean channels incompatible with input. There are {mean.size}"
                )
                raise ArrayError(describe("", problem, f"{shape[0]}"))
            self.mean[in_] = mean[:, np.newaxis, np.newaxis]
            return
        if mean.ndim not in (2, 3):
            problem = f"Mean shape invalid. It is {mean.shape}"
            raise ArrayError(describe("", problem, f"({shape[0]},) or {shape}"))
        planes = mean if mean.ndim == 3 else mean[np.newaxis]
        if len(planes) not in (1, shape[0]):
            problem = f"Mean channels incompatible with input. It has {len(planes)}"
            raise ArrayError(describe("", problem, f"{shape[0]} or 1"))
        if planes.shape[1:] != shape[1:]:
            resized = resize_image(planes.transpose(1, 2, 0), shape[1:])
            mean = resized.transpose(2, 0, 1)
        self.mean[in_] = mean

    def set_input_scale(self, in_: str, scale: float) -> None:
        """Sets the factor after the mean."""
        self._check_input(in_)
        self.input_scale[in_] = scale

    def _check_input(self, in_: str) -> None:
        if in_ not in self.inputs:
            shapes = ", ".join(f"{name}: {s}" for name, s in self.inputs.items())
            raise ConfigError(
                describe(
                    "",
                    f"{in_} is not one of the net inputs: {{{shapes}}}",
                    nearest(in_, self.inputs),
                )
            )


def make_transformer(
    net: Net,
    mean: np.ndarray | None,
    input_scale: float | None,
    raw_scale: float | None,
    channel_swap: Sequence[int] | None,
) -> Transformer:
    """Returns what turns (H, W, C) images into the net's first input.

    Args:
      net: its first input is (N, C, H, W).
      mean: None for no mean; see Transformer.set_mean.
      input_scale: None for 1; see Transformer.set_input_scale.
      raw_scale: None for 1; see Transformer.set_raw_scale.
      channel_swap: None for the image's order; see Transformer.set_channel_swap.

    Raises:
      PrototxtError: the net has no input, or not of four axes.
      CaffeError: what is set does not fit the input.

    Source: caffe/python/caffe/classifier.py and detector.py. Differs: none.
    """
    shape = net.blobs[net.inputs[0]].shape if net.inputs else ()
    if len(shape) != 4:
        found = f"of shape {shape}" if shape else "missing"
        raise PrototxtError(
            describe(
                net.name or "net",
                f"its first input is {found}",
                'an Input layer of shape (N, C, H, W), or input: "data"',
            )
        )
    name = net.inputs[0]
    transformer = Transformer({name: shape})
    transformer.set_transpose(name, (2, 0, 1))
    if mean is not None:
        transformer.set_mean(name, mean)
    if input_scale is not None:
        transformer.set_input_scale(name, input_scale)
    if raw_scale is not None:
        transformer.set_raw_scale(name, raw_scale)
    if channel_swap is not None:
        transformer.set_channel_swap(name, channel_swap)
    return transformer
