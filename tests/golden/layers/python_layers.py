"""Python layers as they are written for Caffe; real Caffe ran them for python_*.npz."""

import caffe
import numpy as np


class ScaleAll(caffe.Layer):
    """Multiplies by the learned scalar, which starts at param_str."""

    def setup(self, bottom, top):
        self.blobs.add_blob(1)
        self.blobs[0].data[0] = float(self.param_str)

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        top[0].data[...] = self.blobs[0].data[0] * bottom[0].data

    def backward(self, top, propagate_down, bottom):
        self.blobs[0].diff[0] += np.sum(top[0].diff * bottom[0].data)
        if propagate_down[0]:
            bottom[0].diff[...] = self.blobs[0].data[0] * top[0].diff


class SumAndProduct(caffe.Layer):
    """Gives a + b and a * b; keeps in forward what backward needs."""

    def setup(self, bottom, top):
        if len(bottom) != 2 or len(top) != 2:
            raise Exception("two bottoms and two tops, please")

    def reshape(self, bottom, top):
        for i in range(2):
            top[i].reshape(bottom[0].num, bottom[0].channels, 1)

    def forward(self, bottom, top):
        self.a = bottom[0].data
        self.b = bottom[1].data
        top[0].data[..., 0] = self.a + self.b
        top[1].data[..., 0] = self.a * self.b

    def backward(self, top, propagate_down, bottom):
        for this, other in ((0, self.b), (1, self.a)):
            if propagate_down[this]:
                diff = top[0].diff[..., 0] + top[1].diff[..., 0] * other
                bottom[this].diff[...] = diff


class AbsoluteInPlace(caffe.Layer):
    """Takes absolute values; of the bottom in place only the memory is left."""

    def setup(self, bottom, top):
        pass

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        self.sign = np.sign(bottom[0].data)
        np.abs(bottom[0].data, out=bottom[0].data)

    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] *= self.sign


class Loss(caffe.Layer):
    """Half the mean squared distance; its gradient takes up the loss weight."""

    def setup(self, bottom, top):
        pass

    def reshape(self, bottom, top):
        self.diff = np.zeros_like(bottom[0].data)
        top[0].reshape()

    def forward(self, bottom, top):
        self.diff[...] = bottom[0].data - bottom[1].data
        top[0].data[()] = np.sum(self.diff**2) / bottom[0].num / 2

    def backward(self, top, propagate_down, bottom):
        for i, sign in enumerate((1, -1)):
            if propagate_down[i]:
                bottom[i].diff[...] = sign * top[0].diff * self.diff / bottom[i].num
