"""A class-balanced part of a data set that stays in its files, in memory."""

from functools import partial

import numpy as np

from skillearn_jax.data import jpeg, pixels
from skillearn_jax.data.damage import check_labels
from skillearn_jax.data.examples import Examples, TrainingImages
from skillearn_jax.data.streaming import StreamingData
from skillearn_jax.data.tfds import encoded
from skillearn_jax.data.tfds_folder import text_of, unreadable
from skillearn_jax.errors import InputError, refusing, told_with


def read_subset(data: StreamingData, per_class: int) -> TrainingImages:
    """Returns the first images of each class of the training split.

    They come in the order in which they are stored, cut as held-out images are: the
    middle, after the shorter side is resized. What does not decode is logged as damage
    and left out. The same in every process.

    Args:
        data: that is streamed otherwise.
        per_class: images of each class, at least 1.

    Returns:
        `num_classes * per_class` images, normalised like those that are streamed.

    Raises:
        InputError: if a class has fewer, the files cannot be read, or the machine has
            no memory for so many.

    Cost: reads the files until all classes are complete: about `per_class` / (images of
        a class) of them, where they are shuffled. ImageNet at 224 pixels takes 0.15 MB
        of memory an image.
    """
    reading = data.reader.reading
    size, total = reading.image_size, data.num_classes * per_class
    with told_with("", " or --config.data.per_class"):
        pixels.check_memory(total, size, size, channels=3)
    images = np.empty((total, size, size, 3), np.uint8)
    labels = np.empty(total, np.int32)
    found, taken = np.zeros(data.num_classes, int), 0
    # Each format has errors of its own for damaged records.
    with refusing(Exception, told=partial(unreadable, data.name)):
        for i, record in enumerate(
            encoded(data.prepared, reading.train_split, "image")
        ):
            label = int(record["label"])
            given = (data.num_classes, data.name, reading.train_split, "train_split")
            check_labels(np.asarray([label]), *given)
            if found[label] == per_class:
                continue
            try:
                image = jpeg.decode(record["image"])
            except pixels.UNDECODABLE:
                name = text_of(record.get("file_name", ""))
                data.damage.add(reading.train_split, i, name)
                continue
            images[taken] = jpeg.middle(image, reading.shorter_side, size)
            labels[taken] = label
            found[label], taken = found[label] + 1, taken + 1
            if taken == total:
                break
    if taken < total:
        least = int(found.argmin())
        raise InputError(
            f"class {least} of {data.name} has {found[least]} images, but {per_class} of "
            "each class are asked for: set --config.data.per_class"
        )
    train = Examples(images, labels)
    return TrainingImages(
        data.name,
        train,
        data.num_classes,
        data.mean,
        data.std,
        class_names=data.class_names,
    )
