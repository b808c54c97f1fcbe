"""The loss of linreg.prototxt: half the mean squared distance of two blobs.

Follows caffe/src/caffe/layers/euclidean_loss_layer.cpp.
"""

import caffe
import numpy as np


class EuclideanLossLayer(caffe.Layer):
    """loss = sum((a - b) ^ 2) / (2 N), for two bottoms of N records each."""

    def setup(self, bottom, top):
        """Refuses another number of bottoms than two."""
        if len(bottom) != 2:
            raise ValueError(f"{len(bottom)} bottoms. Accepted: 2")

    def reshape(self, bottom, top):
        """Shapes the top: one number."""
        if bottom[0].count != bottom[1].count:
            counts = f"{bottom[0].count} and {bottom[1].count}"
            raise ValueError(f"{counts} values. Accepted: two bottoms of one size")
        top[0].reshape(1)

    def forward(self, bottom, top):
        """Computes the loss, and keeps the difference for backward."""
        self.difference = bottom[0].data - bottom[1].data
        top[0].data[...] = np.sum(self.difference**2) / (2 * bottom[0].num)

    def backward(self, top, propagate_down, bottom):
        """Gives each bottom its gradient; Caffe sets no diff of a loss but its weight.

        Source: EuclideanLossLayer::Backward_cpu.
        """
        for i, sign in enumerate((1, -1)):
            if propagate_down[i]:
                scale = sign * top[0].diff.flat[0] / bottom[i].num
                bottom[i].diff[...] = scale * self.difference
