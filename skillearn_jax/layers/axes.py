"""The device axis, as networks are given it."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax


@dataclasses.dataclass(frozen=True)
class PerDevice:
    """A device axis whose batch statistics each device keeps to itself.

    Given in place of the axis's name, it tells batch normalisation not to synchronise;
    masks keyed by the example number the examples over all devices as ever.

    Attributes:
        name: of the mapped axis.
    """

    name: str


Axis = str | PerDevice | None
"""A mapped axis by its name, its statistics synchronised or not; None without one."""


def example_numbers(count: int, axis: Axis) -> jax.Array:
    """Returns the numbers of this device's examples in the batch of all, `[count]` int.

    Args:
        count: examples of one device.
        axis: the batch is split over it, in order.
    """
    numbers = jnp.arange(count)
    if axis is None:
        return numbers
    name = axis.name if isinstance(axis, PerDevice) else axis
    return numbers + count * lax.axis_index(name)
