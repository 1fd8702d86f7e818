"""Data sets that TensorFlow Datasets (TFDS) has prepared, read into memory."""

import pathlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from skillearn_jax.data.examples import ImageData, found_in, from_arrays
from skillearn_jax.data.pixels import decode
from skillearn_jax.data.tf import tensorflow
from skillearn_jax.data.tfds_folder import open_prepared, unusable
from skillearn_jax.errors import InputError, refusing


def read(builder: str, data_dir: str, *, label: str = "") -> ImageData:
    """Returns an image-classification data set of TFDS.

    The held-out images are the split `test`, or `validation` where there is no `test`.
    Examples come in the order in which TFDS stores them, which for CIFAR is not that of
    the archives. TensorFlow is imported for the format tfrecord only.

    Args:
        builder: `mnist`, or with a configuration `imagenette/160px`.
        data_dir: where it was prepared: the folder above `mnist/3.0.1/`. Of several
            versions the highest is read.
        label: the feature that holds the classes; by default the builder's own
            (`supervised_keys`), else `label`.

    Returns:
        `ImageData`, grey or RGB as the builder says.

    Raises:
        InputError: for a builder that is unknown, not prepared, damaged, or has no
            uint8 images of one size with one class each; for a tfrecord data set
            without TensorFlow.

    Cost: decodes every image once; all are held in memory.
    """
    folder, prepared = open_prepared(builder, data_dir)
    info = prepared.info
    image, label = keys(folder, info, label)
    arrays: list[np.ndarray] = []
    for split in _splits(folder, info):
        records = encoded(prepared, split, image)
        channels = info.features[image].shape[-1]
        images, labels = _stack(folder, records, image, label, channels)
        if len(labels) != info.splits[split].num_examples:
            raise InputError(
                f"{folder} holds {len(labels)} of the {info.splits[split].num_examples} "
                f"examples of its split {split} (TFDS loses some when it writes "
                "parquet): prepare it again as array_record, or set --config.data.dir"
            )
        arrays += [images, labels]
    classes = info.features[label]
    with found_in(folder):
        return from_arrays(
            f"{builder} (tfds {folder.name})",
            *arrays,
            num_classes=classes.num_classes,
            class_names=classes.names,
        )


def keys(folder: pathlib.Path, info: Any, label: str = "") -> tuple[str, str]:
    """Returns the names of the image and of the class in a record.

    Args:
        folder: for the message.
        info: of the builder.
        label: the class, if not the builder's own.

    Raises:
        InputError: for a builder without grey or RGB images of one class each.
    """
    import tensorflow_datasets as tfds

    own = info.supervised_keys
    features = dict(info.features.items())
    if not (own and len(own) == 2 and all(isinstance(key, str) for key in own)):
        own = ("image", "label")
    image, label = own[0], label or own[1]
    if not (
        isinstance(features.get(image), tfds.features.Image)
        and features[image].np_dtype == np.uint8
        and features[image].shape[-1] in (1, 3)
        and isinstance(features.get(label), tfds.features.ClassLabel)
    ):
        raise InputError(
            f"{folder} has the features {', '.join(features)}; it must have a grey or "
            f"RGB uint8 Image {image!r} and a ClassLabel {label!r}: set "
            "--config.data.name"
        )
    return image, label


def _splits(folder: pathlib.Path, info: Any) -> tuple[str, str]:
    """Returns the names of the training and of the held-out split."""
    heldout = [name for name in ("test", "validation") if name in info.splits]
    if "train" not in info.splits or not heldout:
        raise InputError(
            f"{folder} has the splits {', '.join(info.splits)}; it must have train, and "
            "test or validation: set --config.data.name"
        )
    return "train", heldout[0]


def encoded(prepared: Any, split: str, image: str) -> Iterator[dict[str, Any]]:
    """Yields the records of a split as they are stored, their images still encoded."""
    import tensorflow_datasets as tfds

    decoders = {image: tfds.decode.SkipDecoding()}
    if prepared.info.file_format.value != "tfrecord":
        yield from prepared.as_data_source(split=split, decoders=decoders)
        return
    tensorflow("to read tfrecord files")
    in_order = tfds.ReadConfig(interleave_cycle_length=1)
    yield from tfds.as_numpy(
        prepared.as_dataset(split=split, decoders=decoders, read_config=in_order)
    )


def _stack(
    folder: pathlib.Path,
    records: Iterator[dict[str, Any]],
    image: str,
    label: str,
    channels: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns images `[N, H, W, C] uint8` and labels `[N] int64`."""
    images: list[np.ndarray] = []
    labels: list[int] = []
    # Each format has errors of its own for damaged records.
    with refusing(Exception, told=partial(unusable, folder)):
        for record in records:
            pixels = decode(record[image], channels=channels)
            if images and pixels.shape != images[0].shape:
                raise InputError(
                    f"{folder} holds images of {list(images[0].shape)} and of "
                    f"{list(pixels.shape)}; all must have one size: write them to "
                    "folders and set --config.data.name=folder:SIZE"
                )
            images.append(pixels)
            labels.append(int(record[label]))
        return np.stack(images), np.array(labels)
