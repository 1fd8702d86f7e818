"""Batches of image sets that do not fit into memory, as ImageNet."""

import collections
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from skillearn_jax.data.augment import Augmentation, example_keys, normalize
from skillearn_jax.data.colour import ColourJitter
from skillearn_jax.data.damage import DamageLog, without_damage
from skillearn_jax.data.records import HostBatch, Reader, Reading
from skillearn_jax.data.streaming_grain import ArrayRecordReader
from skillearn_jax.data.streaming_tf import TfRecordReader
from skillearn_jax.data.streams import Batch
from skillearn_jax.data.tfds_folder import find, unusable
from skillearn_jax.errors import InputError
from skillearn_jax.types import PyTree

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
IMAGENET_AUGMENTATION = Augmentation(
    flip=True, colours=ColourJitter(0.4, 0.4, 0.4, 0.2)
)
"""What DARTS adds to the random-resized-crop."""

_READERS = {"tfrecord": TfRecordReader, "array_record": ArrayRecordReader}
_AHEAD = 2


class StreamingData:
    """Batches that are read, decoded and cropped on the host while the device computes.

    Bytes travel to the device; flip, colours and normalisation are computed there, with
    a key per example, folded of seed, step and index.

    Attributes:
        reader: of the files.
        augmentation: of training images, after the crop. It may not crop again.
        mean: of the channels, see `normalize`.
        std: likewise.
        place: puts the arrays of a batch, this process' rows, on the devices. For a mesh
            over several processes: `functools.partial(
            jax.make_array_from_process_local_data, sharding)` on every leaf.
        damage: the images that did not decode.
    """

    def __init__(
        self,
        reader: Reader,
        *,
        augmentation: Augmentation = IMAGENET_AUGMENTATION,
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
        place: Callable[[PyTree], PyTree] = jax.device_put,
        max_damaged: int = 0,
    ) -> None:
        self.reader = reader
        self.augmentation = augmentation
        self.mean, self.std = mean, std
        self.place = place
        self.damage = DamageLog(max_damaged)

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in one pass over the training split."""
        return self.reader.steps_per_epoch

    def train_batches(self, step: int = 0) -> Iterator[Batch]:
        """Yields augmented training batches from a step on, for ever.

        A damaged image is replaced by an intact one of its batch.

        Args:
            step: counted from 0 over all epochs: all that a checkpoint has to hold. The
                batches are bit for bit those of a run that was not interrupted.

        Yields:
            `Batch` of `batch_size / num_processes` examples, or as `place` makes them.

        Raises:
            InputError: if more images are damaged than allowed.
        """
        return _ahead(self._train_batches(step))

    def eval_batches(self) -> Iterator[Batch]:
        """Yields all held-out images once, normalised.

        All batches have one shape, and all processes have as many: what is missing is
        filled up with zeros of weight 0. The error over the set is `sum(weight * error)
        / sum(weight)`, summed over batches and processes. A damaged image has weight 0.

        Yields:
            `Batch` with `weight: [b] float32` in addition.

        Raises:
            InputError: if more images are damaged than allowed.
        """
        return _ahead(self._eval_batches())

    def _train_batches(self, first: int) -> Iterator[Batch]:
        reading = self.reader.reading
        key = jax.random.key(reading.seed)
        for step, batch in enumerate(self.reader.train(first), start=first):
            self.damage.record(batch, reading.train_split)
            placed = self.place(_arrays(without_damage(batch)))
            yield self._augmented(placed, jax.random.fold_in(key, step))

    def _eval_batches(self) -> Iterator[Batch]:
        reading = self.reader.reading
        steps = reading.heldout_steps(self.reader.heldout_size)
        size = reading.image_size
        batches = self.reader.heldout()
        for _ in range(steps):
            batch = next(batches, None)
            arrays = _nothing(size)
            if batch is not None:
                self.damage.record(batch, reading.heldout_split)
                weight = batch.intact.astype(np.float32)
                arrays = {**_arrays(batch), "weight": weight}
            yield self._normalized(self.place(_filled(arrays, reading.share)))

    @functools.cached_property
    def _augmented(self) -> Callable[..., Batch]:
        @jax.jit
        def augmented(batch: Batch, key: jax.Array) -> Batch:
            keys = example_keys(key, batch["index"])
            image = self.augmentation.apply(batch["image"], keys, self.mean, self.std)
            return {**batch, "image": image}

        return augmented

    @functools.cached_property
    def _normalized(self) -> Callable[..., Batch]:
        @jax.jit
        def normalized(batch: Batch) -> Batch:
            return {**batch, "image": normalize(batch["image"], self.mean, self.std)}

        return normalized


def open_streaming(reading: Reading, **options: Any) -> StreamingData:
    """Returns the batches of a set that TFDS has prepared.

    Files of the format tfrecord are read by `tf.data`, those of array_record by Grain,
    without TensorFlow.

    Args:
        reading: what to read, and how.
        **options: of `StreamingData`.

    Raises:
        InputError: for data that are missing, damaged or of another format, for splits
            that are not there, and if the library is not installed.
    """
    # Imported here: TFDS takes a second that other sources need not wait for.
    import tensorflow_datasets as tfds

    folder = find(reading.builder, reading.data_dir)
    try:
        prepared = tfds.builder_from_directory(folder)
        splits, stored = prepared.info.splits, prepared.info.file_format.value
    except Exception as error:  # TFDS has no common class for damaged metadata
        raise unusable(folder, error) from error
    for split in (reading.train_split, reading.heldout_split):
        try:
            splits[split].num_examples  # noqa: B018 (reading it parses the split)
        except (KeyError, ValueError, AssertionError) as error:
            raise InputError(
                f"{folder} has no split {split!r}: choose of {', '.join(sorted(splits))}"
            ) from error
    if stored not in _READERS:
        raise InputError(
            f"{folder} holds {stored} files, which are not streamed: prepare it as "
            + " or ".join(_READERS)
        )
    return StreamingData(_READERS[stored](prepared, reading), **options)


def _arrays(batch: HostBatch) -> dict[str, np.ndarray]:
    return {"image": batch.image, "label": batch.label, "index": batch.index}


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


def _ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Yields the same batches, of which two are always on their way to the device."""
    waiting: collections.deque[Batch] = collections.deque()
    for batch in batches:
        waiting.append(batch)
        if len(waiting) > _AHEAD:
            yield waiting.popleft()
    yield from waiting
