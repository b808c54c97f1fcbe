import cv2
import numpy as np
import pytest

from jaxcaffe.proto import binary, caffe_pb2

TINY = """
name: "tiny"
layer {
  name: "data" type: "Input" top: "data"
  input_param { shape { dim: 4 dim: 3 dim: 6 dim: 6 } }
}
layer {
  name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 4 }
}
layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" }
"""


@pytest.fixture
def tiny_net(tmp_path, monkeypatch):
    """net.prototxt, net.caffemodel and four images in the folder where the test runs.

    Returns the net's weight, (4, 108), and its bias.
    """
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(3)
    weight = generator.normal(0, 0.005, (4, 108)).astype(np.float32)
    bias = generator.normal(0, 1, 4).astype(np.float32)
    net = caffe_pb2.NetParameter(name="tiny")
    blobs = [binary.array_to_blob(blob) for blob in (weight, bias)]
    net.layer.add(name="ip", type="InnerProduct", blobs=blobs)
    binary.write_caffemodel("net.caffemodel", net)
    (tmp_path / "net.prototxt").write_text(TINY)
    (tmp_path / "images").mkdir()
    for k in range(4):
        pixels = generator.integers(0, 256, (9 + k, 8, 3), dtype=np.uint8)
        cv2.imwrite(f"images/{k}.png", pixels)
    return weight, bias
