import gc
import itertools
import os
import pickle
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import cv2
import h5py
import lmdb
import numpy as np
import pytest
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcaffe.config import default_config
from jaxcaffe.data import openers, pipeline
from jaxcaffe.data.pipeline import FeedOptions, FeedReader, limit_labels, open_feed
from jaxcaffe.data.records import Shuffle
from jaxcaffe.errors import CaffeError, ConfigError, DataError, PrototxtError
from jaxcaffe.proto import caffe_pb2

TRAIN, TEST = caffe_pb2.TRAIN, caffe_pb2.TEST
RECORDS = 11
SYNCHRONOUS = FeedOptions(threads=0)


def data_layer(path, batch_size=4, transform="", more="", name="data"):
    layer = caffe_pb2.LayerParameter(
        name=name, type="Data", top=[name, name + "_label"]
    )
    if name == "data":
        layer.top[1] = "label"
    layer.data_param.source = str(path)
    layer.data_param.batch_size = batch_size
    layer.data_param.backend = caffe_pb2.DataParameter.LMDB
    text_format.Merge(f"transform_param {{ {transform} }} {more}", layer)
    return layer


def open_data(path, options=SYNCHRONOUS, phase=TRAIN, **fields):
    return open_feed(data_layer(path, **fields), phase, options, "net:3")


def labels_of(feed, options, count, positions=None):
    with FeedReader([feed], options, positions) as reader:
        return [next(reader)["label"].astype(int).tolist() for _ in range(count)]


def flat(batches):
    return list(itertools.chain.from_iterable(batches))


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """Eleven records 1x1x2 with the labels 0 to 10."""
    path = str(tmp_path_factory.mktemp("pipeline") / "db")
    environment = lmdb.open(path)
    with environment.begin(write=True) as transaction:
        for index in range(RECORDS):
            datum = caffe_pb2.Datum(
                channels=1, height=1, width=2, data=bytes([index, 0]), label=index
            )
            transaction.put(b"%03d" % index, datum.SerializeToString())
    environment.close()
    return path


def test_open_feed_batches_run_on_through_the_end(database):
    feed = open_data(database)
    assert feed.structs == {
        "data": ((4, 1, 1, 2), np.uint8),
        "label": ((4,), np.float32),
    }
    assert (feed.name, feed.tops, feed.num_records) == ("data", ("data", "label"), 11)
    assert labels_of(feed, SYNCHRONOUS, 3) == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9, 10, 0],
    ]
    batch = feed.batches[2]
    np.testing.assert_array_equal(batch["data"][:, 0, 0, 0], [8, 9, 10, 0])


def test_open_feed_batch_larger_than_epoch_wraps_in_itself(database):
    feed = open_data(database, batch_size=25)
    expected = [i % RECORDS for i in range(25)]
    assert labels_of(feed, SYNCHRONOUS, 1) == [expected]


@settings(max_examples=25, deadline=None)
@given(
    threads=st.integers(0, 5),
    prefetch=st.integers(1, 6),
    batch_size=st.integers(1, 30),
    start=st.integers(0, 60),
    seed=st.integers(-(2**40), 2**70),
    shuffle=st.booleans(),
    rand_skip=st.integers(0, 12),
)
def test_feed_reader_any_threads_and_position_give_the_same_records(
    database, threads, prefetch, batch_size, start, seed, shuffle, rand_skip
):
    options = FeedOptions(
        seed=seed, shuffle=shuffle, threads=threads, prefetch=prefetch
    )
    more = f"data_param {{ rand_skip: {rand_skip} }}"
    feed = open_data(database, options, batch_size=batch_size, more=more)
    # One record at a time, read by nobody but the caller.
    single = open_data(database, options, batch_size=1, more=more)
    expected = [int(single.records[i]["label"]) for i in range(start + 3 * batch_size)]
    found = labels_of(feed, options, 3, {"data": start})
    assert flat(found) == expected[start:]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**64 - 1), epoch=st.integers(0, 2**40))
def test_shuffle_is_a_permutation_of_each_epoch(database, seed, epoch):
    options = FeedOptions(seed=seed, shuffle=True)
    records = open_data(database, options).records
    start = epoch * RECORDS
    orders = [
        [records.index(start + turn * RECORDS + i) for i in range(RECORDS)]
        for turn in range(4)
    ]
    assert all(sorted(order) == list(range(RECORDS)) for order in orders)
    # 11! orders: four equal ones are no accident.
    assert len({tuple(order) for order in orders}) > 1
    again = open_data(database, options).records
    assert orders[0] == [again.index(start + i) for i in range(RECORDS)]


def test_shuffle_order_depends_on_the_seed_and_stays_for_ever(database):
    orders = []
    for seed in (0, 1):
        options = SYNCHRONOUS._replace(seed=seed, shuffle=True)
        feed = open_data(database, options, batch_size=RECORDS)
        orders.append(flat(labels_of(feed, options, 2)))
    assert orders[0] != orders[1]
    # A snapshot of an older version must go on in the same order.
    assert orders[0] == RECORDED_ORDER


# fmt: off
RECORDED_ORDER = [
    1, 10, 8, 0, 7, 4, 3, 2, 9, 5, 6, 7, 6, 3, 1, 5, 9, 4, 8, 10, 0, 2
]
# fmt: on


def test_shuffle_option_leaves_test_phase_in_file_order(database):
    options = FeedOptions(shuffle=True, threads=0)
    feed = open_data(database, options, phase=TEST)
    assert labels_of(feed, options, 1) == [[0, 1, 2, 3]]


def test_two_shuffled_layers_of_one_length_stay_paired(database):
    options = FeedOptions(seed=5, shuffle=True, threads=2)
    feeds = [open_data(database, options, name=name) for name in ("data", "other")]
    with FeedReader(feeds, options) as reader:
        for _ in range(7):
            batch = next(reader)
            np.testing.assert_array_equal(batch["data"], batch["other"])


def test_rand_skip_starts_later_once(database):
    more = "data_param { rand_skip: 9 }"
    skips = set()
    for seed in range(30):
        options = SYNCHRONOUS._replace(seed=seed)
        feed = open_data(database, options, batch_size=1, more=more)
        skips.add(feed.skip)
        found = flat(labels_of(feed, options, RECORDS + 2))
        assert found == [(feed.skip + i) % RECORDS for i in range(RECORDS + 2)]
    assert skips == set(range(9))


def test_feed_reader_positions_count_what_was_handed_out(database):
    options = FeedOptions(threads=3, prefetch=6)
    feeds = [open_data(database), open_data(database, batch_size=3, name="other")]
    with FeedReader(feeds, options, {"other": 9, "gone": 4}) as reader:
        assert reader.positions == {"data": 0, "other": 9}
        batch = next(reader)
        time.sleep(0.05)
        assert reader.positions == {"data": 4, "other": 12}
        assert batch["other_label"].tolist() == [9, 10, 0]


def test_feed_reader_close_ends_its_threads_and_keeps_the_position(database):
    before = set(threading.enumerate())
    options = FeedOptions(threads=4)
    reader = FeedReader([open_data(database)], options)
    assert not set(threading.enumerate()) - before
    first = next(reader)["label"].tolist()
    assert set(threading.enumerate()) - before
    reader.close()
    deadline = time.monotonic() + 5
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not set(threading.enumerate()) - before
    assert first + next(reader)["label"].tolist() == list(range(8))
    reader.close()


def test_feed_reader_two_feeds_of_one_name_raise(database):
    feed = open_data(database)
    with pytest.raises(ConfigError, match=r"net:3: .*another data layer.*same name"):
        FeedReader([feed, feed], SYNCHRONOUS)


def test_feed_reader_after_an_error_goes_on_from_its_position(make_lmdb):
    path = make_lmdb([np.zeros((1, 1, 1), np.uint8)] * 6)
    feeds = [
        open_data(path, batch_size=1, name="other"),
        limit_labels(open_data(path, batch_size=1), {"label": (2, None)}),
    ]
    with FeedReader(feeds, FeedOptions(threads=2)) as reader:
        next(reader)
        next(reader)
        for _ in range(2):
            with pytest.raises(DataError, match="label 2"):
                next(reader)
            assert reader.positions == {"data": 2, "other": 2}


def test_feed_reader_processes_give_the_same_batches(make_lmdb):
    rng = np.random.default_rng(0)
    sizes = rng.integers(5, 9, (9, 2))
    path = make_lmdb([rng.integers(0, 256, (3, *size), np.uint8) for size in sizes])
    options = FeedOptions(seed=3, shuffle=True, threads=0)
    feed = open_data(path, options, transform="crop_size: 4", batch_size=5)
    spread = options._replace(processes=2, threads=1, prefetch=2)
    with (
        FeedReader([feed], options, {"data": 7}) as alone,
        FeedReader([feed], spread, {"data": 7}) as many,
    ):
        for _ in range(5):
            expected, found = next(alone), next(many)
            for top in expected:
                np.testing.assert_array_equal(found[top], expected[top])
                # Nothing is left behind even if the program ends with arrays in use.
                assert not os.path.exists(f"/dev/shm/{found[top].shm.name}")
        assert alone.positions == many.positions == {"data": 32}


@pytest.fixture
def unequal(make_lmdb):
    """Eight images whose pixels tell row and column, of unequal size."""
    sizes = [(9, 7), (8, 8), (7, 12), (9, 7), (10, 10), (7, 7), (8, 9), (9, 8)]
    grids = [
        np.stack(np.meshgrid(np.arange(h), np.arange(w), indexing="ij"), axis=0).astype(
            np.uint8
        )
        for h, w in sizes
    ]
    return make_lmdb(grids), sizes


def test_unequal_sizes_test_phase_crops_centre_on_host(unequal):
    path, sizes = unequal
    feed = open_data(path, phase=TEST, transform="crop_size: 5", batch_size=8)
    data = feed.batches[0]["data"]
    assert data.shape == (8, 2, 5, 5)
    corners = [((h - 5) // 2, (w - 5) // 2) for h, w in sizes]
    assert [tuple(image[:, 0, 0]) for image in data] == corners


def test_unequal_sizes_train_phase_crops_at_random_by_position(unequal):
    path, sizes = unequal
    feed = open_data(path, transform="crop_size: 5", batch_size=8)
    batches = [feed.batches[k]["data"] for k in range(40)]
    corners = [{tuple(batch[i, :, 0, 0]) for batch in batches} for i in range(8)]
    for found, (height, width) in zip(corners, sizes, strict=True):
        assert max(row for row, _ in found) == height - 5
        assert max(column for _, column in found) == width - 5
        assert (0, 0) in found or len(found) > 5
    # The same record at the same position of the run, however it is batched.
    single = open_data(path, transform="crop_size: 5", batch_size=1)
    np.testing.assert_array_equal(single.records[13]["data"], batches[1][5])
    other = open_data(path, FeedOptions(seed=1), transform="crop_size: 5", batch_size=8)
    assert (other.batches[0]["data"] != batches[0]).any()


def test_equal_sizes_are_left_to_the_step_unless_asked(make_lmdb):
    path = make_lmdb([np.zeros((3, 6, 6), np.uint8)] * 3)
    feed = open_data(path, transform="crop_size: 4")
    assert feed.structs["data"][0] == (4, 3, 6, 6)
    asked = SYNCHRONOUS._replace(crop_on_host=True)
    feed = open_data(path, asked, transform="crop_size: 4")
    assert feed.structs["data"][0] == (4, 3, 4, 4)
    with pytest.raises(ConfigError, match=r"net:3: .*crop_on_host with mean_file"):
        open_data(path, asked, transform='crop_size: 4 mean_file: "m"')


def test_unequal_sizes_without_crop_raise_with_both_sizes(unequal):
    with pytest.raises(
        DataError,
        match=r'net:3: layer "data" \(Data\): record "00000001_db" of LMDB .*: '
        r"is 2x8x8, the first 2x9x7. Accepted: .*crop_size",
    ):
        open_data(unequal[0])


def test_unequal_sizes_with_mean_file_raise(unequal):
    with pytest.raises(DataError, match=r"2x8x8.*records of mean_file's size"):
        open_data(unequal[0], transform='crop_size: 5 mean_file: "m"')


def test_unequal_sizes_one_at_a_time_keep_their_sizes(unequal):
    path, sizes = unequal
    options = FeedOptions(threads=2)
    with FeedReader([open_data(path, batch_size=1)], options) as reader:
        shapes = [next(reader)["data"].shape for _ in range(8)]
    assert shapes == [(1, 2, *size) for size in sizes]


def test_image_smaller_than_crop_size_raises_with_its_key(make_lmdb):
    sizes = [(8, 9), (9, 8), (9, 7)]
    path = make_lmdb([np.zeros((1, *size), np.uint8) for size in sizes])
    feed = open_data(path, transform="crop_size: 8", batch_size=2)
    assert feed.batches[0]["data"].shape == (2, 1, 8, 8)
    message = r'net:3: .*"00000002_db".*is 9x7, smaller than crop_size 8'
    with pytest.raises(CaffeError, match=message):
        feed.batches[1]


def test_record_of_another_size_found_late_raises_with_key_and_remedy(make_lmdb):
    arrays = [np.zeros((1, 4, 4), np.uint8)] * 200
    arrays[102] = np.zeros((1, 5, 4), np.uint8)
    path = make_lmdb(arrays)
    feed = open_data(path, transform="crop_size: 2", batch_size=100)
    feed.batches[0]
    with pytest.raises(
        DataError,
        match=r'record "00000102_db".*is 1x5x4, the first record\'s 1x4x4.*'
        "crop_on_host=True",
    ):
        feed.batches[1]
    option = SYNCHRONOUS._replace(crop_on_host=True)
    feed = open_data(path, option, transform="crop_size: 2", batch_size=100)
    assert feed.batches[1]["data"].shape == (100, 1, 2, 2)


def test_records_of_bytes_and_floats_together_raise(make_lmdb):
    path = make_lmdb([np.zeros((1, 1, 1), np.uint8), np.ones((1, 1, 1), np.float32)])
    with pytest.raises(DataError, match="is float32, the first record's uint8"):
        open_data(path, batch_size=2).batches[0]


@pytest.mark.parametrize("label", [-1, 3, 255])
def test_limit_labels_bad_label_names_its_record(make_lmdb, label):
    path = make_lmdb([np.zeros((1, 1, 1), np.uint8)] * 4, labels=[0, 2, label, 1])
    feed = open_data(path, batch_size=2)
    limited = limit_labels(feed, {"label": (3, None), "absent": (1, None)})
    assert limited.batches[0]["label"].tolist() == [0, 2]
    with pytest.raises(
        DataError,
        match=f'net:3: .*"00000002_db".*label {label} in top "label" has no class; '
        "the net has 3. Accepted: 0 to 2",
    ):
        limited.batches[1]
    allowed = limit_labels(feed, {"label": (3, label)})
    assert allowed.batches[1]["label"].tolist() == [label, 1]


def test_image_data_shuffles_each_epoch_and_reads_in_step(tmp_path, make_images, layer):
    names, pixels = make_images([(4, 4)] * 6)
    (tmp_path / "list.txt").write_text(
        "".join(f"{name} {i}\n" for i, name in enumerate(names))
    )
    image_layer = layer(
        'name: "data" type: "ImageData" top: "data" top: "label" image_data_param '
        f'{{ source: "{tmp_path}/list.txt" root_folder: "{tmp_path}/" batch_size: 6 '
        "shuffle: true }"
    )
    feed = open_feed(image_layer, TEST, SYNCHRONOUS, "net:3")
    epochs = [feed.batches[k] for k in range(3)]
    for batch in epochs:
        for label, data in zip(batch["label"], batch["data"], strict=True):
            np.testing.assert_array_equal(data, pixels[int(label)].transpose(2, 0, 1))
    orders = [tuple(batch["label"]) for batch in epochs]
    assert all(sorted(order) == [0, 1, 2, 3, 4, 5] for order in orders)
    assert len(set(orders)) > 1


def test_image_data_rand_skip_beyond_the_list_raises(tmp_path, make_images, layer):
    names, _ = make_images([(4, 4)])
    (tmp_path / "list.txt").write_text(f"{names[0]} 0\n")
    image_layer = layer(
        'name: "data" type: "ImageData" top: "data" top: "label" image_data_param '
        f'{{ source: "{tmp_path}/list.txt" root_folder: "{tmp_path}/" rand_skip: 5 }}'
    )
    with pytest.raises(PrototxtError, match="rand_skip is 5, the source has 1 records"):
        open_feed(image_layer, TRAIN, SYNCHRONOUS, "net:3")


def test_hdf5_data_shuffle_permutes_files_and_rows_inside(tmp_path, layer):
    files = []
    for number in range(4):
        files.append(str(tmp_path / f"{number}.h5"))
        with h5py.File(files[-1], "w") as file:
            file["label"] = np.arange(5) + 10 * number
    (tmp_path / "list.txt").write_text("\n".join(files))
    hdf5_layer = layer(
        'name: "data" type: "HDF5Data" top: "label" hdf5_data_param '
        f'{{ source: "{tmp_path}/list.txt" batch_size: 20 shuffle: true }}'
    )
    feed = open_feed(hdf5_layer, TRAIN, SYNCHRONOUS, "net:3")
    file_orders, row_orders = set(), set()
    for k in range(6):
        rows = feed.batches[k]["label"].astype(int)
        assert len(set(rows)) == 20
        parts = rows.reshape(4, 5)
        assert (parts // 10 == parts[:, :1] // 10).all()
        file_orders.add(tuple(parts[:, 0] // 10))
        row_orders.add(tuple(parts[0] % 10))
    assert len(file_orders) > 1
    assert len(row_orders) > 1


def test_memory_data_bytes_may_be_larger_than_the_crop(layer):
    memory_layer = layer(
        'name: "data" type: "MemoryData" top: "data" top: "label" memory_data_param '
        "{ batch_size: 2 channels: 1 height: 3 width: 3 } "
        "transform_param { crop_size: 3 }"
    )
    labels = np.arange(2)

    def open_arrays(data):
        options = SYNCHRONOUS._replace(arrays={"data": (data, labels)})
        return open_feed(memory_layer, TRAIN, options, "net:3")

    feed = open_arrays(np.zeros((2, 1, 5, 6), np.uint8))
    assert feed.structs["data"] == ((2, 1, 5, 6), np.uint8)
    assert feed.structs["label"] == ((2, 1, 1, 1), np.float32)
    with pytest.raises(
        DataError, match=r"rows of data are 2x5x6, .* 1x3x3, crop_size 3"
    ):
        open_arrays(np.zeros((2, 2, 5, 6), np.uint8))


def test_source_override_reads_another_database(database, make_lmdb):
    other = make_lmdb([np.zeros((1, 1, 2), np.uint8)] * 3, "other", [7, 7, 7])
    for key in ("data", "TRAIN"):
        options = SYNCHRONOUS._replace(sources={key: f"lmdb:{other}"})
        assert labels_of(open_data(database, options), options, 1) == [[7, 7, 7, 7]]
    options = SYNCHRONOUS._replace(sources={"TEST": f"lmdb:{other}"})
    assert labels_of(open_data(database, options), options, 1) == [[0, 1, 2, 3]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sources": {"data": "hdf5:x"}}, 'net:3: .*"hdf5:x".*tfds:NAME:SPLIT'),
        ({"sources": {"data": "tfds:mnist"}}, '"tfds:mnist".*tfds:NAME:SPLIT'),
        ({"resize": "wrap"}, 'resize: "wrap" is no rule. Accepted: warp'),
        ({"threads": -1}, "threads: is -1. Accepted: at least 0"),
        ({"prefetch": 0}, "prefetch: is 0. Accepted: at least 1"),
    ],
)
def test_open_feed_bad_option_raises(database, options, message):
    with pytest.raises(ConfigError, match=message):
        open_data(database, SYNCHRONOUS._replace(**options))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'type: "WindowData"',
            r'net:3: layer "d" \(WindowData\): the layer has 0 tops',
        ),
        ('type: "Data" top: "a"', "batch_size is 0. Accepted: at least 1"),
        (
            'type: "Data" top: "a" data_param { batch_size: 1 }',
            "data_param has no source",
        ),
        ('type: "Data"', "the layer has 0 tops. Accepted: one or two"),
        ('type: "ImageData" top: "a"', "the layer has 1 top. Accepted: two"),
        ('type: "HDF5Data"', "the layer has no top"),
        (
            'type: "MemoryData" top: "a" top: "b" memory_data_param { batch_size: 2 }',
            "batch_size is 2, channels x height x width 0x0x0",
        ),
    ],
)
def test_open_feed_bad_layer_raises(layer, text, message):
    with pytest.raises(PrototxtError, match=message):
        open_feed(layer(f'name: "d" {text}'), TRAIN, SYNCHRONOUS, "net:3")


def test_encoded_records_follow_force_color_and_force_gray(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (5, 4), np.uint8)
    content = cv2.imencode(".png", image)[1].tobytes()
    environment = lmdb.open(str(tmp_path / "db"))
    with environment.begin(write=True) as transaction:
        datum = caffe_pb2.Datum(data=content, encoded=True, label=1)
        transaction.put(b"0", datum.SerializeToString())
    environment.close()
    shapes = [
        open_data(tmp_path / "db", transform=text).structs["data"][0][1:]
        for text in ("", "force_color: true", "force_gray: true")
    ]
    assert shapes == [(1, 5, 4), (3, 5, 4), (1, 5, 4)]


def test_feed_params_are_the_types_that_open(layer):
    assert set(pipeline.FEED_PARAMS) == set(openers.OPENERS)
    for type_, param in pipeline.FEED_PARAMS.items():
        with pytest.raises(PrototxtError, match=r"tops?\b|no top|batch_size"):
            open_feed(layer(f'name: "d" type: "{type_}"'), TRAIN, SYNCHRONOUS, "net:3")
        field = caffe_pb2.LayerParameter.DESCRIPTOR.fields_by_name[param]
        assert "batch_size" in field.message_type.fields_by_name


def test_feed_options_defaults_are_the_config_s():
    data, options = default_config().data, FeedOptions()
    for name in ("threads", "prefetch", "processes", "shuffle", "resize", "size"):
        assert getattr(options, name) == data[name], name


def test_shuffled_reading_reads_a_database_without_reading_ahead(database, monkeypatch):
    opened, real = [], lmdb.open
    monkeypatch.setattr(
        lmdb, "open", lambda *args, **kw: opened.append(kw) or real(*args, **kw)
    )
    for shuffle, phase in ((True, TRAIN), (True, TEST), (False, TRAIN)):
        gc.collect()
        open_data(database, SYNCHRONOUS._replace(shuffle=shuffle), phase)
    assert [kw["readahead"] for kw in opened] == [False, True, True]


def test_shuffle_threads_at_an_epoch_s_end_make_each_order_once(monkeypatch):
    made, real = [], Shuffle._make
    monkeypatch.setattr(
        Shuffle, "_make", lambda self, epoch: made.append(epoch) or real(self, epoch)
    )
    shuffle = Shuffle((100,), 3)
    expected = {epoch: real(shuffle, epoch).tolist() for epoch in (4, 5)}

    def read():
        for epoch in (4, 5) * 20:
            assert shuffle.order(epoch).tolist() == expected[epoch]

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(read) for _ in range(4)]:
            future.result()
    assert sorted(made) == [4, 5]
    assert pickle.loads(pickle.dumps(shuffle)).order(4).tolist() == expected[4]


def test_worker_processes_stay_off_accelerators():
    code = (
        "import grain, jax; from jaxcaffe.data.pipeline import _keep_off_devices; "
        "_keep_off_devices(0, 1); "
        "print(jax.config.jax_platforms, jax.default_backend())"
    )
    environment = {k: v for k, v in os.environ.items() if k != "JAX_PLATFORMS"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["cpu", "cpu"]
