"""Floor 4: where the evaluation's batches of images come from."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import jax
import numpy as np

from skillearn_jax.data import (
    Batch,
    Drawn,
    ImageData,
    Stream,
    StreamingData,
    eval_batches,
)
from skillearn_jax.parallel import Devices, gather_rows
from skillearn_jax.randomness import Use, generator
from skillearn_jax.train.config import Config
from skillearn_jax.train.images import OneSet

_HELDOUT_BATCH = 256


class TrainingBatches(NamedTuple):
    """The augmented batches of all training images, the same for all networks.

    Attributes:
        stream: to compile for: all images, or one batch of those that stay in files.
        steps_per_epoch: full batches in one pass.
        deliveries: `(seed, step, devices) -> streams for each step from that one on`, by
            name; None of images in memory.
    """

    stream: Drawn
    steps_per_epoch: int
    deliveries: Callable[[int, int, Devices], Iterator[dict[str, Drawn]] | None]


def training_batches(config: Config, data: OneSet) -> TrainingBatches:
    """Returns the batches that the evaluation trains on, under the name `train`."""
    if isinstance(data, StreamingData):
        deliveries = partial(_deliver, config.seed, data)
        return TrainingBatches(data.example(), data.steps_per_epoch, deliveries)
    stream = Stream(
        data.train,
        config.evaluation.batch_size,
        data.mean,
        data.std,
        augmentation=config.data.augmentation(config.evaluation.cutout),
    )
    return TrainingBatches(stream, stream.steps_per_epoch, lambda *args: None)


def _deliver(
    run_seed: int, data: StreamingData, seed: int, step: int, devices: Devices
) -> Iterator[dict[str, Drawn]]:
    """Reads the files from a step on, in the order of a training's seed."""
    own = generator(run_seed, Use.TRAININGS, seed).integers(2**31)
    read = data.reread(seed=int(own))
    for delivered in read.deliveries(step, devices.split):
        yield {"train": delivered}


def heldout_batches(
    data: OneSet,
) -> tuple[Iterator[Batch], Callable[[np.ndarray], np.ndarray]]:
    """Returns all held-out images, each once, without augmentation.

    Returns:
        The batches of this process, and what adds the rows of the other processes to
        rows of its own: nothing where each judges all images.
    """
    if isinstance(data, StreamingData):
        read = data.reread(batch_size=_HELDOUT_BATCH * jax.process_count())
        return read.eval_batches(), gather_rows
    assert isinstance(data, ImageData)
    batches = eval_batches(data.heldout, _HELDOUT_BATCH, data.mean, data.std)
    return batches, lambda rows: rows
