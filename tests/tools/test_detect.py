import csv
import pathlib

import h5py
import numpy as np
import pytest

from jaxcaffe.errors import CaffeError, ConfigError, DataError
from jaxcaffe.pycaffe.detector import Detector
from jaxcaffe.tools import detect

NET = ["--model_def=net.prototxt", "-pretrained_model", "net.caffemodel"]
TABLE = """\
xmin, ymin, xmax, ymax, filename
1, 2, 7, 8, images/1.png
0, 0, 8, 9, images/0.png
2.0, 1.0, 5.0, 6.0, images/1.png
"""
# ymin, xmin, ymax, xmax, image after image
WINDOWS = {"images/1.png": [[2, 1, 8, 7], [1, 2, 6, 5]], "images/0.png": [[0, 0, 9, 8]]}
TOLERANCE = 1e-6


@pytest.fixture
def windows(tiny_net):
    pathlib.Path("windows.csv").write_text(TABLE)


def test_read_windows_takes_columns_in_any_order(windows):
    assert detect.read_windows("windows.csv") == WINDOWS


@pytest.mark.parametrize("pad", [0, 1])
def test_hdf5_and_csv_hold_what_the_detector_says(windows, pad, capsys):
    mean = np.arange(108.0).reshape(3, 6, 6)
    np.save("mean.npy", mean)
    flags = [f"--context_pad={pad}", "--mean_file=mean.npy", "--input_scale=0.5"]
    for out in ("out.h5", "out.csv"):
        assert detect.main(["windows.csv", out, *NET, *flags]) == 0
    assert "Processed 3 windows in " in capsys.readouterr().out
    detector = Detector(
        "net.prototxt",
        "net.caffemodel",
        mean=mean.mean(axis=(1, 2)),
        input_scale=0.5,
        raw_scale=255.0,
        channel_swap=(2, 1, 0),
        context_pad=pad,
    )
    found = detector.detect_windows(WINDOWS.items())
    expected = np.stack([one["prediction"] for one in found])
    names = [one["filename"] for one in found]
    boxes = [one["window"] for one in found]
    assert np.ptp(expected, axis=0).max() > 0.01  # windows are told apart
    with h5py.File("out.h5") as file:
        assert file["filename"].asstr()[:].tolist() == names
        assert file["window"][:].tolist() == boxes
        scores = file["prediction"][:]
    np.testing.assert_allclose(scores, expected, rtol=0, atol=TOLERANCE)
    with open("out.csv", newline="") as file:
        head, *lines = csv.reader(file)
    assert head == ["filename", "ymin", "xmin", "ymax", "xmax"] + [
        f"class{k}" for k in range(4)
    ]
    assert [line[0] for line in lines] == names
    assert [[int(x) for x in line[1:5]] for line in lines] == boxes
    scores = np.array([[float(x) for x in line[5:]] for line in lines])
    np.testing.assert_allclose(scores, expected, rtol=0, atol=TOLERANCE)


def test_selective_search_without_its_module_says_so(windows):
    pathlib.Path("images.txt").write_text("images/0.png\n\n")
    with pytest.raises(CaffeError, match="selective_search_ijcv_with_python"):
        detect.main(["images.txt", "out.h5", *NET, "--context_pad=1"])
    assert not pathlib.Path("out.h5").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "its first line names no column filename, ymin"),
        ("filename,ymin,xmin,ymax\n", "names no column xmax"),
        ("filename,ymin,xmin,ymax,xmax\n", "holds no windows"),
        ("filename,ymin,xmin,ymax,xmax\na,1,2,3,x\n", r"w\.csv:2: .* is no window"),
        ("filename,ymin,xmin,ymax,xmax\na,1,2,3\n", r"w\.csv:2: .* is no window"),
        ("filename,ymin,xmin,ymax,xmax\na,1,2,3,1e30\n", r"w\.csv:2: .* is no window"),
        ("filename,ymin,xmin,ymax,xmax\na,1,2,3,inf\n", r"w\.csv:2: .* is no window"),
    ],
)
def test_read_windows_bad_table_is_refused(tmp_path, text, message):
    path = tmp_path / "w.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        detect.read_windows(str(path))


def test_read_windows_binary_file_is_refused(tmp_path):
    path = tmp_path / "w.csv"
    path.write_bytes(b"\x89PNG\xff\x00")
    with pytest.raises(DataError, match="is no CSV file"):
        detect.read_windows(str(path))


@pytest.mark.parametrize(
    ("argv", "error", "message"),
    [
        (["gone.csv", "out.h5"], DataError, r"gone\.csv: cannot be read"),
        (["gone.txt", "out.h5"], DataError, r"gone\.txt: cannot be read"),
        (["empty.txt", "out.h5"], DataError, r"empty\.txt: names no images"),
        (["windows", "out.h5"], ConfigError, r"Accepted: \.csv, \.txt"),
        (["windows.csv", "out.npy"], ConfigError, r"Accepted: \.h5, \.csv"),
        (["windows.csv", "mine.h5"], ConfigError, r"mine\.h5: exists already"),
        (["windows.csv", "no/o.h5"], ConfigError, r"no/o\.h5: cannot be written"),
        (["windows.csv"], ConfigError, "required: OUT"),
        (["outside.csv", "out.h5"], ConfigError, "window: .* holds no pixel"),
        (["noimage.csv", "out.h5"], DataError, "gone"),
        (["windows.csv", "out.h5", "--crop_mode=grid"], ConfigError, "invalid choice"),
        (
            ["windows.csv", "out.h5", "--crop_mode=selective_search"],
            ConfigError,
            "--crop_mode: is selective_search for the file windows",
        ),
        (["windows.csv", "out.h5", "--context_pad=-1"], ConfigError, "is -1"),
        (
            ["windows.csv", "out.h5", "--context_pad=3"],
            ConfigError,
            "context_pad: is 3",
        ),
        (["windows.csv", "out.h5", "--mean_file=gone"], CaffeError, "gone"),
        (["windows.csv", "out.h5", "--model_def="], ConfigError, "is not given"),
        (["windows.csv", "out.h5", "--model_def=gone"], CaffeError, "gone"),
        (["windows.csv", "out.h5", "--pretrained_model=gone"], CaffeError, "gone"),
        (["windows.csv", "out.h5", "--model_def=broken"], CaffeError, "broken:1"),
        (["windows.csv", "out.h5", "--pretrained_model=broken"], CaffeError, "broken"),
    ],
)
def test_detect_bad_input_is_refused(windows, argv, error, message):
    head = "filename,ymin,xmin,ymax,xmax\n"
    pathlib.Path("outside.csv").write_text(head + "images/0.png,90,90,99,99\n")
    pathlib.Path("noimage.csv").write_text(head + "gone.png,0,0,3,3\n")
    pathlib.Path("empty.txt").write_text("\n")
    pathlib.Path("broken").write_text("layer {{")
    pathlib.Path("mine.h5").write_text("mine")
    with pytest.raises(error, match=message):
        detect.main([*NET, "--context_pad=0", *argv])
    assert not pathlib.Path("out.h5").exists()
    assert pathlib.Path("mine.h5").read_text() == "mine"
