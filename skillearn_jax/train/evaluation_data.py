"""Floor 4: where the evaluation's batches of images come from."""

from collections.abc import Iterator

from skillearn_jax.data import Augmentation, Batch, ImageData, Stream, eval_batches
from skillearn_jax.train.config import Config

_HELDOUT_BATCH = 256


def training_stream(config: Config, data: ImageData) -> Stream:
    """Returns the augmented batches of the training images, the same for all networks.

    Args:
        config: of the run.
        data: its training images are in memory.
    """
    return Stream(
        data.train,
        config.evaluation.batch_size,
        data.mean,
        data.std,
        augmentation=Augmentation(
            config.data.padding, config.data.flip, config.evaluation.cutout
        ),
    )


def heldout_batches(data: ImageData) -> Iterator[Batch]:
    """Returns all held-out images, each once, without augmentation."""
    return eval_batches(data.heldout, _HELDOUT_BATCH, data.mean, data.std)
