"""What the tests of pycaffe's interface share: recorded values and a small net."""

import pathlib

import cv2
import numpy as np
import pytest

from jaxcaffe.proto import binary, caffe_pb2

GOLDEN = pathlib.Path(__file__).parent.parent / "golden" / "pycaffe"

WINDOW_NET = """
name: "windows"
layer {
  name: "data" type: "Input" top: "data"
  input_param { shape { dim: 4 dim: 3 dim: 12 dim: 12 } }
}
layer {
  name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 2 kernel_size: 3 stride: 2 }
}
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer {
  name: "ip" type: "InnerProduct" bottom: "conv" top: "ip"
  inner_product_param { num_output: 4 }
}
layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" }
"""


@pytest.fixture(scope="session")
def recorded():
    """What Caffe's own io, Classifier and Detector gave, by name.

    With scikit-image 0.19 told not to smooth before shrinking (it did not when Caffe
    was written), and the box of Detector.crop turned into integers (as numpy did).
    """
    with np.load(GOLDEN / "images.npz") as file:
        return dict(file)


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """The working directory, with rgb, rgba, gray and flip .png of 20 x 26 pixels."""
    rows, columns = np.mgrid[0:20, 0:26]
    planes = [(columns * 9) % 256, (rows * 12) % 256, (columns * rows) % 256]
    image = np.stack(planes, axis=-1).astype(np.uint8)
    alpha = (columns * 7 % 256).astype(np.uint8)
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("rgb.png", image[:, :, ::-1])
    cv2.imwrite("rgba.png", np.dstack([image[:, :, ::-1], alpha]))
    cv2.imwrite("gray.png", image[:, :, 2])
    cv2.imwrite("flip.png", image[::-1, :, ::-1])
    return tmp_path


@pytest.fixture
def window_net(pictures, recorded):
    """Names of the files of a net with 12 x 12 inputs and of its weights."""
    net = caffe_pb2.NetParameter()
    for layer in ("conv", "ip"):
        blobs = [recorded[f"weights/{layer}/{index}"] for index in (0, 1)]
        net.layer.add(name=layer, blobs=[binary.array_to_blob(blob) for blob in blobs])
    binary.write_caffemodel("windows.caffemodel", net)
    (pictures / "windows.prototxt").write_text(WINDOW_NET)
    return "windows.prototxt", "windows.caffemodel"
