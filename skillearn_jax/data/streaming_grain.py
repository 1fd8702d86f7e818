"""Images of a TFDS data set in array_record files, decoded in threads by Grain.

Every record can be read by itself, so that a batch is a function of its step: the order
is the same for any number of processes, and a run is resumed by asking for a step.
"""

import importlib
import math
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from skillearn_jax.data import jpeg, pixels
from skillearn_jax.data.crops import random_box
from skillearn_jax.data.records import HostBatch, Reading, crop_draws
from skillearn_jax.data.shuffle import ROUNDS, shuffled
from skillearn_jax.data.tfds_folder import text_of, unreadable
from skillearn_jax.errors import InputError
from skillearn_jax.randomness import Use, generator


class ArrayRecordReader:
    """Reads array_record files; a `Reader`. An epoch is the same for any processes.

    The order of an epoch is a keyed permutation of the whole split. Process p holds the
    p-th part of each batch, and the p-th part of the held-out split.

    Cost: memory for one decoded batch a thread, at most 16.

    Raises:
        InputError: if Grain is not installed.
    """

    def __init__(self, prepared: Any, reading: Reading) -> None:
        """`prepared`: a builder of TFDS whose files are array_record."""
        self.reading = reading
        self._grain = _grain()
        self._train = _source(prepared, reading.train_split)
        self._heldout = _source(prepared, reading.heldout_split)
        self.train_size, self.heldout_size = len(self._train), len(self._heldout)
        self.num_classes = prepared.info.features["label"].num_classes
        self.steps_per_epoch = self.train_size // reading.batch_size

    def train(self, step: int) -> Iterator[HostBatch]:
        """Yields full batches of random crops, from the given step on, for ever."""
        return self._in_threads(self._train_batch, step, np.iinfo(np.int32).max)

    def heldout(self) -> Iterator[HostBatch]:
        """Yields this process' part of the held-out images; the last may be smaller."""
        start, stop = self._heldout_part()
        batches = math.ceil((stop - start) / self.reading.share)
        return self._in_threads(self._heldout_batch, 0, batches)

    def train_indices(self, step: int) -> np.ndarray:
        """Returns this process' examples at one step, `[b] int32`."""
        reading = self.reading
        epoch, step = divmod(step, self.steps_per_epoch)
        bits = generator(reading.seed, Use.ORDER, epoch)
        words = bits.integers(2**32, size=(ROUNDS, 2), dtype=np.uint32)
        first = step * reading.batch_size + reading.process * reading.share
        return shuffled(first + np.arange(reading.share), self.train_size, words)

    def _train_batch(self, step: int) -> HostBatch:
        epoch = step // self.steps_per_epoch
        side = (self.reading.image_size,) * 2

        def crop(image: np.ndarray, index: int) -> np.ndarray:
            draws = crop_draws(self.reading.seed, epoch, index)
            height, width, _ = image.shape
            top, left, height, width = map(
                int, random_box(height, width, draws, (self.reading.least_area, 1.0))
            )
            return jpeg.resized_box(image, (top, left, height, width), side)

        return self._load(self._train, self.train_indices(step), crop)

    def _heldout_batch(self, batch: int) -> HostBatch:
        start, stop = self._heldout_part()
        start += batch * self.reading.share
        indices = np.arange(start, min(start + self.reading.share, stop))
        size = self.reading.image_size

        def middle(image: np.ndarray, index: int) -> np.ndarray:
            return jpeg.middle(image, self.reading.shorter_side, size)

        return self._load(self._heldout, indices.astype(np.int32), middle)

    def _heldout_part(self) -> tuple[int, int]:
        process, processes = self.reading.process, self.reading.num_processes
        size = self.heldout_size
        return size * process // processes, size * (process + 1) // processes

    def _load(
        self,
        source: Any,
        indices: np.ndarray,
        cut: Callable[[np.ndarray, int], np.ndarray],
    ) -> HostBatch:
        try:
            records = source.__getitems__(indices.tolist())
            # What becomes of records beyond the end of a file that was cut off.
            if any(record["image"] is None for record in records):
                raise ValueError("a record is empty")
        except (RuntimeError, ValueError, OSError) as error:
            raise unreadable(self.reading.builder, error) from error
        size = self.reading.image_size
        image = np.zeros((len(indices), size, size, 3), np.uint8)
        intact = np.ones(len(indices), bool)
        for i, (index, record) in enumerate(zip(indices, records, strict=True)):
            try:
                image[i] = cut(jpeg.decode(record["image"]), int(index))
            except pixels.UNDECODABLE:
                intact[i] = False
        label = np.asarray([record["label"] for record in records], np.int32)
        names = tuple(text_of(record.get("file_name", "")) for record in records)
        return HostBatch(image, label, indices, intact, names)

    def _in_threads(
        self, load: Callable[[int], HostBatch], start: int, stop: int
    ) -> Iterator[HostBatch]:
        """Yields `load(i)` in order; threads work ahead, one batch each."""
        threads = min(16, os.cpu_count() or 1)
        batches = self._grain.MapDataset.range(start, stop).map(load)
        return iter(
            batches.to_iter_dataset(
                self._grain.ReadOptions(
                    num_threads=threads, prefetch_buffer_size=threads
                )
            )
        )


def _source(prepared: Any, split: str) -> Any:
    import tensorflow_datasets as tfds

    return prepared.as_data_source(
        split, decoders={"image": tfds.decode.SkipDecoding()}
    )


def _grain() -> Any:
    try:
        return importlib.import_module("grain")
    except ImportError as error:
        raise InputError(
            'Grain is needed to stream array_record files: pip install -e ".[grain]"'
        ) from error
