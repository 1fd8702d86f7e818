"""A user's own images in one folder per class."""

import pathlib
import re
import warnings

import numpy as np

from skillearn_jax.data.examples import ImageData, found_in, from_arrays
from skillearn_jax.data.pixels import UNDECODABLE, check_memory, decode
from skillearn_jax.errors import InputError
from skillearn_jax.paths import user_path

SUFFIXES = (".png", ".jpg", ".jpeg")
"""What counts as an image, in small or capital letters; other files are not read."""

UNREADABLE_LIMIT = 10
"""Files that may fail to decode and be left out; one more stops the load."""

_HINT = "set --config.data.dir to a folder with train/CLASS/*.png|jpg and test/CLASS/*"


def read(data_dir: str, size: str = "") -> ImageData:
    """Returns the images under `train/CLASS/` and `test/CLASS/`, as RGB.

    Classes are numbered in the sorted order of their names, images come class by class
    in the sorted order of theirs: cut such a set with `stratified`. Files that do not
    decode are named in a warning and left out, up to `UNREADABLE_LIMIT`.

    Args:
        data_dir: the folder with `train` and `test`.
        size: what all images are resized to, see `decode`: `32` or `32x48` (height x
            width, pixels); empty for the size of the first training image.

    Returns:
        `ImageData` named after the folder, `[N, H, W, 3] uint8`.

    Raises:
        InputError: for a missing folder, a class without images, classes that differ
            between train and test, too many unreadable files, and more pixels than the
            machine has memory for.

    Cost: decodes every file once; all images are held in memory.
    """
    if not data_dir:
        raise InputError(f"the data source folder needs a path: {_HINT}")
    root = user_path(data_dir)
    files = {split: _list_files(root / split) for split in ("train", "test")}
    for name in sorted(set(files["train"]) ^ set(files["test"])):
        lacking = "test" if name in files["train"] else "train"
        raise InputError(f"{root / lacking} lacks the class {name}: {_HINT}")
    unreadable: list[str] = []
    shape = _parse_size(size)
    arrays: list[np.ndarray] = []
    for by_class in files.values():
        images, labels = _decode_classes(root, by_class, shape, unreadable)
        shape = images[0].shape[:2]
        arrays += [np.stack(images), np.array(labels)]
    if unreadable:
        count = "1 file is" if len(unreadable) == 1 else f"{len(unreadable)} files are"
        warnings.warn(
            f"{root}: {count} left out, being no readable image: "
            + ", ".join(unreadable),
            stacklevel=2,
        )
    names = tuple(files["train"])
    with found_in(root):
        return from_arrays(
            root.resolve().name, *arrays, num_classes=len(names), class_names=names
        )


def _list_files(folder: pathlib.Path) -> dict[str, list[pathlib.Path]]:
    """Returns the sorted images of each class, hidden folders and files left aside."""
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: {_HINT}")
    found = {}
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(".") or not entry.is_dir():
            continue
        found[entry.name] = sorted(
            file
            for file in entry.iterdir()
            if file.suffix.lower() in SUFFIXES
            and not file.name.startswith(".")
            and file.is_file()
        )
        if not found[entry.name]:
            raise InputError(f"class {entry} holds no image: {_HINT}")
    if not found:
        raise InputError(f"{folder} holds no folder of a class: {_HINT}")
    return found


def _decode_classes(
    root: pathlib.Path,
    by_class: dict[str, list[pathlib.Path]],
    shape: tuple[int, int] | None,
    unreadable: list[str],
) -> tuple[list[np.ndarray], list[int]]:
    """Returns images and labels of a split; adds the files it cannot decode."""
    images: list[np.ndarray] = []
    labels: list[int] = []
    for label, (name, files) in enumerate(by_class.items()):
        for file in files:
            try:
                images.append(decode(file, size=shape))
            except UNDECODABLE:
                unreadable.append(str(file.relative_to(root)))
                _check_count(root, unreadable)
                continue
            labels.append(label)
            if len(images) == 1:
                shape = images[0].shape[:2]
                check_memory(sum(map(len, by_class.values())), *shape, channels=3)
        if label not in labels[-1:]:
            raise InputError(
                f"{root}: none of the images of class {name} in {files[0].parent} can "
                f"be decoded: {_HINT}"
            )
    return images, labels


def _parse_size(size: str) -> tuple[int, int] | None:
    if not size:
        return None
    match = re.fullmatch(r"([1-9]\d{0,3})(?:x([1-9]\d{0,3}))?", size)
    if not match:
        raise InputError(
            f"image size {size!r} must be a number of pixels or HEIGHTxWIDTH, each from "
            "1 to 9999: set --config.data.name, as in folder:32 or folder:32x48"
        )
    return int(match[1]), int(match[2] or match[1])


def _check_count(root: pathlib.Path, unreadable: list[str]) -> None:
    if len(unreadable) > UNREADABLE_LIMIT:
        raise InputError(
            f"{root}: more than {UNREADABLE_LIMIT} files cannot be decoded: "
            f"{', '.join(unreadable)}: repair or remove them, or set --config.data.dir"
        )
