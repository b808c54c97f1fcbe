"""Reads and transforms batches with PyTorch, as input_speed.py asks for them.

The usual way there: a Dataset whose records become cropped, mirrored float tensors in
the DataLoader's worker processes. JPEG files are read, resized and cropped with Pillow,
as torchvision's ImageFolder, Resize, RandomCrop and RandomHorizontalFlip do it.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator

import lmdb
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from turns import serve

from jaxcaffe.proto import caffe_pb2

MEAN = torch.tensor([104.0, 117.0, 123.0]).view(3, 1, 1)  # blue, green, red


class Lmdb(Dataset):
    """Datum records of a database, transformed."""

    def __init__(self, path: str, crop: int) -> None:
        self.path, self.crop = path, crop
        self.database: lmdb.Environment | None = None
        with self._open() as database, database.begin() as transaction:
            self.keys = list(transaction.cursor().iternext(values=False))

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if self.database is None:
            self.database = self._open()
        with self.database.begin() as transaction:
            datum = caffe_pb2.Datum.FromString(transaction.get(self.keys[index]))
        pixels = np.frombuffer(datum.data, np.uint8)
        pixels = pixels.reshape(datum.channels, datum.height, datum.width)
        top, left = (random.randrange(n - self.crop + 1) for n in pixels.shape[1:])
        pixels = pixels[:, top : top + self.crop, left : left + self.crop]
        if random.random() < 0.5:
            pixels = pixels[:, :, ::-1]
        image = torch.from_numpy(np.ascontiguousarray(pixels)).float()
        return image.sub_(MEAN), datum.label

    def _open(self) -> lmdb.Environment:
        return lmdb.open(self.path, readonly=True, lock=False, readahead=False)


class Jpeg(Dataset):
    """Image files of a list, resized and transformed."""

    def __init__(self, path: str, size: int, crop: int) -> None:
        self.size, self.crop = size, crop
        with open(path) as file:
            lines = [line.rsplit(" ", 1) for line in file.read().splitlines()]
        self.items = [(name, int(label)) for name, label in lines]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        path, label = self.items[index]
        with open(path, "rb") as file:
            image = Image.open(file).convert("RGB")
        image = image.resize((self.size, self.size), Image.Resampling.BILINEAR)
        span = self.size - self.crop + 1
        top, left = random.randrange(span), random.randrange(span)
        image = image.crop((left, top, left + self.crop, top + self.crop))
        if random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
        return pixels.float().sub_(MEAN.flip(0)), label


def main(task: dict) -> None:
    """Opens the data that `task` describes, and serves their batches."""
    torch.set_num_threads(1)
    dataset = (
        Lmdb(task["source"], task["crop"])
        if task["kind"] == "lmdb"
        else Jpeg(task["source"], task["size"], task["crop"])
    )
    loader = DataLoader(
        dataset,
        batch_size=task["batch"],
        shuffle=task["kind"] != "lmdb",
        num_workers=task["readers"],
        prefetch_factor=task["prefetch"],
        persistent_workers=True,
        drop_last=True,
    )

    def endless() -> Iterator[list[torch.Tensor]]:
        while True:
            yield from loader

    batches = endless()

    def run(steps: int) -> None:
        for _ in range(steps):
            next(batches)

    run(3)
    serve(run)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
