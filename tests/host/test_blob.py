"""The blobs that the user's Python layers get."""

import numpy as np
import pytest

from jaxcaffe.host.blob import Blob, BlobVec


def test_blob_is_zero_and_writable():
    blob = Blob((2, 3))
    blob.data[0, 1] = 5
    blob.diff[...] = 1
    np.testing.assert_array_equal(blob.data, [[0, 5, 0], [0, 0, 0]])
    assert blob.data.dtype == blob.diff.dtype == np.float32
    assert blob.diff.sum() == blob.count == 6


@pytest.mark.parametrize(
    ("shape", "legacy"),
    [((), (1, 1, 1, 1)), ((2, 3), (2, 3, 1, 1)), ((2, 3, 4, 5), (2, 3, 4, 5))],
)
def test_blob_of_few_axes_has_four_lengths(shape, legacy):
    blob = Blob(shape)
    assert (blob.num, blob.channels, blob.height, blob.width) == legacy


def test_blob_of_five_axes_has_no_num():
    with pytest.raises(ValueError, match="5 axes has no num"):
        _ = Blob((1, 2, 3, 4, 5)).num


def test_blob_kept_array_sees_later_values():
    blob = Blob((2, 2))
    kept = blob.data
    np.copyto(blob.own_data(), 7)
    np.testing.assert_array_equal(kept, 7)


def test_blob_reshape_keeps_as_many_values():
    blob = Blob((2, 3))
    blob.data[...] = [[1, 2, 3], [4, 5, 6]]
    blob.reshape(3, 2)
    np.testing.assert_array_equal(blob.data, [[1, 2], [3, 4], [5, 6]])
    blob.reshape(np.int64(4))
    assert blob.shape == (4,)
    np.testing.assert_array_equal(blob.data, 0)
    assert blob.diff.shape == (4,)


def test_blob_negative_length_is_refused():
    with pytest.raises(ValueError, match=r"shape \(2, -1\) has a negative length"):
        Blob().reshape(2, -1)


def test_blob_that_is_not_writable_refuses_writes_to_data_alone():
    blob = Blob((2,), writable=False)
    with pytest.raises(ValueError, match="read-only"):
        blob.data[0] = 1
    blob.diff[0] = 1
    assert blob.own_diff()[0] == 1


def test_blobvec_add_blob_appends_zeros():
    blobs = BlobVec()
    blobs.add_blob(2, 3)
    blobs.add_blob()
    assert [blob.shape for blob in blobs] == [(2, 3), ()]
    assert not blobs[0].data.any()
