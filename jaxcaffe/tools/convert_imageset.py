"""Makes a database of images and labels: `convert_imageset ROOT/ LISTFILE DB`.

Follows tools/convert_imageset.cpp of Caffe.
"""

from __future__ import annotations

import os
import random
from argparse import Namespace
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from jaxcaffe.data import database, datum, image
from jaxcaffe.data.image_list import Entry, parse_entry, read_entries
from jaxcaffe.errors import ConfigError, DataError, describe, plural
from jaxcaffe.progress import show_progress
from jaxcaffe.proto.files import read_content
from jaxcaffe.tools import cli

DESCRIPTION = """\
Reads every image that LISTFILE names and stores it with its label in a new database.

Each line of LISTFILE is a path below ROOT, a space, and an integer label; the path may
hold spaces. A record's key is the line's index from 0 in eight digits, "_", the path.
DB must not exist, and appears only when everything is written."""

# Enough that threads have work while a transaction is written.
_IN_FLIGHT_PER_THREAD = 32


class Options(NamedTuple):
    """How images become records; fields are Caffe's flags."""

    gray: bool = False
    resize_height: int = 0
    resize_width: int = 0
    encoded: bool = False
    encode_type: str = ""
    max_key: int | None = None  # bytes


class Converted(NamedTuple):
    """One line made into a record, or what was wrong with it."""

    name: str  # for messages: list file, line, path
    key: bytes = b""
    value: bytes = b""
    shape: tuple[int, ...] = ()  # (H, W, C) of the image, before encoding
    problem: str = ""
    truncated: bool = False


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
      argv: the arguments without the program's name; None takes the process's.

    Returns:
      0, or 1 when a line was bad and bad lines were not to be skipped.

    Raises:
      CaffeError: wrong flags, a list that cannot be read, an existing database.

    Source: caffe/tools/convert_imageset.cpp. Differs: a bad line fails the whole
    conversion unless --on_bad_image=skip; a label must be an integer (Caffe takes 3
    for "3.9" and 0 for "cat" or nothing); blank lines are passed over; a missing list,
    an empty one and a resize with one side are refused; --check_size compares shapes,
    and works with --encoded; --shuffle gives the same order for the same --seed; a
    truncated JPEG is reported, and refused where its bytes would be stored as they are;
    ROOT may lack its last slash.
    """
    parser = cli.Parser("convert_imageset", DESCRIPTION)
    parser.argument("ROOT", "what stands before every path of the list, as images/")
    parser.argument("LISTFILE", "the list of paths and labels")
    parser.argument("DB", "the database to make")
    parser.flag("gray", False, "store one grey channel instead of blue, green, red")
    parser.flag("shuffle", False, "store the lines in random order")
    parser.flag("seed", 0, "the order that --shuffle gives")
    parser.flag("backend", "lmdb", "kind of database", choices=database.BACKENDS)
    parser.flag("resize_width", 0, "width in pixels that images are stretched to")
    parser.flag("resize_height", 0, "height in pixels that images are stretched to")
    parser.flag("check_size", False, "refuse images that differ in size from the first")
    parser.flag("encoded", False, "store image files instead of pixels")
    parser.flag("encode_type", "", "what to encode images as: png, jpg, ...")
    parser.flag(
        "on_bad_image",
        "fail",
        "fail: list all bad lines and make no database; skip: leave them out",
        choices=("fail", "skip"),
    )
    parser.flag("threads", cli.count_cores(), "images decoded at a time")
    flags = parser.parse(argv)
    _check_flags(flags)
    options = Options(
        flags.gray,
        flags.resize_height,
        flags.resize_width,
        flags.encoded or bool(flags.encode_type),
        flags.encode_type,
        database.LMDB_MAX_KEY if flags.backend == "lmdb" else None,
    )
    entries = read_entries(flags.LISTFILE)
    # Before the images are read.
    database.check_new(flags.DB)
    # Caffe counts blank lines too: the keys of those after them show it.
    numbered = [(entry.line - 1, entry) for entry in entries]
    if flags.shuffle:
        cli.say("Shuffling data")
        random.Random(flags.seed).shuffle(entries)
        numbered = list(enumerate(entries))
    cli.say(f"A total of {len(entries)} images.")
    if flags.encode_type and not flags.encoded:
        cli.say("encode_type specified, assuming encoded=true.")

    def convert(indexed: tuple[int, Entry]) -> Converted:
        return convert_entry(*indexed, flags.ROOT, flags.LISTFILE, options)

    results = cli.map_in_order(convert, numbered, flags.threads, _IN_FLIGHT_PER_THREAD)
    return _convert_all(results, len(entries), flags)


def convert_entry(
    index: int, entry: Entry, root: str, list_path: str, options: Options
) -> Converted:
    """Makes the record of one line.

    Args:
      index: the place in the list after shuffling, from 0; begins the key.
      entry: the line.
      root: what stands before the path.
      list_path: for messages.
      options: how to make it.
    """
    name = f"{list_path}:{entry.line}"
    try:
        path, label = parse_entry(entry.text)
        key = b"%08d_%s" % (index, os.fsencode(path))
        if options.max_key and len(key) > options.max_key:
            raise DataError(
                describe(
                    "",
                    f"the key would have {len(key)} bytes",
                    f"{options.max_key} bytes at most, or --backend=leveldb",
                )
            )
        full = _join(root, path)
        content = read_content(full, DataError)
        truncated = image.is_truncated_jpeg(content)
        decode: image.Decode = "gray" if options.gray else "color"
        pixels = image.decode_file(content, decode, full)
        shape = pixels.shape
        if options.resize_height:
            pixels = image.resize_image(
                pixels, options.resize_height, options.resize_width, full
            )
            shape = pixels.shape
        if not options.encoded:
            value = datum.write_image_datum(pixels, label)
        else:
            file = _encode(path, content, pixels, options)
            if file is content and truncated:
                raise DataError(
                    describe(full, "is a truncated JPEG, which no reader would decode")
                )
            value = datum.write_encoded_datum(file, label)
    except DataError as error:
        return Converted(name, problem=str(error))
    return Converted(f"{name}: {full}", key, value, shape, truncated=truncated)


def _encode(path: str, content: bytes, pixels: np.ndarray, options: Options) -> bytes:
    """Returns the file's own bytes where they already are what is asked for."""
    dot = path.rfind(".")
    extension = path[dot + 1 :].lower() if dot >= 0 else ""
    kind = options.encode_type or extension
    same = kind.lower() == extension or (kind.lower(), extension) == ("jpg", "jpeg")
    if same and extension and not options.resize_height:
        return content
    # A type that the user chose was checked before; this one the file name chose.
    if not options.encode_type and not _can_encode(extension):
        raise DataError(
            describe(
                path,
                f'its extension "{extension}" is no image type to encode as',
                "--encode_type=jpg or png",
            )
        )
    done, encoded = cv2.imencode(f".{kind}", pixels)
    if not done:
        raise DataError(describe(path, f"cannot be encoded as {kind}"))
    return encoded.tobytes()


def _can_encode(kind: str) -> bool:
    try:
        return bool(kind) and cv2.haveImageWriter(f"image.{kind}")
    except cv2.error:
        return False


def _join(root: str, path: str) -> str:
    """Glues them as Caffe does, with the slash that a folder's name may lack."""
    if root and root[-1] != "/" and path[:1] != "/" and os.path.isdir(root):
        return f"{root}/{path}"
    return root + path


def _convert_all(results: Iterable[Converted], total: int, flags: Namespace) -> int:
    """Writes the database; returns the exit status."""
    bad: list[str] = []
    truncated: list[str] = []
    written = 0
    first: Converted | None = None
    fail = flags.on_bad_image == "fail"
    try:
        with (
            database.create_database(flags.DB, flags.backend) as put,
            show_progress("Converting images", total) as advance,
        ):
            cli.say(f"Opened {flags.backend} {flags.DB}")
            for result in results:
                problem = result.problem
                if not problem:
                    first = first or result
                    if flags.check_size and result.shape != first.shape:
                        problem = (
                            f"is {_show_shape(result.shape)}, but the first image, "
                            f"{first.name}, is {_show_shape(first.shape)}."
                        )
                if problem:
                    bad.append(f"{result.name}: {problem}")
                    continue
                if result.truncated:
                    truncated.append(result.name)
                if not (bad and fail):  # else nothing will be published
                    put(result.key, result.value)
                    written += 1
                advance(1)
            if bad and (fail or not written):
                raise _NothingPublishedError
    except _NothingPublishedError:
        pass
    _report("Bad", bad)
    _report("Truncated (the missing part is grey)", truncated)
    if bad and (fail or not written):
        cli.say(
            f"{len(bad)} of {total} lines are bad: {flags.DB} was not made. "
            + ("--on_bad_image=skip leaves them out." if written else "None is left.")
        )
        return 1
    if bad:
        cli.say(f"{len(bad)} of {total} lines are bad and were left out.")
    return 0


class _NothingPublishedError(Exception):
    """Leaves the block that writes the database, which then is not published."""


def _check_flags(flags: Namespace) -> None:
    tool = "convert_imageset"
    for name in ("resize_height", "resize_width"):
        if getattr(flags, name) < 0:
            raise ConfigError(
                describe(
                    tool, f"--{name} is {getattr(flags, name)}", "0 or more pixels"
                )
            )
    if bool(flags.resize_height) != bool(flags.resize_width):
        raise ConfigError(
            describe(
                tool,
                f"--resize_height is {flags.resize_height} and --resize_width is "
                f"{flags.resize_width}",
                "both or neither",
            )
        )
    if flags.threads < 1:
        raise ConfigError(describe(tool, f"--threads is {flags.threads}", "1 or more"))
    if flags.encode_type and not _can_encode(flags.encode_type):
        raise ConfigError(
            describe(
                tool,
                f'--encode_type is "{flags.encode_type}"',
                "jpg, png or another type that OpenCV writes",
            )
        )


def _report(title: str, lines: list[str]) -> None:
    if lines:
        cli.say(f"{title}:")
        for line in lines:
            cli.say(f"  {line}")


def _show_shape(shape: tuple[int, ...]) -> str:
    height, width, channels = shape
    return f"{plural(channels, 'channel')} of {height} x {width}"


if __name__ == "__main__":
    cli.run(main)
