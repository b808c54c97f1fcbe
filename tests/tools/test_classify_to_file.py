"""The form of Caffe's classify.py, against the Classifier and sums written out."""

import os
import pathlib

import cv2
import numpy as np
import pytest

from jaxcaffe.classifier import Classifier, load_image
from jaxcaffe.errors import CaffeError, ConfigError, DataError
from jaxcaffe.proto import binary, caffe_pb2
from jaxcaffe.tools import classify

TOLERANCE = 2e-6  # of probabilities: sums of 108 products in another order
NET = ["--model_def=net.prototxt", "-pretrained_model", "net.caffemodel"]


def call(*argv):
    assert classify.main([*argv, *NET]) == 0


def scores_of(weight, bias, blob):
    """Softmax of the net's one product; blob (N, C, H, W)."""
    sums = blob.reshape(len(blob), -1) @ weight.T + bias
    powers = np.exp(sums - sums.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def test_center_of_one_image_is_scored_as_written_out(tiny_net, capsys):
    flags = ["--center_only", "--images_dim=6,6", "--input_scale=0.5"]
    pixels = cv2.imread("images/0.png")[:6, :6]
    cv2.imwrite("six.png", pixels)
    np.save("mean.npy", np.arange(108.0).reshape(3, 6, 6))
    call("six.png", "out", *flags, "--mean_file=mean.npy")
    bgr = pixels.transpose(2, 0, 1)[None].astype(np.float32)
    expected = scores_of(*tiny_net, 0.5 * (bgr - np.load("mean.npy")))
    scores = np.load("out.npy")
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, rtol=0, atol=TOLERANCE)
    assert "Saved results into out.npy\n" in capsys.readouterr().out


def test_folder_is_scored_in_the_order_of_names_with_ten_crops(tiny_net):
    call("images", "out.npy", "--ext=png", "--images_dim=9,8", "--channel_swap=")
    net = Classifier("net.prototxt", "net.caffemodel", image_dims=(9, 8), raw_scale=255)
    images = [load_image(f"images/{k}.png") for k in range(4)]
    expected = net.predict(images)
    np.testing.assert_allclose(np.load("out.npy"), expected, rtol=0, atol=TOLERANCE)


def test_array_of_images_is_scored_as_the_files_are(tiny_net):
    images = [load_image(f"images/{k}.png")[:9] for k in range(4)]
    np.save("in.npy", np.stack(images * 5))
    call("in.npy", "out.npy", "--images_dim=6,6")
    scores = np.load("out.npy")
    assert scores.shape == (20, 4)
    cv2.imwrite("first.png", cv2.imread("images/0.png")[:9])
    call("first.png", "one.npy", "--images_dim=6,6")
    np.testing.assert_allclose(scores[:1], np.load("one.npy"), rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(scores[:4], scores[16:], rtol=0, atol=TOLERANCE)


def test_mean_of_a_binaryproto_is_that_of_an_npy(tiny_net):
    mean = np.arange(108, dtype=np.float32).reshape(1, 3, 6, 6)
    blob = caffe_pb2.BlobProto(num=1, channels=3, height=6, width=6)
    blob.data.extend(mean.ravel().tolist())
    pathlib.Path("m.binaryproto").write_bytes(blob.SerializeToString())
    np.save("m.npy", mean[0])
    np.testing.assert_array_equal(binary.read_blob("m.binaryproto"), mean)
    for kind in ("binaryproto", "npy"):
        call("images/1.png", f"{kind}.npy", f"--mean_file=m.{kind}")
    np.testing.assert_array_equal(np.load("binaryproto.npy"), np.load("npy.npy"))


def test_existing_file_is_kept_unless_told_otherwise(tiny_net):
    pathlib.Path("out.npy").write_text("mine")
    with pytest.raises(ConfigError, match=r"out\.npy: exists already"):
        call("images/0.png", "out")
    call("images/0.png", "out", "--overwrite")
    assert np.load("out.npy").shape == (1, 4)


@pytest.mark.parametrize(
    ("argv", "error", "message"),
    [
        (["gone.png", "out"], DataError, r"gone\.png: "),
        (["empty.png", "out"], DataError, r"empty\.png: "),
        (["empty.npy", "out"], DataError, r"empty\.npy: is no \.npy file"),
        (["text.npy", "out"], DataError, r"text\.npy: is no \.npy file"),
        (["flat.npy", "out"], DataError, r"array of shape \(4, 4\).*\(N, H, W, C\)"),
        (["images", "out"], DataError, r"images: holds no \.jpg files"),
        (["images/0.png"], ConfigError, "required: OUT"),
        (["images/0.png", "no/out"], ConfigError, r"no/out\.npy: cannot be written"),
        (["images/0.png", "out", "--images_dim=9"], ConfigError, "--images_dim: "),
        (["images/0.png", "out", "--images_dim=5,5"], ConfigError, "5"),
        (["images/0.png", "out", "--channel_swap=b"], ConfigError, "--channel_swap: "),
        (["images/0.png", "out", "--channel_swap=0,1"], ConfigError, "channel_swap"),
        (["images/0.png", "out", "--mean_file=no.npy"], DataError, r"no\.npy: cannot"),
        (["images/0.png", "out", "--mean_file=flat.npy"], DataError, r"\(C, H, W\) or"),
        (["images/0.png", "out", "--mean_file=text"], CaffeError, "text: "),
        (["images/0.png", "out", "--pretrained_model=text"], CaffeError, "text: "),
        (["images/0.png", "out", "--pretrained_model="], ConfigError, "is not given"),
        (["images/0.png", "out", "--model_def=text"], CaffeError, "text"),
        (["images/0.png", "out", "--ext"], ConfigError, "has no value"),
    ],
)
def test_bad_input_is_refused(tiny_net, argv, error, message):
    for name in ("empty.png", "empty.npy"):
        pathlib.Path(name).write_bytes(b"")
    for name in ("text", "text.npy"):
        pathlib.Path(name).write_text("no numbers")
    np.save("flat.npy", np.zeros((4, 4)))
    with pytest.raises(error, match=message):
        classify.main([*NET, *argv])
    assert not os.path.exists("out.npy")
