"""CIFAR-10 from one file of JPEG images, for the benchmarks that need photographs.

`DIR/cifar10_jpegpack.npz` in the folder that SKILLEARN_DATA names holds the 60,000 images of
CIFAR-10 as JPEG files of quality 75: lossy, so errors are not to be compared with published
ones. The arrays of the file are `header` and `body` (bytes), `offsets` (image i is the header and
then the body from `offsets[i]` to `offsets[i + 1]`; from the 50,000th on they are test images),
`train_labels` and `test_labels`.
"""

import argparse
import io
import os
import pathlib

import numpy as np
from PIL import Image

from skillearn_jax.data import ImageData, from_arrays

PACK = "cifar10_jpegpack.npz"


def find(parser: argparse.ArgumentParser) -> pathlib.Path:
    """Returns the path of the file, or ends the program with one line."""
    folder = os.environ.get("SKILLEARN_DATA", "")
    pack = pathlib.Path(folder) / PACK
    if not folder or not pack.is_file():
        parser.error(f"set SKILLEARN_DATA to a folder that holds {PACK}")
    return pack


def read(pack: pathlib.Path, limit: int = 0) -> ImageData:
    """Returns the images of the file, of each split the first `limit` if that is not 0."""
    with np.load(pack) as arrays:
        header, body = arrays["header"].tobytes(), arrays["body"].tobytes()
        offsets = arrays["offsets"]
        labels = {name: arrays[f"{name}_labels"] for name in ("train", "test")}
    firsts = {"train": 0, "test": len(labels["train"])}

    def pixels(i: int) -> np.ndarray:
        with Image.open(
            io.BytesIO(header + body[offsets[i] : offsets[i + 1]])
        ) as image:
            return np.asarray(image.convert("RGB"))

    parts = []
    for split, first in firsts.items():
        chosen = labels[split][: limit or None]
        parts += [np.stack([pixels(first + i) for i in range(len(chosen))]), chosen]
    return from_arrays("cifar10_jpeg", *parts, num_classes=10)
