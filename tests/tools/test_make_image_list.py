import os

import pytest

from jaxcaffe.errors import ConfigError, DataError
from jaxcaffe.tools import make_image_list


@pytest.fixture
def root(tmp_path):
    """Three classes of 10, 10 and 4 images, with things that are no images."""
    root = tmp_path / "images"
    for synset, count in (("n02", 10), ("n10", 10), ("n1", 4)):
        (root / synset).mkdir(parents=True)
        for i in range(count):
            (root / synset / f"{synset}_{i}.JPEG").touch()
    (root / "n02" / "notes.txt").touch()
    (root / "n02" / ".hidden.JPEG").touch()
    (root / "n02" / "folder.JPEG").mkdir()
    (root / ".cache").mkdir()
    (root / "README").touch()
    return root


def lines(path):
    return path.read_text().splitlines()


def test_make_image_list_labels_follow_sorted_folders(root, tmp_path):
    out = tmp_path / "out"
    assert make_image_list.main([str(root), str(out)]) == 0
    assert sorted(os.listdir(out)) == ["synset_words.txt", "train.txt"]
    expected = [
        f"{synset}/{synset}_{i}.JPEG {label}"
        for label, (synset, count) in enumerate((("n02", 10), ("n1", 4), ("n10", 10)))
        for i in range(count)
    ]
    assert lines(out / "train.txt") == expected
    assert lines(out / "synset_words.txt") == ["n02 n02", "n1 n1", "n10 n10"]


def test_find_images_capitals_sort_before_small_letters(tmp_path):
    for name in ("b", "B", "a", "é"):
        (tmp_path / name).mkdir()
        for file in ("z.jpg", "Y.PNG", "x.bmp"):
            (tmp_path / name / file).touch()
    classes = make_image_list.find_images(str(tmp_path))
    assert list(classes) == ["B", "a", "b", "é"]
    assert classes["B"] == ["Y.PNG", "x.bmp", "z.jpg"]


@pytest.mark.parametrize(
    ("flag", "counts"),
    [("--val_fraction=0.25", [3, 1, 3]), ("--val_per_class=2", [2, 2, 2])],
)
def test_make_image_list_val_takes_its_share_of_each_class(
    root, tmp_path, flag, counts
):
    out = tmp_path / "out"
    assert make_image_list.main([str(root), str(out), flag]) == 0
    train, val = lines(out / "train.txt"), lines(out / "val.txt")
    labels = [int(line.rpartition(" ")[2]) for line in val]
    assert [labels.count(label) for label in range(3)] == counts
    assert labels == sorted(labels)
    assert not set(train) & set(val)
    assert len(train) + len(val) == 24


def test_split_images_same_seed_same_draw_whatever_the_other_classes():
    names = [f"{i}.jpg" for i in range(50)]

    def draw(classes, seed):
        return make_image_list.split_images(
            dict.fromkeys(classes, names), 0.0, 10, seed, "root"
        ).val

    def names_of(drawn, synset):
        return [n.split(" ")[0] for n in drawn if n.startswith(f"{synset}/")]

    assert draw("ab", 1) == draw("ab", 1)
    assert draw("ab", 1) != draw("ab", 2)
    assert names_of(draw("ab", 1), "b") == names_of(draw("b", 1), "b")
    a, b = names_of(draw("ab", 1), "a"), names_of(draw("ab", 1), "b")
    assert [n[2:] for n in a] != [n[2:] for n in b]


def test_make_image_list_words_come_from_the_file_given(root, tmp_path):
    (tmp_path / "words").write_text("n1 cat, house cat\nn10 dog\n\nn9 x\nn02  tench\n")
    out = tmp_path / "out"
    argv = [str(root), str(out), "--words", str(tmp_path / "words")]
    assert make_image_list.main(argv) == 0
    assert lines(out / "synset_words.txt") == [
        "n02 tench",
        "n1 cat, house cat",
        "n10 dog",
    ]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("n1 cat\n", r"words: has no words for n02, n10\."),
        ("n1 cat\nn02\n", r'words:2: "n02" stands alone'),
        ("n1 cat\nn1 dog\n", r"words:2: n1 stands here again"),
    ],
)
def test_make_image_list_words_that_do_not_fit_are_refused(root, tmp_path, text, what):
    (tmp_path / "words").write_text(text)
    out = tmp_path / "out"
    with pytest.raises(DataError, match=what):
        make_image_list.main([str(root), str(out), f"--words={tmp_path}/words"])
    assert not out.exists()


@pytest.mark.parametrize("name", ["train.txt", "val.txt", "synset_words.txt"])
def test_make_image_list_existing_list_stops_all(root, tmp_path, name):
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("mine")
    with pytest.raises(ConfigError, match=rf"{name}: exists already"):
        make_image_list.main([str(root), str(out)])
    assert os.listdir(out) == [name]
    assert (out / name).read_text() == "mine"


def test_find_images_empty_class_is_refused(root):
    (root / "n05").mkdir()
    with pytest.raises(DataError, match=r"n05: holds no images"):
        make_image_list.find_images(str(root))


def test_find_images_no_classes_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"holds no folders"):
        make_image_list.find_images(str(tmp_path))


def test_find_images_missing_root_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"none: cannot be read: No such file"):
        make_image_list.find_images(str(tmp_path / "none"))


def test_find_images_line_break_in_name_is_refused(root):
    (root / "n1" / "a\nb.jpg").touch()
    with pytest.raises(DataError, match=r"n1: line break in the name 'a\\nb.jpg'"):
        make_image_list.find_images(str(root))


def test_make_image_list_val_that_empties_a_class_is_refused(root, tmp_path):
    with pytest.raises(DataError, match=r"n1: has 4 images, and 4 for validation"):
        make_image_list.main([str(root), str(tmp_path / "out"), "--val_per_class=4"])


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        (["--val_fraction=1"], r"--val_fraction is 1.0. Accepted: from 0 to below 1"),
        (["--val_fraction=nan"], r"--val_fraction is nan"),
        (["--val_per_class=-1"], r"--val_per_class is -1"),
        (["--val_per_class=1", "--val_fraction=.5"], r"are both set"),
    ],
)
def test_make_image_list_wrong_flags_are_refused(root, tmp_path, flags, what):
    with pytest.raises(ConfigError, match=what):
        make_image_list.main([str(root), str(tmp_path / "out"), *flags])
