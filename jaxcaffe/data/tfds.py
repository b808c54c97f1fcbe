"""Images of a prepared TFDS data set by index, without TensorFlow.

Takes the place of what caffe/tools/convert_imageset.cpp would have written.
"""

from __future__ import annotations

import importlib
import os
import threading
from typing import Any

import numpy as np

from jaxcaffe.data.image import Decode, decode_file, resize_image
from jaxcaffe.data.lmdb import Row
from jaxcaffe.errors import DataError, describe, nearest

RESIZE_RULES = ("none", "warp", "short")


class TfdsSource:
    """Random access to the images of a TFDS data set stored as ArrayRecord.

    `source[i]` is {"data": (C, H, W) uint8, BGR or gray; "label": () float32} of the
    i-th example of a split, in the order in which it was prepared. The recipe: TFDS
    hands over the image file's bytes undecoded; our own decoder, the one that
    databases and image lists go through, makes B, G, R (or one gray channel); then
    `resize` applies, bilinear as in convert_imageset.

    Args:
      name: such as "imagenet2012", "cifar10", "fashion_mnist".
      split: such as "train", "validation", "train[:10%]".
      data_dir: TFDS's data_dir; None for its default.
      resize: "none"; "warp", size x size whatever the proportions (Caffe's ImageNet
        tutorial with size 256); "short", the shorter side becomes `size` and the
        proportions stay.
      size: pixels.
      decode: channels; "native" means those that the data set declares.

    Raises:
      DataError: no such data set or split; not prepared, or not as ArrayRecord; no
        image and label; an image cannot be decoded.

    Source: caffe/tools/convert_imageset.cpp, caffe/examples/imagenet/
    create_imagenet.sh (warp to 256x256). Differs: pixels are resized when read, not
    when stored.
    """

    groups: tuple[int, ...] | None = None

    def __init__(
        self,
        name: str,
        split: str,
        data_dir: str | None = None,
        resize: str = "none",
        size: int = 256,
        decode: Decode = "native",
    ) -> None:
        assert resize in RESIZE_RULES, resize
        self._name = name
        self._split = split
        self._data_dir = data_dir
        self._resize = resize
        self._size = size
        self._lock = threading.Lock()
        self._held: tuple[int, Any] | None = None
        builder = _find_builder(name, data_dir)
        if split.partition("[")[0] not in builder.info.splits:
            raise DataError(
                describe(
                    f"tfds:{name}",
                    f'no split "{split}"',
                    nearest(split, builder.info.splits),
                )
            )
        self._open(builder)
        self._length = len(self._examples())
        if not self._length:
            raise DataError(describe(self._title(), "the split holds no example"))
        self._decode = decode
        if decode == "native":
            channels = builder.info.features["image"].shape[-1]
            self._decode = "gray" if channels == 1 else "color"

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Row:
        """Returns {"data": (C, H, W) uint8, "label": () float32}."""
        example = self._examples()[index]
        where = f"{self._title()} example {index}"
        pixels = decode_file(example["image"], self._decode, where)
        pixels = resize_image(pixels, *self._new_size(*pixels.shape[:2]), where)
        return {
            "data": np.ascontiguousarray(pixels.transpose(2, 0, 1)),
            "label": np.asarray(example["label"], np.float32),
        }

    def key(self, index: int) -> str:
        """Returns the example's number, for messages."""
        return f"example {index}"

    def __repr__(self) -> str:
        rule = "" if self._resize == "none" else f", {self._resize} {self._size}"
        return f"{self._title()} ({len(self)} examples{rule})"

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__ | {"_held": None}
        del state["_lock"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def _title(self) -> str:
        return f"tfds:{self._name}:{self._split}"

    def _new_size(self, height: int, width: int) -> tuple[int, int]:
        """Returns (new_height, new_width), zeros to leave the image alone."""
        size, shorter = self._size, min(height, width)
        if self._resize == "none":
            return 0, 0
        if self._resize == "warp":
            return size, size
        return round(height * size / shorter), round(width * size / shorter)

    def _examples(self) -> Any:
        held = self._held
        if held is None or held[0] != os.getpid():
            with self._lock:
                held = self._held
                if held is None or held[0] != os.getpid():
                    self._open(_find_builder(self._name, self._data_dir))
                    held = self._held
                    assert held is not None
        return held[1]

    def _open(self, builder: Any) -> None:
        tfds = _import_tfds()
        try:
            examples = builder.as_data_source(
                split=self._split, decoders={"image": tfds.decode.SkipDecoding()}
            )
        except ValueError as error:
            raise DataError(
                describe(self._title(), f"the split cannot be read ({error})")
            ) from error
        # ArrayRecord opens its files and makes threads: none may cross a fork.
        self._held = (os.getpid(), examples)


def _import_tfds() -> Any:
    # Takes about a second, which only those who read TFDS should spend.
    return importlib.import_module("tensorflow_datasets")


def _prepare_call(name: str) -> str:
    return f'tfds.builder("{name}", file_format="array_record").download_and_prepare()'


def _find_builder(name: str, data_dir: str | None) -> Any:
    tfds = _import_tfds()
    where = f"tfds:{name}"
    try:
        builder = tfds.builder(name, data_dir=data_dir, try_gcs=False)
    except tfds.core.DatasetNotFoundError:
        known = tfds.list_builders(with_community_datasets=False)
        raise DataError(
            describe(where, "TFDS has no such data set", nearest(name, known))
        ) from None
    except (ValueError, AssertionError, ImportError, OSError) as error:
        raise DataError(
            describe(where, f"TFDS cannot open the data set ({error})")
        ) from error
    if not builder.is_prepared():
        raise DataError(
            describe(
                where,
                f"not prepared in {data_dir or 'the default data_dir'}",
                f"{_prepare_call(name)}, once, where TensorFlow is installed",
            )
        )
    file_format = getattr(builder.info.file_format, "value", None)
    if file_format != "array_record":
        raise DataError(
            describe(
                where,
                f"stored as {file_format}, which has no random access",
                f"{_prepare_call(name)}, with another data_dir",
            )
        )
    features = builder.info.features
    missing = [f for f in ("image", "label") if f not in features]
    if missing:
        raise DataError(
            describe(
                where,
                f'its examples have no "{missing[0]}"; they hold {", ".join(features)}',
                "a data set of images with one label each",
            )
        )
    return builder
