import numpy as np

from jaxcaffe.proto import caffe_pb2
from jaxcaffe.proto.wire import (
    append_packed,
    count_bytes,
    encode_field,
    encode_varint_field,
    read_packed,
    read_unnamed,
)


def test_read_packed_skips_fields_of_other_programs():
    # Fields 12 (bytes), 13 (varint), 14 (4 bytes), 15 (8 bytes) before and after.
    unknown = b"\x62\x03\x2a\x04\x00\x68\xac\x02\x75\x2a\x2a\x2a\x2a\x79" + b"\x2a" * 8
    known = caffe_pb2.BlobProto(data=[1.5, 2.5]).SerializeToString()
    blob = caffe_pb2.BlobProto.FromString(unknown + known + unknown)
    found = read_packed(blob, data="<f4")["data"]
    np.testing.assert_array_equal(found, [1.5, 2.5])


def test_append_packed_twice_appends():
    blob = caffe_pb2.BlobProto()
    for value in (1.0, 2.0):
        append_packed(blob, "double_data", np.full(200, value))
    assert list(blob.double_data) == [1.0] * 200 + [2.0] * 200


def test_read_packed_of_unset_field_is_empty():
    found = read_packed(caffe_pb2.BlobProto(num=3), data="<f4", double_diff="<f8")
    assert found["data"].shape == (0,)
    assert found["double_diff"].dtype == np.float64


def test_encode_field_is_what_protobuf_writes():
    blob = caffe_pb2.BlobProto()
    values = np.arange(300, dtype="<f4")
    append_packed(blob, "data", values)
    blob.num = 300
    chunks = [encode_varint_field(1, 300), *encode_field(5, [values.data])]
    assert b"".join(chunks) == blob.SerializeToString()
    assert count_bytes(chunks) == len(blob.SerializeToString())


def test_read_unnamed_finds_fields_that_the_schema_lacks():
    blob = caffe_pb2.BlobProto(num=3, data=[1, 2])
    extra = [encode_varint_field(10, 300), *encode_field(12, [b"ab", b"c"])]
    blob.MergeFromString(b"".join([*extra, encode_varint_field(10, 7)]))
    assert read_unnamed(blob, 10) == 7
    assert read_unnamed(blob, 12) == b"abc"
    assert read_unnamed(blob, 1) == 3
    assert read_unnamed(blob, 11) is None
