"""What the tests of several sources share."""

import os
import pathlib

import cv2
import lmdb
import numpy as np
import pytest
from google.protobuf import text_format

from jaxcaffe.proto import caffe_pb2

GOLDEN = pathlib.Path(
    os.environ.get("JAXCAFFE_GOLDEN_DATA")
    or pathlib.Path(__file__).parents[1] / "golden" / "data"
)


@pytest.fixture
def golden(monkeypatch):
    """The folder of the golden data, made the working directory."""
    monkeypatch.chdir(GOLDEN)
    return GOLDEN


@pytest.fixture
def layer():
    """Makes a LayerParameter from text."""

    def make(text):
        return text_format.Parse(text, caffe_pb2.LayerParameter())

    return make


@pytest.fixture
def make_lmdb(tmp_path):
    """Writes an LMDB of arrays (C, H, W) with labels 0, 1, ...; returns its path."""

    def make(arrays, name="db", labels=None):
        path = str(tmp_path / name)
        environment = lmdb.open(path, map_size=1 << 24)
        with environment.begin(write=True) as transaction:
            for index, array in enumerate(arrays):
                datum = caffe_pb2.Datum(
                    channels=array.shape[0], height=array.shape[1], width=array.shape[2]
                )
                if array.dtype == np.uint8:
                    datum.data = array.tobytes()
                else:
                    datum.float_data.extend(array.ravel().tolist())
                datum.label = index if labels is None else labels[index]
                key = f"{index:08d}_{name}".encode()
                transaction.put(key, datum.SerializeToString())
        environment.close()
        return path

    return make


@pytest.fixture
def make_images(tmp_path):
    """Writes PNG images of the given (H, W); returns their names and pixels (HWC)."""

    def make(sizes):
        rng = np.random.default_rng(1)
        names, pixels = [], []
        for index, (height, width) in enumerate(sizes):
            image = rng.integers(0, 256, (height, width, 3), np.uint8)
            name = f"image {index}.png"
            assert cv2.imwrite(str(tmp_path / name), image)
            names.append(name)
            pixels.append(image)
        return names, pixels

    return make
