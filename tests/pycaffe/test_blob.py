import jax.numpy as jnp
import numpy as np
import pytest

from jaxcaffe.pycaffe.blob import Blob, BlobVec, SharedBlob


def test_blob_starts_with_zeros():
    blob = Blob((2, 3))
    assert blob.data.tolist() == [[0] * 3] * 2
    assert blob.diff.tolist() == [[0] * 3] * 2
    assert (blob.data.dtype, blob.data.flags.c_contiguous) == (np.float32, True)


def test_blob_writes_reach_the_device():
    blob = Blob((2,))
    blob.data[...] = [1, 2]
    assert blob.data_side.to_device().tolist() == [1, 2]
    blob.data[1] = 5
    assert blob.data_side.to_device().tolist() == [1, 5]


def test_blob_kept_array_sees_later_values_without_being_asked_for_again():
    blob = Blob((2,))
    kept = blob.data[1:]
    blob.data_side.put(jnp.array([3.0, 4.0]))
    assert kept.tolist() == [4]


def test_blob_kept_array_may_be_written_to_at_any_time():
    blob = Blob((2,))
    kept = blob.data
    blob.data_side.put(jnp.array([3.0, 4.0]))
    assert blob.data_side.to_device().tolist() == [3, 4]
    kept[0] = 9
    assert blob.data_side.to_device().tolist() == [9, 4]


def test_blob_values_nobody_asks_for_are_not_computed():
    calls = []

    def compute():
        calls.append(1)
        return jnp.ones(2)

    blob = Blob((2,))
    blob.data_side.put(compute)
    assert not calls
    assert blob.data.tolist() == [1, 1]
    assert blob.data.tolist() == [1, 1]
    assert calls == [1]


def test_blob_values_are_computed_at_once_for_a_kept_array():
    blob = Blob((2,))
    kept = blob.data
    blob.data_side.put(lambda: jnp.ones(2))
    assert kept.tolist() == [1, 1]


def test_blob_was_written_tells_reading_from_writing():
    blob = Blob((2,))
    blob.data_side.put(jnp.array([1.0, 2.0]))
    array = blob.data
    assert not blob.data_side.was_written()
    array[0] = 7
    assert blob.data_side.was_written()


def test_blob_device_value_does_not_follow_the_host_array():
    # A program may still be running on it.
    blob = Blob((1 << 16,))
    array = blob.data
    given = blob.data_side.to_device()
    array[...] = 1
    assert not given.any()


def test_blob_reshape_keeps_the_memory_as_far_as_it_goes():
    blob = Blob((2, 3))
    kept = blob.data
    kept[...] = [[1, 2, 3], [4, 5, 6]]
    blob.reshape(2, 1, 2)
    assert blob.data.tolist() == [[[1, 2]], [[3, 4]]]
    assert (blob.num, blob.channels, blob.height, blob.width) == (2, 1, 2, 1)
    assert blob.count == 4
    assert blob.data_side.to_device().tolist() == [[[1, 2]], [[3, 4]]]
    kept[0, 0] = 9
    blob.reshape(3, 2)
    assert blob.data.tolist() == [[9, 2], [3, 4], [5, 6]]
    with pytest.raises(ValueError, match="negative length"):
        blob.reshape(-1)


def test_blob_reshape_keeps_values_that_only_the_device_has():
    blob = Blob((4,))
    blob.data_side.put(jnp.array([1.0, 2.0, 3.0, 4.0]))
    blob.reshape(2, 2)
    assert blob.data_side.to_device().tolist() == [[1, 2], [3, 4]]


def test_blob_reshape_beyond_the_memory_gives_zeros():
    blob = Blob((2,))
    blob.data[...] = 1
    blob.reshape(3)
    assert blob.data.tolist() == [0, 0, 0]


def test_blob_reshape_to_the_same_shape_keeps_the_values():
    blob = Blob((2,))
    blob.data[...] = 1
    blob.reshape(2)
    assert blob.data.tolist() == [1, 1]


def test_blob_of_five_axes_has_no_legacy_shape():
    with pytest.raises(ValueError, match="5 axes has no num"):
        _ = Blob((1, 1, 1, 1, 1)).num


def test_shared_blob_is_its_owner_in_another_shape():
    owner = Blob((2, 3))
    shared = SharedBlob(owner, (6,))
    shared.data[4] = 8
    assert owner.data[1, 1] == 8
    with pytest.raises(ValueError, match="reshape its owner"):
        shared.reshape(6)


def test_blob_vec_add_blob_appends_zeros():
    blobs = BlobVec()
    blobs.add_blob(2, 3)
    blobs.add_blob()
    assert [blob.shape for blob in blobs] == [(2, 3), ()]
