"""Batches of Caffe's data layers, as real Caffe gave them."""

import json
import os
import pathlib

import jax
import numpy as np
import pytest

from jaxcaffe.augment import make_augment
from jaxcaffe.data.pipeline import FeedOptions, FeedReader, open_feed
from jaxcaffe.errors import CaffeError
from jaxcaffe.proto import caffe_pb2
from jaxcaffe.proto.text import read_net

ROOT = pathlib.Path(
    os.environ.get("JAXCAFFE_GOLDEN_DATA")
    or pathlib.Path(__file__).parents[1] / "golden" / "data"
)
# JPEG decoders and OpenCV versions differ by up to this many grey levels.
DECODED_LEVELS = 2.0
# One rounding in (x - mean) * scale.
RELATIVE = 1e-6

CASES = {
    pathlib.Path(case["net"]).stem: case
    for case in json.loads((ROOT / "outputs.json").read_text())
    if "h5out" not in case["net"]
}
MESSAGES = {
    "fail_varied": r"is 3x\d+x\d+, the first 3x\d+x\d+.*crop_size",
    "fail_enc_native": r"is 1x19x19, the first record's 3x19x19.*force_color",
    "fail_crop": r"crop_size is 99, the images are 3x26x26",
    "fail_mean_count": r"2 mean_values for 3 channels.*Accepted: one mean_value, or 3",
    "fail_mean_both": r"mean_file and mean_value are both set",
    "fail_mean_size": r"same.binaryproto is 3x30x36, the images are 3x26x26",
    "fail_mean_missing": r"mean/none.binaryproto",
    "fail_force_both": r"force_color and force_gray are both set",
    "fail_no_db": r"db/none: no such file or folder",
    "fail_backend": r"db/lmdb_resized: this is an LMDB database.*backend: LMDB",
    "fail_image_missing": r"bad.txt:2: images/bad/missing.jpg",
    "fail_image_one_side": r"new_height is 20 and new_width is 0",
    "fail_image_no_list": r"none.txt: cannot be read",
    "fail_image_varied": r"is 3x\d+x\d+, the first 3x30x36",
    "fail_image_batch0": r"batch_size is 0",
    "fail_h5_transform": r"HDF5Data does not transform its data",
    "fail_h5_dataset": r'h5/part0.h5: no dataset named "nothing"',
    "fail_h5_later_dataset": r'no dataset named "only_here"',
    "fail_h5_rows": r'part2.h5: dataset "short" has 6 rows, "label" has 7',
    "fail_h5_text": r'dataset "text" holds text',
    "fail_h5_file": r"h5/none.h5: no such HDF5 file",
    "fail_h5_list": r"h5_none.txt: the list of HDF5 files cannot be read",
    "fail_memory_unset": r"no arrays were given for this MemoryData layer",
}


def run_case(case, options):
    """Returns {TOP_i: array} of every forward pass, through feed and augment."""
    net, source = read_net(case["net"])
    layer = next(layer for layer in net.layer if not layer.bottom)
    phase = caffe_pb2.Phase.Value(case["phase"])
    where = source.locate(layer.name)
    feed = open_feed(layer, phase, options, where)
    augment = make_augment([layer], feed.structs, phase, [where])
    outputs = {}
    with FeedReader([feed], options) as reader:
        for step in range(case["forwards"]):
            for top, array in augment(next(reader), jax.random.key(step)).items():
                assert array.dtype == np.float32
                outputs[f"{top}_{step}"] = np.asarray(array)
    return outputs


def memory_options(root):
    arrays = np.load(root / "memory_input.npz")
    return FeedOptions(arrays={"data": (arrays["data"], arrays["label"])}, threads=2)


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if c["status"] == 0])
def test_open_feed_golden_net_gives_caffes_tops(name, golden):
    case = CASES[name]
    options = memory_options(golden) if "memory" in name else FeedOptions(threads=2)
    outputs = run_case(case, options)
    expected = np.load(case["outputs"])
    assert set(outputs) == set(expected.files)
    levels = DECODED_LEVELS if "image_" in name or "_enc_" in name else 0.0
    for key in expected.files:
        assert outputs[key].shape == expected[key].shape
        scale = 1.0 if key.startswith("data") else 0.0
        np.testing.assert_allclose(
            outputs[key], expected[key], rtol=RELATIVE, atol=levels * scale
        )


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if c["status"] != 0])
def test_open_feed_golden_failure_raises_clear_error(name, golden):
    with pytest.raises(CaffeError, match=MESSAGES.get(name, "Accepted")) as caught:
        run_case(CASES[name], FeedOptions(threads=0))
    # One line: file, line, layer.
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(CASES[name]["net"] + ":")
    assert 'layer "data" (' in str(caught.value)


def test_open_feed_golden_memory_arrays_that_caffe_refuses_raise(golden):
    arrays = np.load(golden / "memory_input.npz")
    data, label = arrays["data"], arrays["label"]
    refused = {
        "labels have shape": (data, label[:-1]),
        "rows of data are 2x2x5, memory_data_param says 2x3x5": (data[:, :, :2], label),
        "data is float64": (data.astype(np.float64), label),
        "10 rows are no multiple of batch_size 4": (data[:10], label[:10]),
    }
    for message, pair in refused.items():
        with pytest.raises(CaffeError, match=message):
            run_case(CASES["memory"], FeedOptions(arrays={"data": pair}))
