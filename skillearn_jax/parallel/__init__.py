"""Devices and processes: how many there are, and how a step is mapped over them."""

from skillearn_jax.parallel.devices import AXIS_NAME, BACKENDS, Devices
from skillearn_jax.parallel.ending import end_all, lost
from skillearn_jax.parallel.processes import (
    Processes,
    check_same,
    gather_rows,
    in_any,
    is_first,
    on_first,
)
from skillearn_jax.parallel.sharding import sharded

__all__ = [
    "AXIS_NAME",
    "BACKENDS",
    "Devices",
    "Processes",
    "check_same",
    "end_all",
    "gather_rows",
    "in_any",
    "is_first",
    "lost",
    "on_first",
    "sharded",
]
