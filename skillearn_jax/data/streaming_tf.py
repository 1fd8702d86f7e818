"""Images of a TFDS data set in tfrecord files, decoded by `tf.data`.

These files can only be read from their start. The order is that of shuffled files read
side by side through a buffer that shuffles again: fixed by seed and epoch, but another
for another number of processes or another buffer.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from skillearn_jax.data.crops import ATTEMPTS, random_box, shorter_side
from skillearn_jax.data.records import HostBatch, Reading
from skillearn_jax.data.tf import tensorflow
from skillearn_jax.data.tfds_folder import unreadable

_FILES_AT_ONCE = 16


class TfRecordReader:
    """Reads tfrecord files; a `Reader`.

    Process p reads the p-th part of each split. A step in the middle of an epoch is
    reached by reading what comes before it, without decoding: exact, at the speed of
    the disk.

    Raises:
        InputError: if TensorFlow is not installed.
    """

    def __init__(self, prepared: Any, reading: Reading) -> None:
        """`prepared`: a builder of TFDS whose files are tfrecord."""
        import tensorflow_datasets as tfds

        self.reading = reading
        self._tf = tensorflow("to read tfrecord files")
        self._info = prepared.info
        self._skip_decoding = {"image": tfds.decode.SkipDecoding()}
        self.num_classes = prepared.info.features["label"].num_classes
        self.train_size = prepared.info.splits[reading.train_split].num_examples
        self.heldout_size = prepared.info.splits[reading.heldout_split].num_examples
        per_process = self.train_size // reading.num_processes
        self.steps_per_epoch = per_process // reading.share

    def train(self, step: int) -> Iterator[HostBatch]:
        """Yields full batches of random crops, from the given step on, for ever."""
        tf, reading = self._tf, self.reading
        columns = self._files(reading.train_split)
        first_epoch, first_step = divmod(step, self.steps_per_epoch)

        def of_epoch(epoch: Any) -> Any:
            # For the graph of this function: else `tf.random.set_seed`, called by
            # anyone, would change the order.
            tf.compat.v1.set_random_seed(1)
            seed = tf.stack([np.int64(reading.seed), epoch])
            order = tf.random.experimental.stateless_shuffle(
                tf.range(len(columns[0])), seed=seed
            )
            files = tf.data.Dataset.from_tensor_slices(
                tuple(tf.gather(column, order) for column in columns)
            )
            records = files.interleave(
                self._read,
                cycle_length=_FILES_AT_ONCE,
                num_parallel_calls=tf.data.AUTOTUNE,
                deterministic=True,
            )
            shuffle_seed = tf.random.stateless_uniform(
                [], seed, minval=None, maxval=None, dtype=tf.int64
            )
            records = records.shuffle(reading.shuffle_buffer, seed=shuffle_seed)
            done = tf.where(epoch == first_epoch, np.int64(first_step), 0)
            records = records.take(self.steps_per_epoch * reading.share)
            records = records.skip(done * reading.share)
            return records.map(lambda index, record: (epoch, index, record))

        epochs = tf.data.Dataset.range(first_epoch, np.iinfo(np.int32).max)
        return self._batches(epochs.flat_map(of_epoch), self._random_crop)

    def heldout(self) -> Iterator[HostBatch]:
        """Yields this process' part of the held-out images; the last may be smaller."""
        tf = self._tf
        files = tf.data.Dataset.from_tensor_slices(
            self._files(self.reading.heldout_split)
        )
        records = files.flat_map(self._read)
        records = records.map(lambda index, record: (np.int64(0), index, record))
        return self._batches(records, self._middle)

    def _files(self, split: str) -> tuple[np.ndarray, ...]:
        """Returns what this process reads of a split.

        Returns:
            An entry each for a file: the index of the first example, the number of
            examples, how many come before them in the file, and its name.
        """
        import tensorflow_datasets as tfds

        splits, process = self._info.splits, self.reading.process
        parts = tfds.even_splits(split, self.reading.num_processes)
        before = sum(splits[part].num_examples for part in parts[:process])
        files = splits[parts[process]].file_instructions
        skips = np.asarray([file.skip for file in files], np.int64)
        takes = np.asarray([file.take for file in files], np.int64)
        in_file = np.asarray([file.examples_in_shard for file in files], np.int64)
        counts = np.where(takes < 0, in_file - skips, takes)
        starts = before + np.cumsum(counts) - counts
        # Of text even where there is none: fewer examples than processes.
        names = np.asarray([str(file.filename) for file in files], str)
        return starts, counts, skips, names

    def _read(self, start: Any, count: Any, skip: Any, name: Any) -> Any:
        records = self._tf.data.TFRecordDataset(name).skip(skip).take(count)
        return records.enumerate(start)

    def _batches(self, records: Any, cut: Any) -> Iterator[HostBatch]:
        """Yields decoded batches; `records` holds epoch, index and encoded example."""
        tf, size = self._tf, self.reading.image_size
        nothing = tf.data.Dataset.from_tensors(
            (tf.zeros((size, size, 3), tf.uint8), False)
        )

        def example(epoch: Any, index: Any, record: Any) -> tuple[Any, ...]:
            features = self._info.features.deserialize_example(
                record, decoders=self._skip_decoding
            )

            def decode(content: Any) -> tuple[Any, Any]:
                image = tf.cast(tf.round(cut(content, epoch, index)), tf.uint8)
                return tf.ensure_shape(image, (size, size, 3)), True

            # How a graph catches an error: what fails is left out of a data set of one.
            image, intact = (
                tf.data.Dataset.from_tensors(features["image"])
                .map(decode)
                .ignore_errors()
                .concatenate(nothing)
                .take(1)
                .get_single_element()
            )
            label = tf.cast(features["label"], tf.int32)
            name = features.get("file_name", tf.constant(""))
            return image, label, tf.cast(index, tf.int32), intact, name

        batches = (
            records.map(example, num_parallel_calls=tf.data.AUTOTUNE)
            .batch(self.reading.share)
            .prefetch(tf.data.AUTOTUNE)
        )
        try:
            for image, label, index, intact, names in batches.as_numpy_iterator():
                name = tuple(name.decode() for name in names)
                yield HostBatch(image, label, index, intact, name)
        except tf.errors.OpError as error:
            raise unreadable(self.reading.builder, error) from error

    def _random_crop(self, content: Any, epoch: Any, index: Any) -> Any:
        tf, size = self._tf, self.reading.image_size
        key = tf.stack([np.int64(self.reading.seed), epoch])
        draws = tf.random.stateless_uniform(
            (4, ATTEMPTS), tf.random.fold_in(key, index), dtype=tf.float64
        )
        shape = tf.io.extract_jpeg_shape(content)
        height, width = tf.unstack(tf.cast(shape[:2], tf.float64))
        scale = (self.reading.least_area, 1.0)
        box = random_box(height, width, draws, scale, xp=tf.experimental.numpy)
        image = tf.io.decode_and_crop_jpeg(
            content,
            tf.cast(tf.stack(box), tf.int32),
            channels=3,
            dct_method="INTEGER_ACCURATE",
        )
        # Without anti-aliasing, which would take twice as long as everything else.
        return tf.image.resize(image, (size, size))

    def _middle(self, content: Any, epoch: Any, index: Any) -> Any:
        tf, size = self._tf, self.reading.image_size
        image = tf.io.decode_jpeg(content, channels=3, dct_method="INTEGER_ACCURATE")
        shape = tf.shape(image)
        short = self.reading.shorter_side
        height, width = shorter_side(shape[0], shape[1], short, tf.experimental.numpy)
        image = tf.image.resize(image, (height, width), antialias=True)
        image = tf.clip_by_value(image, 0.0, 255.0)
        return tf.image.crop_to_bounding_box(
            image, (height - size) // 2, (width - size) // 2, size, size
        )
