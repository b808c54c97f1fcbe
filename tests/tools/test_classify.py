"""The command classify: what it prints, and what it does with flags and files."""

import cv2
import numpy as np
import pytest

from jaxcaffe.classifier import Classifier, load_image
from jaxcaffe.errors import ConfigError, DataError
from jaxcaffe.image_io import center_crop
from jaxcaffe.proto import binary, caffe_pb2
from jaxcaffe.tools import classify

NET = """
layer {
  name: "data" type: "Input" top: "data"
  input_param { shape { dim: 4 dim: CHANNELS dim: 6 dim: 6 } }
}
layer {
  name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 4 }
}
layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" }
"""
LABELS = ("n01 gull, sea gull", "n02 cat", "n03 a  dog", "n04 élan")


def write_model(channels):
    net = caffe_pb2.NetParameter()
    rng = np.random.default_rng(channels)
    weight = rng.normal(0, 0.002, (4, channels * 36))
    blobs = [binary.array_to_blob(weight), binary.array_to_blob(np.zeros(4))]
    net.layer.add(name="ip", type="InnerProduct", blobs=blobs)
    binary.write_caffemodel("net.caffemodel", net)
    with open("net.prototxt", "w") as file:
        file.write(NET.replace("CHANNELS", str(channels)))


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The working directory: net, weights, labels and two images."""
    monkeypatch.chdir(tmp_path)
    write_model(3)
    (tmp_path / "words.txt").write_text("\n".join(LABELS) + "\n", encoding="utf-8")
    rng = np.random.default_rng(5)
    for name in ("a.png", "b c.png"):
        cv2.imwrite(name, rng.integers(0, 256, (9, 11, 3), np.uint8))
    return tmp_path


def predict(names=("a.png", "b c.png"), is_oversampled=False, **options):
    color = options.pop("color", True)
    classifier = Classifier("net.prototxt", "net.caffemodel", **options)
    pixels = [load_image(name, color) for name in names]
    return classifier.predict(pixels, is_oversampled)


def expected_lines(scores, names=("a.png", "b c.png"), labels=LABELS, top=5):
    lines = []
    for name, row in zip(names, scores, strict=True):
        lines.append(f"---------- Prediction for {name} ----------")
        for index in np.argsort(-row)[:top]:
            lines.append(f'{row[index]:.4f} - "{labels[index]}"')
    return lines


def run(capsys, *flags):
    images = ["a.png", "b c.png"]
    assert classify.main(["net.prototxt", "net.caffemodel", *images, *flags]) == 0
    return capsys.readouterr().out.splitlines()


def test_classify_prints_as_cpp_classification_does(files, capsys):
    scores = predict(raw_scale=255, channel_swap=(2, 1, 0))
    assert run(capsys, "--labels=words.txt") == expected_lines(scores)
    labels = [f"class {index}" for index in range(4)]
    assert run(capsys, "--top=2") == expected_lines(scores, labels=labels, top=2)


def test_classify_flags_reach_the_classifier(files, capsys):
    scores = predict(
        is_oversampled=True,
        image_dims=(8, 7),
        mean=np.array([104.0, 117, 123]),
        raw_scale=200,
        input_scale=0.5,
        channel_swap=(2, 1, 0),
        output="ip",
    )
    flags = (
        "--crop=10 --image_dims=8,7 --mean_value=104,117,123 --raw_scale=200 "
        "--input_scale=0.5 --output=ip --labels=words.txt"
    )
    assert run(capsys, *flags.split()) == expected_lines(scores)


def test_classify_crops_a_mean_image_as_training_does(files, capsys):
    mean = np.random.default_rng(2).uniform(0, 200, (1, 3, 8, 9)).astype(np.float32)
    binary.write_blob("mean.binaryproto", mean)
    cropped = center_crop(mean.transpose(0, 2, 3, 1), (6, 6))[0].transpose(2, 0, 1)
    scores = predict(
        image_dims=(8, 9), mean=cropped, raw_scale=255, channel_swap=(2, 1, 0)
    )
    lines = run(capsys, "--mean=mean.binaryproto", "--labels=words.txt")
    assert lines == expected_lines(scores)


def test_classify_reads_gray_images_for_a_net_of_one_channel(files, capsys):
    write_model(1)
    scores = predict(color=False, mean=np.array([30.0]), raw_scale=255)
    lines = run(capsys, "--mean_value=30", "--labels=words.txt")
    assert lines == expected_lines(scores)


def test_classify_takes_more_images_than_it_holds_at_a_time(files, capsys):
    names = ["a.png", "b c.png"] * (classify._GROUP // 2) + ["b c.png"]
    assert classify.main(["net.prototxt", "net.caffemodel", *names, "--top=1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[::2] == [f"---------- Prediction for {n} ----------" for n in names]
    assert lines[1::4] == [lines[1]] * (classify._GROUP // 2) + [lines[3]]


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        ("--top=0", "--top: is 0. Accepted: at least 1"),
        ("--crop=5", "--crop: invalid choice: '5'"),
        ("--image_dims=256", '--image_dims: "256" is not rows,columns'),
        ("--image_dims=5,9", "image_dims: images of 5 x 9 pixels are smaller"),
        (
            "--mean_value=1,2",
            "--mean_value: has 2 numbers for 3 channels. Accepted: 1 number, or 3",
        ),
        ("--mean_value=a", '--mean_value: "a" is no list of numbers'),
        ("--mean_value=1 --mean=m", "--mean: and --mean_value are both given"),
        ("--labels=short.txt", "short.txt: has 1 line, and the net's output 4 values"),
        ("--labels=none.txt", "none.txt: cannot be read: No such file"),
        ("--output=pro", 'no blob is named "pro". Accepted: prob'),
    ],
)
def test_classify_refuses_wrong_flags(files, flags, problem):
    (files / "short.txt").write_text("one\n")
    with pytest.raises(ConfigError, match=problem):
        classify.main(["net.prototxt", "net.caffemodel", "a.png", *flags.split()])


@pytest.mark.parametrize(
    ("shape", "flags", "accepted"),
    [
        ((1, 8, 8), [], r"Accepted: \(3, 6, 6\), or larger images"),
        ((3, 5, 9), [], r"Accepted: \(3, 6, 6\), or larger images"),
        ((3, 8, 8), ["--image_dims=8,9"], r"\(3, 6, 6\) or \(3, 8, 9\)"),
        ((3,), [], r"shape \(3,\), the net's input \(3, 6, 6\)"),
    ],
)
def test_classify_refuses_a_mean_of_wrong_shape(files, shape, flags, accepted):
    binary.write_blob("mean.binaryproto", np.zeros(shape, np.float32))
    flags = ["--mean=mean.binaryproto", *flags]
    with pytest.raises(ConfigError, match=accepted):
        classify.main(["net.prototxt", "net.caffemodel", "a.png", *flags])


def test_classify_refuses_missing_and_corrupt_images(files):
    (files / "bad.png").write_bytes((files / "a.png").read_bytes()[:40])
    for name, problem in (
        ("none.png", "none.png: cannot be read: No such file"),
        ("bad.png", "bad.png: image cannot be decoded"),
    ):
        with pytest.raises(DataError, match=problem):
            classify.main(["net.prototxt", "net.caffemodel", "a.png", name])


def test_classify_refuses_a_net_of_other_channels(files):
    write_model(4)
    with pytest.raises(ConfigError, match=r"input has 4 channels. Accepted: 1, for"):
        classify.main(["net.prototxt", "net.caffemodel", "a.png"])
