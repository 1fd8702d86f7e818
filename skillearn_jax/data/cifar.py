"""CIFAR-10 and CIFAR-100 from the archives of their authors, as downloaded."""

import dataclasses
import pathlib

import numpy as np

from skillearn_jax.data import tfds
from skillearn_jax.data.archives import read_members, verify_digest
from skillearn_jax.data.cifar_pickle import read_batch, read_names
from skillearn_jax.data.examples import ImageData, found_in, from_arrays
from skillearn_jax.errors import InputError
from skillearn_jax.paths import user_path

_PIXELS = 3 * 32 * 32
_NAMES = 2**16  # bytes, more than any list of names has


@dataclasses.dataclass(frozen=True)
class Archive:
    """An official archive.

    Attributes:
        folder: of its members.
        train: the members with training images, in order.
        heldout: the member with test images.
        sizes: images per training member, and in the held-out one.
        labels: what each record is labelled with, in the order of the binary format.
        names: the member with the names of the classes, for each of `labels`.
        pickled: whether its members are Python 2 pickles, else fixed-size records.
        sha256: of the file.
    """

    folder: str
    train: tuple[str, ...]
    heldout: str
    sizes: tuple[int, int]
    labels: tuple[str, ...]
    names: tuple[str, ...]
    pickled: bool
    sha256: str


_COARSE_FINE = ("coarse_labels", "fine_labels")

ARCHIVES = {
    "cifar-10-binary.tar.gz": Archive(
        folder="cifar-10-batches-bin",
        train=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
        heldout="test_batch.bin",
        sizes=(10000, 10000),
        labels=("labels",),
        names=("batches.meta.txt",),
        pickled=False,
        sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    ),
    "cifar-10-python.tar.gz": Archive(
        folder="cifar-10-batches-py",
        train=tuple(f"data_batch_{i}" for i in range(1, 6)),
        heldout="test_batch",
        sizes=(10000, 10000),
        labels=("labels",),
        names=("batches.meta",),
        pickled=True,
        sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    ),
    "cifar-100-binary.tar.gz": Archive(
        folder="cifar-100-binary",
        train=("train.bin",),
        heldout="test.bin",
        sizes=(50000, 10000),
        labels=_COARSE_FINE,
        names=("coarse_label_names.txt", "fine_label_names.txt"),
        pickled=False,
        sha256="58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
    ),
    "cifar-100-python.tar.gz": Archive(
        folder="cifar-100-python",
        train=("train",),
        heldout="test",
        sizes=(50000, 10000),
        labels=_COARSE_FINE,
        names=("meta", "meta"),
        pickled=True,
        sha256="85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
    ),
}
"""By file name. The digests are those that TFDS (binary) and Keras (python) publish."""

_TASKS = {
    "cifar10": ("cifar-10", "labels", 10, "label"),
    "cifar100": ("cifar-100", "fine_labels", 100, "label"),
    "cifar100_coarse": ("cifar-100", "coarse_labels", 20, "coarse_label"),
}


def read(name: str, data_dir: str) -> ImageData:
    """Returns CIFAR-10 or CIFAR-100, 50,000 training and 10,000 held-out images.

    Args:
        name: `cifar10`, `cifar100` (100 fine classes) or `cifar100_coarse` (20).
        data_dir: an official archive or a folder. In a folder the first of these is
            taken, and the name of the result says which: the binary archive, the python
            archive, a prepared TFDS directory (`cifar10/`, `cifar100/`).

    Returns:
        `ImageData` with `[N, 32, 32, 3] uint8` images, those of an archive in its order,
        and the names of its classes.

    Raises:
        InputError: if nothing of that is there, or what is there is not official.

    Cost: some seconds; twice the size of the images (180 MB) in memory. Nothing is
    unpacked to disk.

    References: Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images.
    """
    stem, label, num_classes, tfds_label = _TASKS[name]
    known = (f"{stem}-binary.tar.gz", f"{stem}-python.tar.gz")
    builder = stem.replace("-", "")
    hint = f"set --config.data.dir to {known[0]}, {known[1]} or the folder of one"
    if not data_dir:
        raise InputError(f"the data source {name} needs a path: {hint}")
    path = user_path(data_dir)
    if path.is_dir():
        there = [path / file for file in known if (path / file).is_file()]
        if not there and (path / builder).is_dir():
            return tfds.read(builder, data_dir, label=tfds_label)
        if not there:
            raise InputError(
                f"{path} holds neither {known[0]} nor {known[1]} nor a prepared TFDS "
                f"directory {builder}: set --config.data.dir"
            )
        path = there[0]
    if not path.is_file() or path.name not in known:
        raise InputError(f"{path} is not the file of an archive of {name}: {hint}")
    return _read_archive(path, name, label, num_classes)


def _read_archive(
    file: pathlib.Path, name: str, label: str, num_classes: int
) -> ImageData:
    layout = ARCHIVES[file.name]
    verify_digest(file, layout.sha256)
    column = layout.labels.index(label)
    sizes = dict.fromkeys(layout.train, layout.sizes[0])
    sizes[layout.heldout] = layout.sizes[1]
    # A pickle holds labels and file names too, some 30 bytes for each image.
    record = 4096 if layout.pickled else _PIXELS + len(layout.labels)
    limits = {member: size * record for member, size in sizes.items()}
    limits[layout.names[column]] = _NAMES
    contents = read_members(
        file, {f"{layout.folder}/{member}": limit for member, limit in limits.items()}
    )
    batches = {}
    for member, size in sizes.items():
        content = contents.pop(f"{layout.folder}/{member}")
        with found_in(f"{file}: member {member}"):
            batches[member] = _read_batch(content, layout, size)
    arrays = []
    for members in (layout.train, (layout.heldout,)):
        pixels = np.concatenate([batches[member][0] for member in members])
        images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        labels = np.concatenate([batches[member][1] for member in members])
        arrays += [np.ascontiguousarray(images), labels[:, column]]
    member = layout.names[column]
    with found_in(f"{file}: member {member}"):
        names = _read_names(contents[f"{layout.folder}/{member}"], layout, label)
    with found_in(file):
        return from_arrays(
            f"{name} ({file.name})", *arrays, num_classes=num_classes, class_names=names
        )


def _read_names(content: bytes, layout: Archive, label: str) -> list[str]:
    if layout.pickled:
        return read_names(content, label.removesuffix("s") + "_names")
    return content.decode("latin1").split()


def _read_batch(
    content: bytes, layout: Archive, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns pixels `[size, 3072] uint8`, channels first, and `[size, L]` labels."""
    if layout.pickled:
        pixels, labels = read_batch(content, layout.labels)
    else:  # records of labels, one byte each, then pixels
        record = len(layout.labels) + _PIXELS
        if len(content) % record:
            raise InputError(
                f"its {len(content)} bytes are no whole records of {record}"
            )
        records = np.frombuffer(content, np.uint8).reshape(-1, record)
        labels, pixels = np.split(records, [len(layout.labels)], axis=1)
    if len(pixels) != size:
        raise InputError(f"it holds {len(pixels)} images; it must hold {size}")
    return pixels, labels
