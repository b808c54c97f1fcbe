"""Makes label lists from folders of images: `make_image_list ROOT OUT`.

Stands in for the lists that data/ilsvrc12/get_ilsvrc_aux.sh of Caffe downloads.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Sequence
from typing import NamedTuple

from jaxcaffe.errors import ConfigError, DataError, describe, plural
from jaxcaffe.proto.files import read_content
from jaxcaffe.tools import cli

DESCRIPTION = """\
Lists the images of ROOT/SYNSET/*.JPEG with the label of their folder: the folders,
sorted by the bytes of their names, count from 0. Writes OUT/train.txt, OUT/val.txt
(with --val_fraction or --val_per_class) and OUT/synset_words.txt, and replaces none of
them.
The order is always the same; shuffle with convert_imageset --shuffle."""

_SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp")


class Listed(NamedTuple):
    """The lists, one string a line, without line ends."""

    train: list[str]
    val: list[str]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
      argv: the arguments without the program's name; None takes the process's.

    Returns:
      0.

    Raises:
      CaffeError: wrong flags, existing lists, folders without images, unknown synsets.
    """
    parser = cli.Parser("make_image_list", DESCRIPTION)
    parser.argument("ROOT", "the folder with one folder of images for each class")
    parser.argument("OUT", "the folder for the lists; made if missing")
    parser.flag(
        "val_fraction", 0.0, "share of each class that goes to val.txt, below 1"
    )
    parser.flag("val_per_class", 0, "images of each class that go to val.txt")
    parser.flag("seed", 0, "which images go to val.txt")
    parser.flag("words", "", "file of lines SYNSET WORDS to take synset_words.txt from")
    flags = parser.parse(argv)
    _check_flags(flags.val_fraction, flags.val_per_class)

    classes = find_images(flags.ROOT)
    words = read_words(flags.words) if flags.words else {s: s for s in classes}
    missing = [synset for synset in classes if synset not in words]
    if missing:
        raise DataError(describe(flags.words, f"has no words for {', '.join(missing)}"))
    listed = split_images(
        classes, flags.val_fraction, flags.val_per_class, flags.seed, flags.ROOT
    )
    texts = {"train.txt": listed.train}
    if listed.val:
        texts["val.txt"] = listed.val
    texts["synset_words.txt"] = [f"{synset} {words[synset]}" for synset in classes]
    # All are looked at before the first is written.
    for name in ("train.txt", "val.txt", "synset_words.txt"):
        cli.refuse_existing(os.path.join(flags.OUT, name))
    try:
        os.makedirs(flags.OUT, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            describe(flags.OUT, f"cannot be made: {error.strerror}")
        ) from None
    for name, lines in texts.items():
        path = os.path.join(flags.OUT, name)
        cli.write_file(path, b"".join(os.fsencode(line) + b"\n" for line in lines))
        cli.say(f"Wrote {plural(len(lines), 'line')} to {path}")
    return 0


def find_images(root: str) -> dict[str, list[str]]:
    """Returns for each class folder its images, both sorted by the bytes of names.

    Hidden files and folders are passed over, and so are files that are no images by
    their suffix (.jpeg, .jpg, .png or .bmp, in capitals or not).

    Raises:
      DataError: no such folder, no classes, a class without images, or a line break in
        a name.
    """
    classes: dict[str, list[str]] = {}
    for synset in _list_folder(root):
        folder = os.path.join(root, synset)
        if not os.path.isdir(folder):
            continue
        names = [
            name
            for name in _list_folder(folder)
            if name.lower().endswith(_SUFFIXES)
            and os.path.isfile(os.path.join(folder, name))
        ]
        if not names:
            raise DataError(
                describe(
                    folder,
                    "holds no images, so its label would stay unused",
                    f"files that end in {', '.join(_SUFFIXES)}",
                )
            )
        for name in [synset, *names]:
            if "\n" in name or "\r" in name:
                raise DataError(describe(folder, f"line break in the name {name!r}"))
        classes[synset] = names
    if not classes:
        raise DataError(
            describe(root, "holds no folders", "one folder of images for each class")
        )
    return classes


def split_images(
    classes: dict[str, list[str]],
    val_fraction: float,
    val_per_class: int,
    seed: int,
    root: str,
) -> Listed:
    """Returns lines `SYNSET/NAME LABEL` for training and for validation.

    Each class draws its validation images for itself, from the seed and its name, so
    that a class more or less changes nothing for the others.

    Args:
      classes: as `find_images` gives them.
      val_fraction: share of each class, rounded to whole images; in [0, 1).
      val_per_class: images of each class; one of the two is 0.
      seed: which images are drawn.
      root: for messages.

    Raises:
      DataError: a class would keep no image for training.
    """
    listed = Listed([], [])
    for label, (synset, names) in enumerate(classes.items()):
        count = val_per_class or math.floor(val_fraction * len(names) + 0.5)
        if count >= len(names):
            raise DataError(
                describe(
                    os.path.join(root, synset),
                    f"has {plural(len(names), 'image')}, and {count} for "
                    f"validation leave none "
                    "to train on",
                )
            )
        drawn = set(random.Random(f"{seed} {synset}").sample(names, count))
        for name in names:
            lines = listed.val if name in drawn else listed.train
            lines.append(f"{synset}/{name} {label}")
    return listed


def read_words(path: str) -> dict[str, str]:
    """Returns synset -> words from lines such as `n01440764 tench, Tinca tinca`.

    Raises:
      DataError: the file cannot be read, a line has no words, a synset stands twice.
    """
    words: dict[str, str] = {}
    lines = os.fsdecode(read_content(path, DataError)).splitlines()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        synset, *rest = line.strip().split(maxsplit=1)
        if not rest:
            raise DataError(
                describe(
                    f"{path}:{number}",
                    f'"{synset}" stands alone',
                    "a synset and its words, as in n01440764 tench",
                )
            )
        if synset in words:
            raise DataError(describe(f"{path}:{number}", f"{synset} stands here again"))
        words[synset] = rest[0]
    return words


def _list_folder(path: str) -> list[str]:
    try:
        names = os.listdir(path)
    except OSError as error:
        raise DataError(describe(path, f"cannot be read: {error.strerror}")) from None
    return sorted((n for n in names if not n.startswith(".")), key=os.fsencode)


def _check_flags(val_fraction: float, val_per_class: int) -> None:
    tool = "make_image_list"
    if not 0 <= val_fraction < 1:
        raise ConfigError(
            describe(tool, f"--val_fraction is {val_fraction}", "from 0 to below 1")
        )
    if val_per_class < 0:
        raise ConfigError(
            describe(tool, f"--val_per_class is {val_per_class}", "0 or more")
        )
    if val_fraction and val_per_class:
        raise ConfigError(
            describe(
                tool, "--val_fraction and --val_per_class are both set", "one of them"
            )
        )


if __name__ == "__main__":
    cli.run(main)
