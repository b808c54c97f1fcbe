"""Features against those that Caffe's own tool stored, in tests/golden/features."""

import os
import pathlib
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pytest

from jaxcaffe.data.database import open_database
from jaxcaffe.errors import CaffeError, ConfigError, PrototxtError, SnapshotError
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.tools import extract_features as tool
from jaxcaffe.tools import feature_files

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
NET, WEIGHTS = "../features/net.prototxt", "../features/net.caffemodel"
TOLERANCE = 4e-6  # of values below 2: sums in another order
BLOBS = ("conv", "ip", "prob", "label", "sum")


@pytest.fixture
def golden(monkeypatch):
    monkeypatch.chdir(GOLDEN / "data")
    return dict(np.load(GOLDEN / "features" / "features.npz"))


def read_datums(path, backend="lmdb"):
    with open_database(str(path), backend) as opened:
        return [(k, caffe_pb2.Datum.FromString(v)) for k, v in opened.records]


@pytest.mark.parametrize("backend", feature_files.BACKENDS)
def test_extract_features_stores_what_caffe_stores(golden, tmp_path, backend):
    if backend == "leveldb":
        pytest.importorskip("plyvel")
    paths = {blob: tmp_path / blob for blob in BLOBS}
    names = ",".join(map(str, paths.values()))
    argv = [WEIGHTS, NET, ",".join(BLOBS), names, "4", backend, "CPU"]
    assert tool.main(argv) == 0
    for blob, path in paths.items():
        datums, expected = read_datums(path, backend), golden[blob]
        assert [key for key, _ in datums] == [
            b"%010d" % i for i in range(len(expected))
        ]
        for (_, datum), row in zip(datums, expected, strict=True):
            fields = [field.name for field, _ in datum.ListFields()]
            assert fields == ["channels", "height", "width", "float_data"]
            shape = (datum.channels, datum.height, datum.width)
            assert shape == row.shape
            np.testing.assert_allclose(
                np.reshape(datum.float_data, shape), row, rtol=0, atol=TOLERANCE
            )


def test_extract_features_hdf5_holds_whole_blobs(golden, tmp_path):
    out = tmp_path / "ip.h5", tmp_path / "sum.h5"
    argv = [WEIGHTS, NET, "ip,sum", ",".join(map(str, out)), "4", "hdf5"]
    assert tool.main(argv) == 0
    with h5py.File(out[0]) as file:
        assert list(file) == ["ip"]
        assert file["ip"].dtype == np.float32
        expected = golden["ip"][:, :, 0, 0]
        np.testing.assert_allclose(file["ip"], expected, rtol=0, atol=TOLERANCE)
    with h5py.File(out[1]) as file:
        assert file["sum"].shape == (4,)
    assert sorted(os.listdir(tmp_path)) == ["ip.h5", "sum.h5"]


def test_extract_features_layers_that_no_blob_needs_need_no_weights(
    golden, tmp_path, capfd
):
    net = tmp_path / "net.prototxt"
    text = (GOLDEN / "features" / "net.prototxt").read_text()
    net.write_text(text.replace('name: "ip"', 'name: "new_ip"'))
    argv = [WEIGHTS, str(net), "conv", str(tmp_path / "conv"), "1", "lmdb"]
    assert tool.main(argv) == 0
    assert len(read_datums(tmp_path / "conv")) == 7
    assert "Ignoring source layer ip" in capfd.readouterr().err
    argv[2:4] = ["ip", str(tmp_path / "ip")]
    with pytest.raises(SnapshotError, match='no weights for layer "new_ip"'):
        tool.main(argv)
    assert not (tmp_path / "ip").exists()


def test_extract_features_logs_caffes_lines(golden, tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "jaxcaffe", "extract_features"),
            *(WEIGHTS, NET, "label", str(tmp_path / "label"), "2", "lmdb"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = [line.partition("] ")[2] for line in done.stderr.splitlines()]
    assert said[-4:] == [
        f"Opening dataset {tmp_path}/label",
        "Extracting Features",
        "Extracted features of 14 query images for feature blob label",
        "Successfully extracted the features!",
    ]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((), (1, 1, 1)), ((7,), (1, 1, 1)), ((7, 3), (3, 1, 1)), ((7, 3, 5), (3, 5, 1))],
)
def test_datum_shape_axes_that_lack_are_1(shape, expected):
    assert feature_files.datum_shape(shape) == expected


def test_check_shape_five_axes_fit_hdf5_alone():
    feature_files.check_shape("a", (2, 3, 4, 5, 6), "hdf5")
    with pytest.raises(ConfigError, match='blob "a" has 5 axes'):
        feature_files.check_shape("a", (2, 3, 4, 5, 6), "lmdb")


@pytest.mark.parametrize("kind", feature_files.KINDS)
def test_create_features_that_fail_leave_nothing(tmp_path, kind):
    if kind == "leveldb":
        pytest.importorskip("plyvel")

    def fail():
        path = str(tmp_path / "out")
        with feature_files.create_features(path, kind, "a") as write:
            write(np.zeros((2, 3), np.float32))
            raise CaffeError("broken")

    with pytest.raises(CaffeError, match="broken"):
        fail()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({0: "gone"}, CaffeError, "gone: "),
        ({0: "empty"}, CaffeError, "empty: "),
        ({0: "cut"}, CaffeError, "cut: "),
        ({0: "net.prototxt"}, CaffeError, r"net\.prototxt: "),
        ({1: "gone"}, PrototxtError, "gone: no such file"),
        ({1: "net.caffemodel"}, PrototxtError, r"net\.caffemodel"),
        ({1: "input"}, PrototxtError, r'input:1: layer "x" \(Input\): nobody gives'),
        ({1: "nodata"}, CaffeError, r'layer "d" \(Data\): nowhere: no such file'),
        ({2: "conv1"}, ConfigError, 'no blob is named "conv1". Accepted: conv'),
        ({2: "ip,conv"}, ConfigError, "names 2 blobs and 1 database\\."),
        ({2: "ip,ip", 3: "a,b"}, ConfigError, "the blobs are ip,ip"),
        ({2: "ip,conv", 3: "a,"}, ConfigError, "the databases are a,"),
        ({3: "mine"}, ConfigError, "mine: exists already"),
        ({3: "no/out"}, ConfigError, "its folder no does not exist"),
        ({4: "0"}, ConfigError, "NUM_BATCHES is 0"),
        ({4: "few"}, ConfigError, "NUM_BATCHES is few"),
        ({5: "mysql"}, ConfigError, '"mysql" is no kind of database'),
        ({6: "TPU"}, ConfigError, 'MODE is "TPU"'),
        ({6: "GPU", 7: "99"}, ConfigError, "no GPU 99"),
        ({6: "GPU", 7: "first"}, ConfigError, "no GPU first"),
    ],
)
def test_extract_features_bad_input_is_refused(
    tmp_path, monkeypatch, change, error, message
):
    monkeypatch.chdir(tmp_path)
    weights = (GOLDEN / "features" / "net.caffemodel").read_bytes()
    for name in ("mean", "db"):
        os.symlink(GOLDEN / "data" / name, name)
    pathlib.Path("empty").write_bytes(b"")
    pathlib.Path("cut").write_bytes(weights[: len(weights) // 2])
    pathlib.Path("input").write_text(
        'layer { name: "x" type: "Input" top: "ip" '
        "input_param { shape { dim: 1 dim: 2 } } }"
    )
    pathlib.Path("nodata").write_text(
        'layer { name: "d" type: "Data" top: "ip" '
        'data_param { source: "nowhere" batch_size: 1 backend: LMDB } }'
    )
    pathlib.Path("mine").write_text("mine")
    shutil.copy(GOLDEN / "features" / "net.prototxt", ".")
    shutil.copy(GOLDEN / "features" / "net.caffemodel", ".")
    argv = ["net.caffemodel", "net.prototxt", "ip", "out", "1", "lmdb", "CPU", "0"]
    for place, value in change.items():
        argv[place] = value
    with pytest.raises(error, match=message):
        tool.main(argv)
    assert pathlib.Path("mine").read_text() == "mine"
    assert not [n for n in os.listdir() if n in ("out", "a") or "partial" in n]
