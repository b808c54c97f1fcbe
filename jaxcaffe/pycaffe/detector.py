"""pycaffe's Detector: a Net that classifies windows of images, as R-CNN does.

Follows caffe/python/caffe/detector.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jaxcaffe.errors import CaffeError, ConfigError, describe
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.pycaffe import images
from jaxcaffe.pycaffe.net import Net
from jaxcaffe.pycaffe.transformer import make_transformer


class MissingModuleError(CaffeError, ImportError):
    """Something that this project does not bring is needed."""


class Detector(Net):
    """A net in the TEST phase, with the way of images' windows to its first input.

    Args:
      model_file: a prototxt whose first input is (N, C, H, W), as deploy.prototxt.
      pretrained_file: its weights.
      mean: see io.Transformer.set_mean.
      input_scale: see io.Transformer.set_input_scale.
      raw_scale: see io.Transformer.set_raw_scale.
      channel_swap: see io.Transformer.set_channel_swap.
      context_pad: see configure_crop.

    Attributes:
      transformer: an io.Transformer, set as the arguments say.
      crop_dims: (H, W, C) of the net's input.
      context_pad: see configure_crop.
      crop_mean: (H, W, C), or what broadcasts to it: fills what lies outside an image,
        in the image's own channels and scale. Only with context_pad.

    Raises:
      CaffeError: as Net and io.Transformer.

    Source: caffe/python/caffe/detector.py. Differs: none.
    """

    def __init__(
        self,
        model_file: str,
        pretrained_file: str,
        mean: np.ndarray | None = None,
        input_scale: float | None = None,
        raw_scale: float | None = None,
        channel_swap: Sequence[int] | None = None,
        context_pad: int | None = None,
    ) -> None:
        super().__init__(model_file, caffe_pb2.TEST, weights=pretrained_file)
        self.transformer = make_transformer(
            self, mean, input_scale, raw_scale, channel_swap
        )
        self.configure_crop(context_pad)

    def detect_windows(
        self, images_windows: Iterable[tuple[str, Sequence[Sequence[int]]]]
    ) -> list[dict[str, Any]]:
        """Returns what the net's first output says about windows of images.

        Args:
          images_windows: image file and its windows, each (ymin, xmin, ymax, xmax) in
            pixels.

        Returns:
          One dict per window, in order: "window", "prediction" (float32, the output's
          shape without its first axis), "filename".

        Raises:
          DataError: an image is missing or broken.
          ConfigError: a window that is no window of its image.

        Source: caffe/python/caffe/detector.py. Differs: no windows give an empty list.
        """
        name = self.inputs[0]
        found: list[dict[str, Any]] = []
        rows = []
        for filename, windows in images_windows:
            image = images.load_image(filename)
            for window in windows:
                crop = self.crop(image, window)
                rows.append(self.transformer.preprocess(name, crop))
                found.append({"window": window, "filename": filename})
        if not found:
            return []
        predictions = self.forward_all(None, **{name: np.stack(rows)})[self.outputs[0]]
        for entry, prediction in zip(found, predictions, strict=True):
            entry["prediction"] = prediction
        return found

    def detect_selective_search(
        self, image_fnames: Sequence[str]
    ) -> list[dict[str, Any]]:
        """Returns what the net says about the windows that Selective Search proposes.

        Args:
          image_fnames: image files.

        Returns:
          As detect_windows.

        Raises:
          MissingModuleError: the module that runs Selective Search in MATLAB is not
            installed.

        Source: caffe/python/caffe/detector.py. Differs: none.
        """
        try:
            import selective_search_ijcv_with_python as selective_search
        except ImportError:
            raise MissingModuleError(
                describe(
                    "detect_selective_search",
                    "the module selective_search_ijcv_with_python, which proposes "
                    "windows with the help of MATLAB, is not installed",
                    "detect_windows with windows from elsewhere",
                )
            ) from None
        # MATLAB has another working directory.
        paths = [os.path.abspath(path) for path in image_fnames]
        windows = selective_search.get_windows(paths, cmd="selective_search_rcnn")
        return self.detect_windows(zip(paths, windows, strict=True))

    def crop(self, im: np.ndarray, window: Sequence[int]) -> np.ndarray:
        """Cuts a window out of an image, with context if that is configured.

        Args:
          im: (H, W, C).
          window: (ymin, xmin, ymax, xmax) in pixels; without context_pad the row ymax
            and the column xmax stay out.

        Returns:
          float32: the window in its own size, or with context_pad one of crop_dims.

        Raises:
          ConfigError: a window that is no window of the image.

        Source: caffe/python/caffe/detector.py. Differs: sizes that Caffe leaves as
        floats, which numpy refuses today, are truncated, as they were then.
        """
        box = np.asarray(window)
        if box.shape != (4,):
            raise _refuse(window, "has not four numbers", im)
        if self.context_pad:
            return self._crop_with_context(im, window)
        ymin, xmin, ymax, xmax = (int(edge) for edge in box)
        crop = im[ymin:ymax, xmin:xmax]
        if 0 in crop.shape:
            raise _refuse(window, "holds no pixel", im)
        return crop

    def configure_crop(self, context_pad: int | None) -> None:
        """Sets how much around a window is cut out with it.

        Args:
          context_pad: width in pixels of the net's input of a border that shows what
            surrounds the window; None or 0 for windows alone.

        Raises:
          ConfigError: the border leaves nothing of the input, or the input is not
            square.

        Source: caffe/python/caffe/detector.py. Differs: an input that is not square is
        refused, as windows would be distorted.
        """
        name = self.inputs[0]
        channels, height, width = self.blobs[name].shape[1:]
        self.crop_dims = np.array([height, width, channels])
        self.context_pad = context_pad
        if not context_pad:
            return
        if height != width or 2 * context_pad >= width:
            raise ConfigError(
                describe(
                    "context_pad",
                    f"is {context_pad} for an input of {height} x {width} pixels",
                    "a square input, of which more than the border remains",
                )
            )
        mean = self.transformer.mean.get(name)
        if mean is None:
            self.crop_mean = np.zeros(self.crop_dims, np.float32)
            return
        planes = mean if mean.ndim == 3 else mean[np.newaxis]
        crop_mean = planes.transpose(1, 2, 0)
        order = self.transformer.channel_swap.get(name)
        if order is not None and crop_mean.shape[2] == len(order):
            crop_mean = crop_mean[:, :, np.argsort(order)]
        raw_scale = self.transformer.raw_scale.get(name)
        self.crop_mean = crop_mean / (1 if raw_scale is None else raw_scale)

    def _crop_with_context(self, im: np.ndarray, window: Sequence[int]) -> np.ndarray:
        assert self.context_pad
        box = np.asarray(window, np.float64)
        crop_size = int(self.crop_dims[1])
        scale = crop_size / (crop_size - 2 * self.context_pad)
        half = (box[2:] - box[:2] + 1) / 2
        center = box[:2] + half
        around = np.round(
            np.concatenate([center - scale * half, center + scale * half])
        )
        # Pixels of the net's input per pixel of the image, both ways.
        zoom = crop_size / (around[2:] - around[:2] + 1)
        pad = [round(float(p)) for p in np.maximum(0, -around[:2]) * zoom]
        height, width = im.shape[:2]
        inside = np.clip(around, 0, [height, width, height, width])
        sizes = [round(float(s)) for s in (inside[2:] - inside[:2] + 1) * zoom]
        sizes = [min(s, crop_size - p) for s, p in zip(sizes, pad, strict=True)]
        ymin, xmin, ymax, xmax = inside.astype(int)
        context = im[ymin:ymax, xmin:xmax]
        if 0 in context.shape or min(sizes) < 1:
            raise _refuse(window, "lies outside the image", im)
        crop = np.ones(self.crop_dims, np.float32) * self.crop_mean
        rows, columns = (slice(p, p + s) for p, s in zip(pad, sizes, strict=True))
        crop[rows, columns] = images.resize_image(context, sizes)
        return crop.astype(np.float32)


def _refuse(window: Sequence[int], problem: str, im: np.ndarray) -> ConfigError:
    height, width = im.shape[:2]
    return ConfigError(
        describe(
            "window",
            f"{tuple(window)} {problem}, an image of {height} x {width} pixels",
            "(ymin, xmin, ymax, xmax)",
        )
    )
