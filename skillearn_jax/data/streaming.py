"""Batches of image sets that do not fit into memory, as ImageNet."""

import collections
import copy
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np

from skillearn_jax.data.augment import Augmentation, normalize
from skillearn_jax.data.colour import ColourJitter
from skillearn_jax.data.damage import DamageLog, check_labels, without_damage
from skillearn_jax.data.delivered import Delivered
from skillearn_jax.data.records import HostBatch, Reader, Reading
from skillearn_jax.data.streaming_grain import ArrayRecordReader
from skillearn_jax.data.streaming_tf import TfRecordReader
from skillearn_jax.data.streams import Batch
from skillearn_jax.data.tfds import keys
from skillearn_jax.data.tfds_folder import open_prepared
from skillearn_jax.errors import InputError
from skillearn_jax.types import PyTree

T = TypeVar("T")
Place = Callable[[PyTree], PyTree]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
IMAGENET_AUGMENTATION = Augmentation(
    flip=True, colours=ColourJitter(0.4, 0.4, 0.4, 0.2)
)
"""What DARTS adds to the random-resized-crop."""

_READERS: dict[str, Callable[[Any, Reading], Reader]] = {
    "tfrecord": TfRecordReader,
    "array_record": ArrayRecordReader,
}
_PIPELINES = {"tfrecord": "tf.data", "array_record": "Grain"}
_AHEAD = 2


class StreamingData:
    """Batches that are read, decoded and cropped on the host while the device computes.

    Bytes travel to the device; flip, colours and normalisation are computed there, with
    a key per example, folded of seed, step and index.

    Attributes:
        name: the data set, for messages and reports.
        prepared: the builder of TFDS whose files are read.
        reader: of the files.
        augmentation: of training images, after the crop. It may not crop again.
        mean: of the channels, see `normalize`.
        std: likewise.
        damage: the images that did not decode.
    """

    def __init__(
        self,
        name: str,
        prepared: Any,
        reading: Reading,
        *,
        augmentation: Augmentation = IMAGENET_AUGMENTATION,
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
        max_damaged: int = 0,
    ) -> None:
        self.name, self.prepared = name, prepared
        self.reader = _reader(prepared, reading)
        self.augmentation = augmentation
        self.mean, self.std = mean, std
        self.damage = DamageLog(max_damaged)
        self._check_steps()

    def reread(self, **changes: Any) -> "StreamingData":
        """Returns the same files read in another way, with the same log of damage.

        Args:
            **changes: of the attributes of `Reading`.
        """
        other = copy.copy(self)
        reading = dataclasses.replace(self.reader.reading, **changes)
        other.reader = _reader(self.prepared, reading)
        return other

    @property
    def class_names(self) -> tuple[str, ...]:
        """By class, as the builder names them."""
        return tuple(self.prepared.info.features["label"].names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width (pixels) and channels of what a network sees."""
        size = self.reader.reading.image_size
        return size, size, 3

    @property
    def num_classes(self) -> int:
        """Labels lie in 0..num_classes-1."""
        return self.reader.num_classes

    @property
    def num_train(self) -> int:
        """The number of training images, of all processes."""
        return self.reader.train_size

    @property
    def num_heldout(self) -> int:
        """The number of held-out images, of all processes."""
        return self.reader.heldout_size

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in one pass over the training split."""
        return self.reader.steps_per_epoch

    def example(self) -> Delivered:
        """Returns a batch of nothing, of the shapes and types of all others."""
        reading = self.reader.reading
        shape = (reading.share, reading.image_size, reading.image_size, 3)
        zeros = np.zeros(reading.share, np.int32)
        return self._delivered(np.zeros(shape, np.uint8), zeros, zeros)

    def deliveries(
        self, step: int = 0, place: Place = jax.device_put
    ) -> Iterator[Delivered]:
        """Yields training batches from a step on, for ever, two of them ahead.

        A damaged image is replaced by an intact one of its batch.

        Args:
            step: counted from 0 over all epochs: all that a checkpoint has to hold. The
                batches are bit for bit those of a run that was not interrupted.
            place: puts a batch, this process' rows, on the devices.

        Yields:
            `Delivered` of `batch_size / num_processes` examples, as `place` makes it.

        Raises:
            InputError: if more images are damaged than allowed, and if the split is
                smaller than a batch.
        """
        self._check_steps()
        return _ahead(map(place, self._deliveries(step)))

    def eval_batches(self, place: Place = jax.device_put) -> Iterator[Batch]:
        """Yields all held-out images once, normalised.

        All batches have one shape, and all processes have as many: what is missing is
        filled up with zeros of weight 0. The error over the set is `sum(weight * error)
        / sum(weight)`, summed over batches and processes. A damaged image has weight 0.

        Args:
            place: puts a batch, this process' rows, on the devices.

        Yields:
            `Batch` with `weight: [b] float32` in addition.

        Raises:
            InputError: if more images are damaged than allowed.
        """
        return _ahead(self._eval_batches(place))

    def _check_steps(self) -> None:
        if self.steps_per_epoch < 1:
            reading = self.reader.reading
            raise InputError(
                f"batch size {reading.batch_size} exceeds the {self.num_train} examples "
                f"of split {reading.train_split}: set --config.evaluation.batch_size"
            )

    def _check(self, batch: HostBatch, key: str) -> None:
        """Logs damaged images; refuses labels that are none, as of an unlabelled split."""
        split = getattr(self.reader.reading, key)
        check_labels(batch.label, self.num_classes, self.name, split, key)
        self.damage.record(batch, split)

    def _deliveries(self, first: int) -> Iterator[Delivered]:
        for batch in self.reader.train(first):
            self._check(batch, "train_split")
            batch = without_damage(batch)
            yield self._delivered(batch.image, batch.label, batch.index)

    def _delivered(self, image: Any, label: Any, index: Any) -> Delivered:
        return Delivered(image, label, index, self.augmentation, self.mean, self.std)

    def _eval_batches(self, place: Place) -> Iterator[Batch]:
        reading = self.reader.reading
        steps = reading.heldout_steps(self.reader.heldout_size)
        batches = self.reader.heldout()
        for _ in range(steps):
            batch = next(batches, None)
            arrays = _nothing(reading.image_size)
            if batch is not None:
                self._check(batch, "heldout_split")
                weight = batch.intact.astype(np.float32)
                arrays = {
                    "image": batch.image,
                    "label": batch.label,
                    "index": batch.index,
                    "weight": weight,
                }
            placed = place(_filled(arrays, reading.share))
            yield {**placed, "image": _normalized(placed["image"], self.mean, self.std)}


def _reader(prepared: Any, reading: Reading) -> Reader:
    return _READERS[prepared.info.file_format.value](prepared, reading)


_normalized = jax.jit(normalize, static_argnums=(1, 2))


def open_streaming(reading: Reading, **options: Any) -> StreamingData:
    """Returns the batches of a set that TFDS has prepared.

    Files of the format tfrecord are read by `tf.data`, those of array_record by Grain,
    without TensorFlow.

    Args:
        reading: what to read, and how.
        **options: of `StreamingData`.

    Raises:
        InputError: for data that are missing, damaged or of another format, for splits
            that are not there or empty, and if the library is not installed.
    """
    folder, prepared = open_prepared(reading.builder, reading.data_dir, "stream")
    splits, stored = prepared.info.splits, prepared.info.file_format.value
    for key in ("train_split", "heldout_split"):
        split = getattr(reading, key)
        try:
            count = splits[split].num_examples
        except (KeyError, ValueError, AssertionError) as error:
            raise InputError(
                f"{folder} has no split {split!r}: set --config.data.stream.{key} to one "
                f"of {', '.join(sorted(splits))}"
            ) from error
        if count < 1:
            raise InputError(
                f"the split {split!r} of {folder} holds no example: set "
                f"--config.data.stream.{key}"
            )
    if stored not in _READERS:
        raise InputError(
            f"{folder} holds {stored} files, which are not streamed: prepare it as "
            + " or ".join(_READERS)
        )
    features = keys(folder, prepared.info)
    if features != ("image", "label"):
        raise InputError(
            f"{folder} has its images in {features[0]!r} and its classes in "
            f"{features[1]!r}; only 'image' and 'label' are streamed: set "
            "--config.data.name"
        )
    name = f"{reading.builder} (tfds {folder.name}, {_PIPELINES[stored]})"
    return StreamingData(name, prepared, reading, **options)


def _nothing(size: int) -> dict[str, np.ndarray]:
    """Returns a held-out batch of no examples."""
    empty = np.zeros(0, np.int32)
    image = np.zeros((0, size, size, 3), np.uint8)
    weight = np.zeros(0, np.float32)
    return {"image": image, "label": empty, "index": empty, "weight": weight}


def _filled(arrays: dict[str, np.ndarray], size: int) -> dict[str, np.ndarray]:
    """Returns the arrays with zeros after their last row, `size` rows in all."""

    def fill(array: np.ndarray) -> np.ndarray:
        rest = (0, size - len(array))
        return np.pad(array, [rest] + [(0, 0)] * (array.ndim - 1))

    return {name: fill(array) for name, array in arrays.items()}


def _ahead(batches: Iterator[T]) -> Iterator[T]:
    """Yields the same batches, of which two are always on their way to the device."""
    waiting: collections.deque[T] = collections.deque()
    for batch in batches:
        waiting.append(batch)
        if len(waiting) > _AHEAD:
            yield waiting.popleft()
    yield from waiting
