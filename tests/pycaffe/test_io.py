"""Messages to arrays and back."""

import cv2
import numpy as np
import pytest

from jaxcaffe.proto import caffe_pb2
from jaxcaffe.pycaffe import io


def test_blobproto_to_array_prefers_the_older_sizes():
    blob = caffe_pb2.BlobProto(num=1, channels=2, height=3, width=1, data=range(6))
    blob.shape.dim.extend([6])
    array = io.blobproto_to_array(blob)
    assert array.dtype == np.float64
    np.testing.assert_array_equal(array, np.arange(6.0).reshape(1, 2, 3, 1))


@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (1, 2, 3, 4, 2)])
def test_array_to_blobproto_comes_back(shape):
    rng = np.random.default_rng(1)
    data, diff = rng.normal(size=shape), rng.normal(size=shape)
    blob = io.array_to_blobproto(data, diff)
    assert tuple(blob.shape.dim) == shape
    assert not blob.HasField("num")
    back = io.blobproto_to_array(blob)
    np.testing.assert_array_equal(back, data.astype(np.float32))
    back = io.blobproto_to_array(blob, return_diff=True)
    np.testing.assert_array_equal(back, diff.astype(np.float32))


def test_array_to_blobproto_of_other_orders_and_types_keeps_places():
    array = np.arange(6).reshape(2, 3).T
    assert list(io.array_to_blobproto(array).data) == [0, 3, 1, 4, 2, 5]
    assert not io.array_to_blobproto(array).diff


def test_blobproto_to_array_reads_doubles():
    blob = caffe_pb2.BlobProto(double_data=[0.1, 0.2], double_diff=[0.3, 0.4])
    blob.shape.dim.append(2)
    assert io.blobproto_to_array(blob).tolist() == [0.1, 0.2]
    assert io.blobproto_to_array(blob, True).tolist() == [0.3, 0.4]


@pytest.mark.parametrize("shape", [[], [3], [2, -2]])
def test_blobproto_to_array_with_other_counts_raises(shape):
    blob = caffe_pb2.BlobProto(data=range(4))
    blob.shape.dim.extend(shape)
    with pytest.raises(
        ValueError, match="BlobProto has data of 4 values for the shape"
    ):
        io.blobproto_to_array(blob)


def test_arraylist_to_blobprotovector_str_comes_back():
    arrays = [np.arange(6.0).reshape(2, 3), np.zeros((1, 0)), np.array(4.0)]
    text = io.arraylist_to_blobprotovector_str(arrays)
    assert isinstance(text, bytes)
    back = io.blobprotovector_str_to_arraylist(text)
    assert [a.tolist() for a in back] == [a.tolist() for a in arrays]
    assert [a.shape for a in back] == [a.shape for a in arrays]


def test_array_to_datum_of_bytes_and_floats_comes_back():
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    datum = io.array_to_datum(pixels, 7)
    assert (datum.channels, datum.height, datum.width, datum.label) == (2, 3, 4, 7)
    assert datum.data == bytes(range(24))
    back = io.datum_to_array(datum)
    assert back.dtype == np.uint8
    back += 1  # has memory of its own
    np.testing.assert_array_equal(io.datum_to_array(datum), pixels)
    datum = io.array_to_datum(pixels / 2)
    assert not datum.HasField("label")
    assert not datum.data
    assert io.datum_to_array(datum).dtype == np.float64
    np.testing.assert_array_equal(io.datum_to_array(datum), pixels / 2)


def test_datum_to_array_of_an_encoded_image_decodes_it():
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    _, encoded = cv2.imencode(".png", pixels)
    datum = caffe_pb2.Datum(data=encoded.tobytes(), encoded=True)
    np.testing.assert_array_equal(io.datum_to_array(datum), pixels.transpose(2, 0, 1))


def test_array_to_datum_of_two_axes_raises():
    with pytest.raises(ValueError, match=r"Incorrect array shape. It is \(2, 2\)"):
        io.array_to_datum(np.zeros((2, 2)))


@pytest.mark.parametrize("field", [{"data": b"abc"}, {"float_data": [1, 2, 3]}])
def test_datum_to_array_with_other_counts_raises(field):
    datum = caffe_pb2.Datum(channels=2, height=1, width=1, **field)
    with pytest.raises(ValueError, match=r"of 3 values for the shape \(2, 1, 1\)"):
        io.datum_to_array(datum)
