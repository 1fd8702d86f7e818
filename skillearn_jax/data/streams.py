"""Batches as pure functions of a key and a step: a resumed run draws the same data."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from skillearn_jax.data.augment import Augmentation, example_keys, normalize
from skillearn_jax.data.examples import Examples
from skillearn_jax.data.shuffle import shuffle_words, shuffled
from skillearn_jax.errors import InputError, check_choice
from skillearn_jax.randomness import named_key
from skillearn_jax.types import Array, Key

Batch = dict[str, Array]
"""`image: [B, H, W, C]`, floats, `label: [B] int32`, `index: [B] int32`."""

Part = Callable[[Array], Array]
"""`[B] -> [b]` of a batch's indices: those that a device gathers."""

ORDERS = ("epochs", "random")


def _whole(indices: Array) -> Array:
    return indices


@jax.tree_util.register_pytree_node_class
@dataclasses.dataclass(frozen=True, eq=False)
class Stream:
    """An endless sequence of training batches, without state.

    A pytree whose leaves are the examples: pass it to a jitted function as an argument.
    Closing over it would write the whole data set into the program as a constant.

    Attributes:
        examples: N examples, put on the device; streams given the same device arrays
            share them.
        batch_size: B, at most N.
        mean: C floats, see `normalize`.
        std: C floats.
        order: `"epochs"` shuffles the set anew for each epoch, visits no example twice
            in it and drops an incomplete last batch. `"random"` draws each batch by
            itself, without replacement inside it: what DARTS does with its validation
            set, `next(iter(loader))` at each step.
        augmentation: applied to each example with a key of its own, in float32.
        dtype: of the images that are drawn, by name; networks compute in it.

    Raises:
        InputError: for an unknown order and for a batch larger than the set.
    """

    examples: Examples
    batch_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    order: str = "epochs"
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
    dtype: str = "float32"

    def __post_init__(self) -> None:
        check_choice("order", self.order, ORDERS)
        if not 1 <= self.batch_size <= self.examples.size:
            raise InputError(
                f"batch size {self.batch_size} must lie between 1 and the "
                f"{self.examples.size} examples: set --config.data.batch_size"
            )
        object.__setattr__(self, "examples", jax.device_put(self.examples))

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in one pass over the examples."""
        return self.examples.size // self.batch_size

    def draw(self, key: Key, step: Array | int, part: Part = _whole) -> Batch:
        """Returns the batch of one step, or what one device holds of it.

        Args:
            key: of the stream, the same at every step; not consumed.
            step: `[] int32`, counted from 0 over all epochs.
            part: `[B] -> [b]` of the batch's indices.

        Returns:
            `Batch` of `b` examples: the same bits for the same `(key, step)`.

        Cost: that of the batch; the number of examples does not matter.
        """
        indices = part(self.indices(key, step))
        drawn = self.examples.take(indices)
        keys = augmentation_keys(key, step, indices)
        image = self.augmentation.apply(
            jnp.asarray(drawn.image), keys, self.mean, self.std
        )
        return {
            "image": image.astype(self.dtype),
            "label": jnp.asarray(drawn.label),
            "index": indices,
        }

    def indices(self, key: Key, step: Array | int) -> Array:
        """Returns which examples the batch of one step holds, `[B] int32`."""
        order_key, _ = jax.random.split(key)
        steps_per_shuffle = self.steps_per_epoch if self.order == "epochs" else 1
        shuffle, position = jnp.divmod(jnp.asarray(step, jnp.int32), steps_per_shuffle)
        words = shuffle_words(jax.random.fold_in(order_key, shuffle))
        places = position * self.batch_size + jnp.arange(self.batch_size)
        return shuffled(places, self.examples.size, words)

    def tree_flatten(self) -> tuple[tuple[Examples], tuple[Any, ...]]:
        """Splits the stream into its examples and its settings, which are static."""
        settings = {name: v for name, v in vars(self).items() if name != "examples"}
        return (self.examples,), tuple(settings.items())

    @classmethod
    def tree_unflatten(
        cls, settings: tuple[Any, ...], children: tuple[Examples]
    ) -> "Stream":
        """Rebuilds the stream, unchecked: inside a transformation, leaves are tracers."""
        stream = object.__new__(cls)
        stream.__dict__.update(settings, examples=children[0])
        return stream


class Drawn(Protocol):
    """What training batches are drawn from, inside the step: a pytree."""

    def draw(self, key: Key, step: Array | int, part: Part) -> Batch:
        """Returns what one device holds of the batch of one step: see `sample`."""


def sample(
    streams: Mapping[str, Drawn],
    key: Key,
    step: Array | int,
    part: Part = _whole,
) -> dict[str, Batch]:
    """Returns one batch of every stream.

    Each stream draws with a key of its own, `key` folded with its name: adding a stream
    leaves the others' draws as they were.

    Args:
        streams: by name, as `{"train": ..., "val": ..., "bank": ...}`.
        key: the same at every step; not consumed.
        step: `[] int32`, counted from 0.
        part: `[B] -> [b]` of a batch's indices, those that this device gathers.

    Returns:
        Batches under the names of the streams.
    """
    return {
        name: stream.draw(named_key(key, name), step, part)
        for name, stream in streams.items()
    }


def augmentation_keys(key: Key, step: Array | int, index: Array) -> Key:
    """Returns a key for each example of one step of a stream, `[b]`.

    Args:
        key: of the stream; not consumed.
        step: `[] int32`.
        index: `[b] int32`, of the examples in their set.
    """
    _, augment_key = jax.random.split(key)
    return example_keys(jax.random.fold_in(augment_key, step), index)


def eval_batches(
    examples: Examples,
    batch_size: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> Iterator[Batch]:
    """Yields all examples once, in order, normalised and not augmented.

    All batches have the same shape, so that a jitted metric compiles once: the last is
    filled up with the first example under weight 0. The error over the set is exactly
    `sum(weight * error) / sum(weight)`, summed over the batches.

    Args:
        examples: N examples.
        batch_size: B; may exceed N.
        mean: C floats, see `normalize`.
        std: C floats.

    Yields:
        `Batch` with `weight: [B] float32` in addition, 1 for an example and 0 for
        filling.

    Raises:
        InputError: if B is not positive.
    """
    if batch_size < 1:
        raise InputError(
            f"batch size {batch_size} must be at least 1: set --config.data.batch_size"
        )
    for start in range(0, examples.size, batch_size):
        index = np.arange(start, start + batch_size, dtype=np.int32)
        real = index < examples.size
        index = np.where(real, index, 0)
        chosen = examples.take(index)
        yield {
            "image": normalize(jnp.asarray(chosen.image), mean, std),
            "label": jnp.asarray(chosen.label),
            "index": jnp.asarray(index),
            "weight": jnp.asarray(real, jnp.float32),
        }
