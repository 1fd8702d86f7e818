"""What the two readers of large image sets share: settings, and batches on the host."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Protocol

import numpy as np

from skillearn_jax.data.crops import ATTEMPTS
from skillearn_jax.errors import InputError
from skillearn_jax.randomness import Use, generator


@dataclasses.dataclass(frozen=True, eq=False)
class HostBatch:
    """Encoded images that became pixels: at most b of them, this process' part.

    Attributes:
        image: `[b, S, S, 3] uint8`.
        label: `[b] int32`.
        index: `[b] int32`, the place of the example in its split.
        intact: `[b] bool`, false where the image did not decode; its pixels are zero.
        name: of the files, where the data set has them, else empty.
    """

    image: np.ndarray
    label: np.ndarray
    index: np.ndarray
    intact: np.ndarray
    name: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Reading:
    """How a prepared set of images is read.

    Attributes:
        builder: its name in TFDS.
        data_dir: where it was prepared: the folder above `imagenet2012/5.1.0/`.
        batch_size: of all processes together, in training and in evaluation.
        seed: of the order of examples and of the crops.
        train_split: as TFDS writes it; `train[:10%]` is a part.
        heldout_split: likewise.
        image_size: side of the square that a network sees, pixels.
        shorter_side: that held-out images are resized to before the middle is cut out.
        process: which of the processes this one is, counted from 0.
        num_processes: that share each batch.
        least_area: of the box of a random-resized-crop, as a share of the image.
        shuffle_buffer: encoded examples of tfrecord files that are shuffled together,
            by each process; ImageNet's take about 0.1 MB each. It is part of what fixes
            the order.

    Raises:
        InputError: for values out of range.
    """

    builder: str
    data_dir: str
    batch_size: int
    seed: int = 0
    train_split: str = "train"
    heldout_split: str = "validation"
    image_size: int = 224
    shorter_side: int = 256
    process: int = 0
    num_processes: int = 1
    least_area: float = 0.08
    shuffle_buffer: int = 8192

    def __post_init__(self) -> None:
        if not 0 <= self.process < self.num_processes:
            raise InputError(
                f"process {self.process} must be from 0 to {self.num_processes - 1}, "
                "one less than the number of processes"
            )
        if self.batch_size < 1 or self.batch_size % self.num_processes:
            raise InputError(
                f"batch size {self.batch_size} must be a positive multiple of the "
                f"{self.num_processes} processes: set --config.evaluation.batch_size"
            )
        if not 1 <= self.image_size <= self.shorter_side:
            raise InputError(
                f"image size {self.image_size} must be from 1 to the shorter side "
                f"{self.shorter_side}: set --config.data.image_size or "
                "--config.data.stream.shorter_side"
            )
        if not 0 <= self.seed < 2**31:
            raise InputError(
                f"seed {self.seed} must be from 0 to 2^31 - 1: set --config.seed"
            )

    @property
    def share(self) -> int:
        """Examples of a batch that belong to this process, b."""
        return self.batch_size // self.num_processes

    def heldout_steps(self, size: int) -> int:
        """Returns the batches of the largest part of `size` held-out examples."""
        return math.ceil(math.ceil(size / self.num_processes) / self.share)


class Reader(Protocol):
    """Reads a training split for ever and a held-out split once.

    Attributes:
        reading: its settings.
        num_classes: labels lie in 0..num_classes-1.
        train_size: examples of the training split, of all processes.
        heldout_size: examples of the held-out split, of all processes.
        steps_per_epoch: full batches in one pass over the training split.
    """

    reading: Reading
    num_classes: int
    train_size: int
    heldout_size: int
    steps_per_epoch: int

    def train(self, step: int) -> Iterator[HostBatch]:
        """Yields full batches of random crops, from the given step on, for ever."""
        ...

    def heldout(self) -> Iterator[HostBatch]:
        """Yields this process' part of the held-out images; the last may be smaller."""
        ...


def crop_draws(seed: int, epoch: int, index: int) -> np.ndarray:
    """Returns what decides on the crop of one example in one epoch.

    Returns:
        `[4, ATTEMPTS] float64`, uniform in [0, 1), see `crops.random_box`.
    """
    return generator(seed, Use.CROPS, epoch, index).random((4, ATTEMPTS))
