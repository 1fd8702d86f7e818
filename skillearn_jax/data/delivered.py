"""Training batches that the host delivers to a step."""

import dataclasses

import jax
import jax.numpy as jnp

from skillearn_jax.data.augment import Augmentation
from skillearn_jax.data.streams import Batch, Part, augmentation_keys
from skillearn_jax.types import Array, Key


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Delivered:
    """One batch, cropped on the host: what `Stream` is for images on the device.

    A pytree whose leaves are the rows that a process or a device holds. Flip, colours
    and normalisation are computed where it is drawn, with a key per example.

    Attributes:
        image: `[b, S, S, C] uint8`.
        label: `[b] int32`.
        index: `[b] int32`, of the examples in their split.
        augmentation: after the crop; it may not crop again.
        mean: C floats, see `normalize`.
        std: C floats.
    """

    image: Array
    label: Array
    index: Array
    augmentation: Augmentation = dataclasses.field(metadata={"static": True})
    mean: tuple[float, ...] = dataclasses.field(metadata={"static": True})
    std: tuple[float, ...] = dataclasses.field(metadata={"static": True})

    def draw(self, key: Key, step: Array | int, part: Part) -> Batch:
        """Returns the batch, augmented with the key of the stream at one step.

        `part` is not asked: a device was delivered its part.
        """
        del part
        keys = augmentation_keys(key, step, self.index)
        image = jnp.asarray(self.image)
        image = self.augmentation.apply(image, keys, self.mean, self.std)
        return {"image": image, "label": self.label, "index": self.index}
