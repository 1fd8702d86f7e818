"""Devices: how many there are, and how a step is mapped over them."""

from skillearn_jax.parallel.devices import AXIS_NAME, BACKENDS, Devices

__all__ = ["AXIS_NAME", "BACKENDS", "Devices"]
