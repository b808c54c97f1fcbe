"""Image classification with a trained net: resize, crop, run, average.

Follows caffe/python/caffe/classifier.py, and the Transformer of its io.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import jax
import numpy as np

from jaxcaffe.data.openers import FEED_PARAMS
from jaxcaffe.errors import (
    ConfigError,
    PrototxtError,
    describe,
    from_callbacks,
    nearest,
    plural,
)
from jaxcaffe.image_io import (
    CROPS,
    center_crop,
    check_crop,
    load_image,
    oversample,
    resize_image,
)
from jaxcaffe.net import graph, translate
from jaxcaffe.pretrained import load_pretrained
from jaxcaffe.proto import caffe_pb2, text, upgrade
from jaxcaffe.spec import Blobs, Graph, Net, Node, Params, Shape, Stats

__all__ = ["Classifier", "load_image"]

_FEEDS = ("Input", *FEED_PARAMS)

_Run = Callable[[Params, Stats, np.ndarray], jax.Array]
"""(params, stats, (N, C, H, W) float32) -> output blob."""


class Classifier:
    """A net that tells what images show, as pycaffe's.

    Args:
      model_file: a prototxt with one Input layer with one top (N, C, H, W), such as a
        deploy.prototxt.
      pretrained_file: a .caffemodel, or the folder of one snapshot of a run.
      image_dims: rows and columns to which images are resized before they are cropped;
        None for the net's input size, which leaves nothing to crop.
      mean: subtracted after channel_swap and raw_scale: (C,), or (C, H, W), which is
        resized to the net's input size.
      input_scale: factor applied last.
      raw_scale: factor applied before the mean is subtracted; 255 for nets that learned
        from bytes.
      channel_swap: which channel of the image becomes each channel of the net's input;
        (2, 1, 0) for nets that learned B, G, R, as Caffe's do.
      output: the blob to read; None for the net's only output, or "prob".
      level: of the net, which min_level and max_level in its layers look at.
      stages: of the net, which stage and not_stage look at.

    Attributes:
      net: the net at the batch size of its file.
      input: name of its input blob.
      output: name of the blob that is read.
      channels: of the net's input.
      crop_dims: rows and columns of the net's input.
      image_dims: rows and columns of images before they are cropped.
      classes: values that the output has per image.

    Raises:
      PrototxtError: the net is wrong, or has another number of inputs than one.
      SnapshotError: the weights are missing, broken or of another net.
      ConfigError: mean, channel_swap, image_dims or output do not fit the net.

    Source: caffe/python/caffe/classifier.py. Differs: the batch is as large as needed,
    up to the size in the file; several outputs must be told apart; a mean of other
    channels than the net's is refused.
    """

    def __init__(
        self,
        model_file: str,
        pretrained_file: str,
        image_dims: Sequence[int] | None = None,
        mean: np.ndarray | None = None,
        input_scale: float | None = None,
        raw_scale: float | None = None,
        channel_swap: Sequence[int] | None = None,
        *,
        output: str | None = None,
        level: int = 0,
        stages: Sequence[str] = (),
    ) -> None:
        self._graph = _read_graph(model_file, level, stages)
        node = _find_input(self._graph, model_file)
        self.input = node.tops[0]
        self._batch_size, self.channels, *crop_dims = _input_shape(node)
        self.net = translate.build_net(self._graph, {})
        self.output = _find_output(self.net, output, model_file)
        self.crop_dims = tuple(crop_dims)
        self.image_dims = tuple(image_dims or self.crop_dims)
        check_crop(self.image_dims, self.crop_dims)
        self._mean = None if mean is None else self._fit_mean(np.asarray(mean))
        self._input_scale = input_scale
        self._raw_scale = raw_scale
        self._channel_swap = _check_swap(channel_swap, self.channels)
        self._weights = load_pretrained(self.net, pretrained_file)
        self._runs: dict[int, tuple[int, _Run]] = {}

    @property
    def classes(self) -> int:
        """Values that the output has per image."""
        return math.prod(self.net.structs[self.output].shape[1:])

    def predict(
        self, inputs: Sequence[np.ndarray], oversample: bool = True
    ) -> np.ndarray:
        """Returns what the net's output says about each image.

        Args:
          inputs: (H, W, C) images, sizes may differ; from `load_image`: float32, R, G,
            B, 0 to 1.
          oversample: average over ten crops (corners, centre, and all mirrored), else
            take the centre.

        Returns:
          float32: (N, classes) with `oversample`; else (N, ...) as the net gives it.

        Raises:
          ConfigError: no image, or one with other channels than the net's input.

        Source: caffe/python/caffe/classifier.py, predict. Differs: none.
        """
        self._check_images(inputs)
        crops_per_image = CROPS if oversample else 1
        # So many images at a time that few batches are padded and memory stays small.
        group = max(1, self._batch_size // crops_per_image)
        parts = [
            self._predict_group(inputs[start : start + group], oversample)
            for start in range(0, len(inputs), group)
        ]
        return np.concatenate(parts)

    def preprocess(self, crops: np.ndarray) -> np.ndarray:
        """Turns crops into what the net's input expects.

        Args:
          crops: (N, H, W, C) of the net's input size.

        Returns:
          (N, C, H, W) float32.

        Source: caffe/python/caffe/io.py, Transformer.preprocess. Differs: none.
        """
        data = crops.astype(np.float32).transpose(0, 3, 1, 2)
        if self._channel_swap is not None:
            data = data[:, list(self._channel_swap)]
        if self._raw_scale is not None:
            data = data * np.float32(self._raw_scale)
        if self._mean is not None:
            data = data - self._mean
        if self._input_scale is not None:
            data = data * np.float32(self._input_scale)
        return data

    @from_callbacks()
    def forward(self, data: np.ndarray) -> np.ndarray:
        """Runs the net on any number of images.

        Args:
          data: (N, C, H, W) float32, as `preprocess` makes it.

        Returns:
          The output blob, (N, ...) float32.
        """
        rows, start = [], 0
        while start < len(data):
            size, run = self._run_for(len(data) - start)
            part = data[start : start + size]
            padded = np.zeros((size, *data.shape[1:]), np.float32)
            padded[: len(part)] = part
            rows.append(np.asarray(run(*self._weights, padded))[: len(part)])
            start += size
        return np.concatenate(rows)

    def _predict_group(
        self, images: Sequence[np.ndarray], is_oversampled: bool
    ) -> np.ndarray:
        resized = np.stack([resize_image(image, self.image_dims) for image in images])
        if not is_oversampled:
            crops = center_crop(resized, self.crop_dims)
            return self.forward(self.preprocess(crops))
        crops = oversample(resized, self.crop_dims)
        scores = self.forward(self.preprocess(crops))
        return scores.reshape(len(images), CROPS, -1).mean(axis=1)

    def _run_for(self, count: int) -> tuple[int, _Run]:
        """Returns a batch size for so many images, and the net compiled for it."""
        size = min(self._batch_size, 1 << (count - 1).bit_length())
        if size not in self._runs:
            self._runs[size] = self._make_run(size)
        return self._runs[size]

    def _make_run(self, size: int) -> tuple[int, _Run]:
        net = self.net
        if size != self._batch_size:
            shape = (size, self.channels, *self.crop_dims)
            struct = jax.ShapeDtypeStruct(shape, np.float32)
            try:
                net = translate.build_net(self._graph, {self.input: struct})
            except PrototxtError:
                # A DummyData layer, for instance, may fix the file's batch size.
                return self._run_for(self._batch_size)

        def run(params: Params, stats: Stats, data: jax.Array) -> jax.Array:
            feeds: Blobs = {self.input: data}
            # As Caffe computes: products in float32 on every device.
            with jax.default_matmul_precision("highest"):
                out = net.apply(params, stats, feeds, jax.random.key(0))
            return out.blobs[self.output]

        return size, jax.jit(run)

    def _check_images(self, inputs: Sequence[np.ndarray]) -> None:
        if not len(inputs):
            raise ConfigError(describe("inputs", "there is no image", "one or more"))
        for index, image in enumerate(inputs):
            shape = np.shape(image)
            if len(shape) != 3 or shape[2] != self.channels or 0 in shape:
                raise ConfigError(
                    describe(
                        f"inputs[{index}]",
                        f"the image has shape {shape}",
                        f"(H, W, {self.channels}), as the net's input has "
                        f"{plural(self.channels, 'channel')}",
                    )
                )

    def _fit_mean(self, mean: np.ndarray) -> np.ndarray:
        """Returns (C, 1, 1) or (C, H, W) of the net's input size."""
        wanted = (self.channels, *self.crop_dims)
        fitted = mean.astype(np.float32)
        if fitted.ndim == 1:
            fitted = fitted[:, None, None]
        elif fitted.ndim == 2:
            fitted = fitted[None]
        if fitted.ndim != 3 or fitted.shape[0] != self.channels:
            raise ConfigError(
                describe(
                    "mean",
                    f"has shape {mean.shape}, which does not fit the net's input "
                    f"{wanted}",
                    f"({self.channels},) or {wanted}",
                )
            )
        if mean.ndim == 1 or fitted.shape == wanted:
            return fitted
        resized = resize_image(fitted.transpose(1, 2, 0), self.crop_dims)
        return resized.transpose(2, 0, 1)


def read_input_shape(
    model_file: str, level: int = 0, stages: Sequence[str] = ()
) -> Shape:
    """Returns (C, H, W) of what a classifier's net takes.

    Raises:
      PrototxtError: as Classifier.
    """
    built = _read_graph(model_file, level, stages)
    return _input_shape(_find_input(built, model_file))[1:]


def _read_graph(model_file: str, level: int, stages: Sequence[str]) -> Graph:
    net, source = text.read_net(model_file)
    net = upgrade.upgrade_net(net, source)
    state = caffe_pb2.NetState(phase=caffe_pb2.TEST, level=level, stage=stages)
    return graph.build_graph(net, state, source)


def _find_input(net_graph: Graph, where: str) -> Node:
    """Finds the one layer that takes images, and refuses every other feed."""
    fed = [n for n in net_graph.nodes if not n.bottoms and n.layer.type in _FEEDS]
    tops = [top for node in fed for top in node.tops]
    if len(tops) == 1 and fed[0].layer.type == "Input":
        return fed[0]
    found = ", ".join(f'"{n.layer.name}" ({n.layer.type})' for n in fed) or "none"
    raise PrototxtError(
        describe(
            where,
            f"the net takes its images from {found}, with {plural(len(tops), 'top')}",
            "one Input layer with one top, as in a deploy.prototxt",
        )
    )


def _input_shape(node: Node) -> Shape:
    shapes = [tuple(shape.dim) for shape in node.layer.input_param.shape]
    if len(shapes) != 1 or len(shapes[0]) != 4 or min(shapes[0]) < 1:
        problem = f"its top has shape {shapes[0] if shapes else 'unknown'}"
        raise graph.layer_error(
            node, problem, "input_param { shape { dim: N dim: C dim: H dim: W } }"
        )
    return shapes[0]


def _find_output(net: Net, wanted: str | None, where: str) -> str:
    outputs = net.graph.outputs
    if wanted is not None:
        if wanted in net.structs:
            return wanted
        raise ConfigError(
            describe(
                where, f'no blob is named "{wanted}"', nearest(wanted, net.structs)
            )
        )
    if len(outputs) == 1:
        return outputs[0]
    if "prob" in outputs:
        return "prob"
    raise ConfigError(
        describe(
            where,
            f"the net has {len(outputs)} outputs: {', '.join(outputs)}",
            f"output={outputs[0]}, or another of them, with --output or the argument "
            "output",
        )
    )


def _check_swap(swap: Sequence[int] | None, channels: int) -> tuple[int, ...] | None:
    if swap is None:
        return None
    if len(swap) != channels or not all(0 <= index < channels for index in swap):
        example = ",".join(str(i) for i in reversed(range(channels)))
        raise ConfigError(
            describe(
                "channel_swap",
                f"{tuple(swap)} does not fit {plural(channels, 'channel')}",
                f"{plural(channels, 'number')} from 0 to {channels - 1}, such as "
                f"{example}",
            )
        )
    return tuple(swap)
