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
        """Logs a warning for each damaged image that is new.

        Raises:
            InputError: if there are more than `limit`.
        """
        for i in np.flatnonzero(~batch.intact):
            name = f"{split}[{batch.index[i]}]"
            if batch.name[i]:
                name += f" ({batch.name[i]})"
            if name in self.names:
                continue
            self.names.append(name)
            _LOG.warning("%s does not decode", name)
            if len(self.names) > self.limit:
                raise InputError(
                    f"{len(self.names)} images do not decode, the last is {name}, and "
                    f"{self.limit} are allowed: prepare the data again or "
                    "raise max_damaged"
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
