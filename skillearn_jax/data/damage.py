"""Images that do not decode: named, counted, and too many of them an error."""

import logging

import numpy as np

from skillearn_jax.data.records import HostBatch
from skillearn_jax.errors import InputError

_LOG = logging.getLogger(__name__)


class DamageLog:
    """Remembers which images do not decode; an image counts once.

    Attributes:
        limit: how many are put up with, of this process.
        names: of those seen so far, in order: of the file, else split and index.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.names: list[str] = []

    def record(self, batch: HostBatch, split: str) -> None:
        """Does what `add` does with each damaged image of a batch."""
        for i in np.flatnonzero(~batch.intact):
            self.add(split, int(batch.index[i]), batch.name[i])

    def add(self, split: str, index: int, file: str = "") -> None:
        """Logs a warning for a damaged image that is new.

        Raises:
            InputError: if there are more than `limit`.
        """
        name = f"{split}[{index}]" + (f" ({file})" if file else "")
        if name in self.names:
            return
        self.names.append(name)
        _LOG.warning("%s does not decode", name)
        if len(self.names) > self.limit:
            count = len(self.names)
            raise InputError(
                f"{count} {'image does' if count == 1 else 'images do'} not decode, the "
                f"last is {name}, more than the {self.limit} allowed: prepare the data "
                "again or set --config.data.stream.max_damaged"
            )


def check_labels(
    labels: np.ndarray, num_classes: int, name: str, split: str, key: str
) -> None:
    """Raises `InputError` for labels `[b]` that are no classes.

    Args:
        labels: of some examples.
        num_classes: labels lie in 0..num_classes-1.
        name: of the data set, for the message.
        split: likewise.
        key: of `config.data.stream`, that names the split.
    """
    wrong = labels[(labels < 0) | (labels >= num_classes)]
    if wrong.size:
        raise InputError(
            f"split {split} of {name} has the label {wrong[0]}, but classes go from 0 to "
            f"{num_classes - 1}: set --config.data.stream.{key}"
        )


def without_damage(batch: HostBatch) -> HostBatch:
    """Returns a training batch in which intact examples stand in for damaged ones.

    Raises:
        InputError: if no image of the batch decodes.
    """
    if batch.intact.all():
        return batch
    (intact,) = np.nonzero(batch.intact)
    if not intact.size:
        raise InputError(
            f"none of {batch.intact.size} images of a batch decodes: set "
            "--config.data.dir to intact data"
        )
    rows = np.arange(len(batch.intact))
    rows[~batch.intact] = np.resize(intact, len(rows) - len(intact))
    return HostBatch(
        batch.image[rows],
        batch.label[rows],
        batch.index[rows],
        batch.intact[rows],
        tuple(batch.name[row] for row in rows),
    )
