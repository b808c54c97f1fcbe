"""What losses divide by, and which labels they leave out.

Follows caffe/src/caffe/layers/loss_layer.cpp and GetNormalizer of
softmax_loss_layer.cpp.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxcaffe.proto import caffe_pb2


def counted_labels(labels: jax.Array, ignore_label: int | None) -> jax.Array:
    """Returns which labels are not ignore_label, as bool of the labels' shape."""
    if ignore_label is None:
        return jnp.ones_like(labels, bool)
    return labels != ignore_label


def normalizer(
    normalization: int, counted: jax.Array, batch_size: int
) -> jax.Array | int:
    """Returns what a loss is divided by, at least 1.

    Args:
      normalization: a LossParameter.NormalizationMode.
      counted: bool, which of the labels count.
      batch_size: what BATCH_SIZE divides by.
    """
    if normalization == caffe_pb2.LossParameter.VALID:
        return jnp.maximum(counted.sum(), 1)
    if normalization == caffe_pb2.LossParameter.FULL:
        return max(counted.size, 1)
    if normalization == caffe_pb2.LossParameter.BATCH_SIZE:
        return max(batch_size, 1)
    return 1


def normalization_mode(param: caffe_pb2.LossParameter, default: int) -> int:
    """Returns the mode that loss_param asks for; the older normalize counts alone."""
    if param.HasField("normalization"):
        return param.normalization
    if param.HasField("normalize"):
        modes = caffe_pb2.LossParameter
        return modes.VALID if param.normalize else modes.BATCH_SIZE
    return default


def ignored_label(
    param: caffe_pb2.LossParameter | caffe_pb2.AccuracyParameter,
) -> int | None:
    """Returns the label to leave out, or None."""
    return param.ignore_label if param.HasField("ignore_label") else None
