import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from jaxcaffe.data import datum
from jaxcaffe.errors import DataError
from jaxcaffe.proto import caffe_pb2

GOLDEN = Path(__file__).parents[1] / "golden" / "data"
# OpenCV versions may round a decoded pixel differently; Caffe's was 4.6.
PIXEL_TOLERANCE = 2


def dumped(name):
    """Yields (entry, data bytes) of each record that Caffe wrote."""
    arrays = np.load(GOLDEN / "dumps" / f"{name}.npz")
    entries = json.loads((GOLDEN / "dumps" / f"{name}.json").read_text())
    for i, entry in enumerate(entries):
        yield entry, arrays[f"data_{i:05d}"].tobytes()


def test_write_datum_pixels_gives_the_bytes_that_caffe_wrote():
    count = 0
    for name in ("lmdb_all", "lmdb_gray_all", "lmdb_odd"):
        for entry, data in dumped(name):
            shape = (entry["channels"], entry["height"], entry["width"])
            array = np.frombuffer(data, np.uint8).reshape(shape)
            value = datum.write_datum(array, entry["label"])
            assert hashlib.sha256(value).hexdigest() == entry["value_sha256"]
            count += 1
    assert count == 24 + 24 + 9


def test_write_encoded_datum_file_bytes_gives_the_bytes_that_caffe_wrote():
    entries = json.loads((GOLDEN / "dumps" / "lmdb_enc.json").read_text())
    for entry in entries:
        content = (GOLDEN / "images" / entry["key"][9:]).read_bytes()
        value = datum.write_encoded_datum(content, entry["label"])
        assert hashlib.sha256(value).hexdigest() == entry["value_sha256"]


def test_read_datum_pixels_returns_them_exactly():
    for entry, data in dumped("lmdb_all"):
        shape = (entry["channels"], entry["height"], entry["width"])
        array = np.frombuffer(data, np.uint8).reshape(shape)
        record = datum.read_datum(
            datum.write_datum(array, entry["label"]), entry["key"], "gray"
        )
        assert record.data.dtype == np.uint8
        np.testing.assert_array_equal(record.data, array)
        assert (record.label, record.encoded) == (entry["label"], False)


@pytest.mark.parametrize(
    ("decode", "plain"), [("color", "lmdb_all"), ("gray", "lmdb_gray_all")]
)
def test_read_datum_encoded_image_matches_pixels_decoded_by_caffe(decode, plain):
    for entry, data in dumped(plain):
        content = (GOLDEN / "images" / entry["key"][9:]).read_bytes()
        value = datum.write_encoded_datum(content, entry["label"])
        record = datum.read_datum(value, entry["key"], decode)
        assert record.data.shape == (
            entry["channels"],
            entry["height"],
            entry["width"],
        )
        expected = np.frombuffer(data, np.uint8).reshape(record.data.shape)
        difference = record.data.astype(int) - expected.astype(int)
        assert np.abs(difference).max() <= PIXEL_TOLERANCE
        assert record.data.flags.c_contiguous
        assert (record.label, record.encoded) == (entry["label"], True)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("v/alpha.png", (4, 32, 29)),
        ("v/gray.png", (1, 36, 31)),
        ("v/gray jpeg.jpg", (1, 27, 39)),
        ("v/exif6.jpg", (3, 26, 38)),  # not turned: native decoding ignores EXIF
    ],
)
def test_read_datum_encoded_native_keeps_channels_and_orientation(name, shape):
    value = datum.write_encoded_datum((GOLDEN / "images" / name).read_bytes(), 1)
    assert datum.read_datum(value, "key").data.shape == shape


@pytest.mark.parametrize("label", [None, 0, 3, -1])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32])
def test_write_datum_floats_gives_what_protobuf_writes(label, dtype):
    array = np.asfortranarray(np.linspace(-9, 9, 24).reshape(4, 3, 2)).astype(dtype)
    message = caffe_pb2.Datum(channels=4, height=3, width=2)
    message.float_data.extend(array.astype(np.float32).ravel().tolist())
    if label is not None:
        message.label = label
    assert datum.write_datum(array, label) == message.SerializeToString()


def test_read_datum_floats_returns_float32():
    array = np.linspace(-1, 1, 24, dtype=np.float32).reshape(4, 3, 2)
    value = datum.write_datum(array)
    message = caffe_pb2.Datum.FromString(value)
    assert not message.HasField("label")
    assert not message.HasField("encoded")
    assert not message.HasField("data")
    record = datum.read_datum(value, b"key")
    assert record.data.dtype == np.float32
    np.testing.assert_array_equal(record.data, array)
    assert record.label == 0


def test_read_datum_both_kinds_of_data_takes_bytes():
    message = caffe_pb2.Datum(
        channels=1, height=1, width=2, data=b"\x01\xff", float_data=[5, 6]
    )
    record = datum.read_datum(message.SerializeToString(), "key")
    assert record.data.tolist() == [[[1, 255]]]


def test_read_datum_truncated_names_database_and_record():
    value = datum.write_datum(np.zeros((3, 5, 5), np.uint8), 3)[:40]
    with pytest.raises(
        DataError, match=r'db/x: record "00000007_a b.jpg": its 40 bytes are no Datum'
    ):
        datum.read_datum(value, b"00000007_a b.jpg", source="db/x")


def test_read_datum_too_few_bytes_states_count_and_sizes():
    message = caffe_pb2.Datum(channels=3, height=4, width=5, data=b"\0" * 59)
    with pytest.raises(
        DataError,
        match=r'record "k": has 59 bytes of data, but .* is 3 x 4 x 5',
    ):
        datum.read_datum(message.SerializeToString(), "k")


def test_read_datum_too_many_floats_states_count_and_sizes():
    message = caffe_pb2.Datum(channels=1, height=1, width=1, float_data=[1, 2])
    with pytest.raises(DataError, match=r"has 2 values in float_data, but .* 1 x 1 x"):
        datum.read_datum(message.SerializeToString(), "k")


def test_read_datum_empty_value_is_refused():
    with pytest.raises(DataError, match=r"has 0 values, but .* is 0 x 0 x 0"):
        datum.read_datum(b"", "k")


def test_read_datum_negative_sizes_are_refused():
    message = caffe_pb2.Datum(channels=1, height=-2, width=-2, data=b"\0" * 4)
    with pytest.raises(DataError, match=r"is 1 x -2 x -2"):
        datum.read_datum(message.SerializeToString(), "k")


def test_read_datum_broken_encoded_image_names_record():
    content = (GOLDEN / "images" / "bad" / "cut.png").read_bytes()
    value = datum.write_encoded_datum(content, 1)
    with pytest.raises(DataError, match=r'record "k": image cannot be decoded: its'):
        datum.read_datum(value, "k")


def test_read_datum_native_sixteen_bits_points_to_force_flags():
    content = (GOLDEN / "images" / "x" / "deep16.png").read_bytes()
    value = datum.write_encoded_datum(content, 1)
    with pytest.raises(DataError, match=r"16 bits per channel.*force_color"):
        datum.read_datum(value, "k")
    assert datum.read_datum(value, "k", "color").data.shape == (3, 22, 26)


def test_describe_record_undecodable_key_is_printable():
    assert datum.describe_record(b"a\xff") == 'record "a\\xff"'
