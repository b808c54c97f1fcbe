"""pycaffe's Classifier: a Net that tells what images show.

Follows caffe/python/caffe/classifier.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxcaffe import image_io
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.pycaffe import images
from jaxcaffe.pycaffe.net import Net
from jaxcaffe.pycaffe.transformer import make_transformer


class Classifier(Net):
    """A net in the TEST phase, with the images' way to its first input.

    Args:
      model_file: a prototxt whose first input is (N, C, H, W), as deploy.prototxt.
      pretrained_file: its weights.
      image_dims: rows and columns to which images are resized before they are cropped;
        None for the input's, which leaves nothing to crop.
      mean: see io.Transformer.set_mean.
      input_scale: see io.Transformer.set_input_scale.
      raw_scale: see io.Transformer.set_raw_scale.
      channel_swap: see io.Transformer.set_channel_swap.

    Attributes:
      transformer: an io.Transformer, set as the arguments say.
      crop_dims: rows and columns of the input.
      image_dims: rows and columns of images before they are cropped.

    Raises:
      CaffeError: as Net and io.Transformer.

    Source: caffe/python/caffe/classifier.py. Differs: none.
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
    ) -> None:
        super().__init__(model_file, caffe_pb2.TEST, weights=pretrained_file)
        self.transformer = make_transformer(
            self, mean, input_scale, raw_scale, channel_swap
        )
        self.crop_dims = np.array(self.blobs[self.inputs[0]].shape[2:])
        self.image_dims: Sequence[int] | np.ndarray = self.crop_dims
        if image_dims is not None and len(image_dims):
            self.image_dims = image_dims

    def predict(
        self, inputs: Sequence[np.ndarray], oversample: bool = True
    ) -> np.ndarray:
        """Returns what the net's first output says about each image.

        Args:
          inputs: (H, W, C) images, sizes may differ; from io.load_image: float32, R, G,
            B, 0 to 1.
          oversample: average over ten crops (corners, centre, and all mirrored), else
            take the centre.

        Returns:
          float32: (N, classes) with `oversample`; else (N, ...) as the net gives it.

        Raises:
          CaffeError: no image, or images that do not fit the net's input.

        Source: caffe/python/caffe/classifier.py, predict. Differs: none.
        """
        dims = [int(length) for length in self.image_dims]
        crop_dims = [int(length) for length in self.crop_dims]
        resized = [images.resize_image(image, dims) for image in inputs]
        stack = images.stack_images(resized)
        if oversample:
            crops = images.oversample(stack, crop_dims)
        else:
            image_io.check_crop(dims, crop_dims)
            crops = image_io.center_crop(stack, crop_dims)
        name = self.inputs[0]
        data = np.stack([self.transformer.preprocess(name, crop) for crop in crops])
        scores = self.forward_all(None, **{name: data})[self.outputs[0]]
        if not oversample:
            return scores
        return scores.reshape(len(stack), image_io.CROPS, -1).mean(axis=1)
