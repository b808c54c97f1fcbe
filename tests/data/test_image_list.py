import pickle

import numpy as np
import pytest

from jaxcaffe.data.image_list import ImageListSource, read_image_list
from jaxcaffe.errors import DataError


def write_list(tmp_path, text):
    path = tmp_path / "list.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def test_read_image_list_label_follows_last_blank(tmp_path):
    text = "a b.jpg 3\nc.jpg   12\nd.jpg -5\ne.jpg 3.9\nf.jpg abc\ng.jpg"
    names, labels = read_image_list(write_list(tmp_path, text))
    assert names == ["a b.jpg", "c.jpg  ", "d.jpg", "e.jpg", "f.jpg", "g.jpg"]
    assert labels.tolist() == [3, 12, -5, 3, 0, 0]


def test_read_image_list_reads_numbers_as_atoi(tmp_path):
    # 99999999999 as Caffe recorded it: 64 bits cut down to 32.
    names, labels = read_image_list(
        write_list(tmp_path, "a 99999999999\nb \nc +7\nd\t13\n7\n\n")
    )
    assert names == ["a", "b", "c", "d\t13", "7", ""]
    assert labels.tolist() == [99999999999 - 23 * 2**32, 0, 7, 0, 7, 0]


def test_read_image_list_keeps_carriage_returns_and_odd_bytes(tmp_path):
    names, labels = read_image_list(write_list(tmp_path, b"\xff.jpg 2\r\n"))
    assert names[0].encode("utf-8", "surrogateescape") == b"\xff.jpg"
    assert labels.tolist() == [2]


@pytest.mark.parametrize(
    ("text", "message"), [(None, "cannot be read"), ("", "the list of images is empty")]
)
def test_read_image_list_missing_or_empty_raises(tmp_path, text, message):
    if text is not None:
        write_list(tmp_path, text)
    with pytest.raises(DataError, match=message):
        read_image_list(str(tmp_path / "list.txt"))


def test_image_list_source_gives_pixels_as_planes(tmp_path, make_images):
    names, pixels = make_images([(5, 7), (4, 3)])
    path = write_list(tmp_path, f"{names[0]} 8\n{names[1]} 2\n")
    source = pickle.loads(pickle.dumps(ImageListSource(path, f"{tmp_path}/")))
    assert len(source) == 2
    for index, image in enumerate(pixels):
        data = source[index]["data"]
        np.testing.assert_array_equal(data, image.transpose(2, 0, 1))
        assert data.flags.c_contiguous
    assert [float(source[i]["label"]) for i in range(2)] == [8, 2]
    assert source.key(1) == f"{path}:2 image 1.png"


def test_image_list_source_resizes_and_grays(tmp_path, make_images):
    names, _ = make_images([(5, 7)])
    path = write_list(tmp_path, f"{names[0]} 8\n")
    source = ImageListSource(path, f"{tmp_path}/", 6, 4, is_color=False)
    assert source[0]["data"].shape == (1, 6, 4)


def test_image_list_source_missing_image_names_line_and_file(tmp_path):
    path = write_list(tmp_path, "a.png 1\nnone.png 2\n")
    with pytest.raises(DataError, match=r"list.txt:2: /x/none.png: cannot be read"):
        ImageListSource(path, "/x/")[1]
