import pickle

import numpy as np
import pytest

from jaxcaffe.data.image_list import ImageListSource, read_image_list
from jaxcaffe.errors import DataError


def write_list(tmp_path, text):
    path = tmp_path / "list.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def test_read_image_list_label_follows_last_space(tmp_path):
    text = b"a b.jpg 3\nc.jpg   12\n\nd.jpg -5\n \r\n\xff.jpg 2\r\n./e 1x/f +4"
    names, labels, lines = read_image_list(write_list(tmp_path, text))
    assert names[:2] == ["a b.jpg", "c.jpg  "]
    assert names[3].encode("utf-8", "surrogateescape") == b"\xff.jpg"
    assert names[4] == "./e 1x/f"
    assert labels.tolist() == [3, 12, -5, 2, 4]
    assert lines.tolist() == [1, 2, 4, 6, 7]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.jpg cat", "label 'cat' is no integer. Accepted: a path, a space and an in"),
        ("a.jpg 3.9", "label '3.9' is no integer"),
        ("a.jpg ", "label '' is no integer"),
        ("a.jpg", "no space stands before a label"),
        ("a.jpg\t13", "no space stands before a label"),
        ("a.jpg 99999999999", "label 99999999999 is beyond 32 bits"),
    ],
)
def test_read_image_list_wrong_line_is_named(tmp_path, line, message):
    with pytest.raises(DataError, match=rf"list.txt:3: {message}"):
        read_image_list(write_list(tmp_path, f"a 0\n\n{line}\nb 1\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "cannot be read"), ("", "names no images"), ("\n \n", "names no images")],
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
    path = write_list(tmp_path, "a.png 1\n\nnone.png 2\n")
    with pytest.raises(DataError, match=r"list.txt:3: /x/none.png: cannot be read"):
        ImageListSource(path, "/x/")[1]
