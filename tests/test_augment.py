import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from google.protobuf import text_format

from jaxcaffe.augment import make_augment
from jaxcaffe.errors import CaffeError
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.proto.binary import write_blob

N, C, H, W, S = 64, 3, 9, 11, 6


def make_layer(transform, type_="Data"):
    return text_format.Parse(
        f'name: "data" type: "{type_}" top: "data" top: "label" '
        f"transform_param {{ {transform} }}",
        caffe_pb2.LayerParameter(),
    )


def augment(transform, images, phase=caffe_pb2.TRAIN, seed=0, type_="Data"):
    batch = {"data": images, "label": np.arange(len(images), dtype=np.float32)}
    structs = {top: (array.shape, array.dtype) for top, array in batch.items()}
    function = make_augment([make_layer(transform, type_)], structs, phase, ["net:3"])
    tops = jax.jit(function)(batch, jax.random.key(seed))
    assert all(top.dtype == jnp.float32 for top in tops.values())
    np.testing.assert_array_equal(tops["label"], batch["label"])
    return np.asarray(tops["data"])


@pytest.fixture
def images():
    """Every pixel tells its image, channel and place."""
    return np.random.default_rng(0).integers(0, 256, (N, C, H, W), np.uint8)


@pytest.fixture
def mean(tmp_path):
    array = np.random.default_rng(1).uniform(0, 255, (1, C, H, W)).astype(np.float32)
    path = str(tmp_path / "mean.binaryproto")
    write_blob(path, array)
    return path, array[0]


def transform_by_hand(image, top, left, flip, mean, scale):
    """data_transformer.cpp's loop over pixels, for one image."""
    result = np.zeros((C, S, S), np.float32)
    for c in range(C):
        for h in range(S):
            for w in range(S):
                value = np.float32(image[c, top + h, left + w])
                value = (value - mean[c, top + h, left + w]) * np.float32(scale)
                result[c, h, S - 1 - w if flip else w] = value
    return result


def find_places(images, result, mean, scale):
    """Returns (top, left, flip) of each image, found by trying all."""
    places = []
    full = (images.astype(np.float32) - mean) * np.float32(scale)
    for image, cut in zip(full, result, strict=True):
        found = [
            (top, left, flip)
            for top in range(H - S + 1)
            for left in range(W - S + 1)
            for flip in (False, True)
            if np.allclose(
                image[:, top : top + S, left : left + S][..., :: -1 if flip else 1],
                cut,
                rtol=1e-6,
            )
        ]
        assert len(found) == 1
        places.append(found[0])
    return places


def test_augment_train_crop_mirror_mean_file_equals_caffes_loop(images, mean):
    path, array = mean
    text = f'crop_size: {S} mirror: true scale: 0.5 mean_file: "{path}"'
    result = augment(text, images)
    places = find_places(images, result, array, 0.5)
    for image, cut, place in list(zip(images, result, places, strict=True))[:6]:
        np.testing.assert_allclose(
            cut, transform_by_hand(image, *place, array, 0.5), rtol=1e-6
        )
    # Every position and both sides turn up, each image has its own.
    assert {top for top, _, _ in places} == set(range(H - S + 1))
    assert {left for _, left, _ in places} == set(range(W - S + 1))
    assert 16 < sum(flip for *_, flip in places) < 48


def test_augment_train_positions_are_uniform():
    images = np.broadcast_to(np.arange(W, dtype=np.uint8), (6000, 1, H, W))
    lefts = augment(f"crop_size: {S}", images)[:, 0, 0, 0]
    counts = np.bincount(lefts.astype(int), minlength=W - S + 1)
    # 1000 expected in each of six places; four standard deviations.
    assert np.abs(counts - 1000).max() < 4 * np.sqrt(1000)


def test_augment_other_key_gives_other_positions_same_key_same(images):
    text = f"crop_size: {S} mirror: true"
    first = augment(text, images, seed=1)
    np.testing.assert_array_equal(first, augment(text, images, seed=1))
    assert (first != augment(text, images, seed=2)).any()


@pytest.mark.parametrize("size", [5, 6])
def test_augment_test_phase_crops_centre(images, size):
    result = augment(f"crop_size: {size}", images, caffe_pb2.TEST)
    top, left = (H - size) // 2, (W - size) // 2
    expected = images[:, :, top : top + size, left : left + size]
    np.testing.assert_array_equal(result, expected)


def test_augment_test_phase_still_mirrors(images):
    # Caffe's transformer draws for `mirror` in either phase.
    result = augment("mirror: true", images, caffe_pb2.TEST)
    plain = [(r == i).all() for r, i in zip(result, images, strict=True)]
    turned = [(r == i[..., ::-1]).all() for r, i in zip(result, images, strict=True)]
    assert all(a != b for a, b in zip(plain, turned, strict=True))
    assert any(plain)
    assert any(turned)


def test_augment_one_mean_value_serves_all_channels(images):
    result = augment("mean_value: 7 scale: 2", images)
    np.testing.assert_array_equal(result, (images.astype(np.float32) - 7) * 2)


def test_augment_mean_values_by_channel(images):
    result = augment("mean_value: 1 mean_value: 2 mean_value: 3", images)
    expected = images - np.float32([1, 2, 3])[:, None, None]
    np.testing.assert_array_equal(result, expected)


def test_augment_images_cropped_by_host_keep_their_place(images):
    cut = images[:, :, :S, :S]
    np.testing.assert_array_equal(augment(f"crop_size: {S}", cut), cut)


@pytest.mark.parametrize(
    ("type_", "dtype"), [("HDF5Data", np.float32), ("MemoryData", np.float32)]
)
def test_augment_float_arrays_of_other_layers_pass_unchanged(images, type_, dtype):
    result = augment("scale: 3", images.astype(dtype), type_=type_)
    np.testing.assert_array_equal(result, images)


def test_augment_bytes_in_memory_data_are_transformed(images):
    result = augment("scale: 3", images, type_="MemoryData")
    np.testing.assert_array_equal(result, images.astype(np.float32) * 3)


def test_augment_two_layers_draw_their_own_positions(images):
    layers = [make_layer(f"crop_size: {S}"), make_layer(f"crop_size: {S}")]
    layers[1].top[0], layers[1].top[1] = "data2", "label2"
    batch = {"data": images, "data2": images}
    structs = {top: (a.shape, a.dtype) for top, a in batch.items()}
    tops = make_augment(layers, structs, caffe_pb2.TRAIN)(batch, jax.random.key(0))
    assert (tops["data"] != tops["data2"]).any()


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (
            "mean_value: 1 mean_value: 2",
            'net:3: layer "data" .Data.: 2 mean_values for 3 channels.*one mean_value,'
            " or 3",
        ),
        ("crop_size: 10", "crop_size is 10, the images are 3x9x11.*at most 9"),
        ('mean_value: 1 mean_file: "x"', "mean_file and mean_value are both set"),
        ("force_color: true force_gray: true", "force_color and force_gray are both"),
        ('mean_file: "none.binaryproto"', "mean_file: none.binaryproto"),
    ],
)
def test_make_augment_bad_field_raises(images, transform, message):
    with pytest.raises(CaffeError, match=message):
        augment(transform, images)


def test_make_augment_mean_of_other_shape_names_both(images, mean):
    path, _ = mean
    with pytest.raises(CaffeError, match="is 3x9x11, the images are 3x9x10"):
        augment(f'mean_file: "{path}"', images[..., :10])


def test_augment_size_that_varies_is_checked_again(images):
    layer = make_layer(f"crop_size: {S}")
    structs = {"data": (images.shape, images.dtype)}
    function = make_augment([layer], structs, caffe_pb2.TEST, ["net:3"])
    batch = {"data": images[:1, :, :5]}
    with pytest.raises(CaffeError, match="crop_size is 6, the images are 3x5x11"):
        function(batch, jax.random.key(0))


SHARDED = """
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from google.protobuf import text_format
from jaxcaffe.augment import make_augment
from jaxcaffe.proto import caffe_pb2
layer = text_format.Parse('name: "data" type: "Data" top: "data" transform_param '
    '{ crop_size: 6 mirror: true mean_value: 3 }', caffe_pb2.LayerParameter())
images = np.random.default_rng(0).integers(0, 256, (64, 3, 9, 11), np.uint8)
function = make_augment([layer], {"data": (images.shape, images.dtype)}, 0)
alone = jax.jit(function)({"data": images}, jax.random.key(5))["data"]
mesh = Mesh(np.array(jax.devices()), "data")
spread = jax.device_put(images, NamedSharding(mesh, P("data")))
lowered = jax.jit(function, out_shardings=NamedSharding(mesh, P("data"))).lower(
    {"data": spread}, jax.random.key(5)).compile()
np.testing.assert_array_equal(
    alone, lowered({"data": spread}, jax.random.key(5))["data"])
text = lowered.as_text()
assert len(jax.devices()) == 4
for word in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
    assert word not in text, word
"""


def test_augment_spread_over_devices_gives_same_images_without_communication():
    environment = dict(os.environ)
    environment["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
    environment["JAX_PLATFORMS"] = "cpu"
    subprocess.run([sys.executable, "-c", SHARDED], env=environment, check=True)
