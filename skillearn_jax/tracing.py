"""Floor 0: what makes tracing quicker, and what is traced."""

import contextlib
import gc
from collections.abc import Iterator
from typing import Any

import jax


def is_traced(value: Any) -> bool:
    """Returns whether a number cannot be looked at, as in a sweep by `jax.vmap`."""
    return isinstance(value, jax.core.Tracer)


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Pauses Python's garbage collector, for tracing a large program in.

    Tracing makes millions of objects that stay, and the collector looks through them all,
    time and again, for cycles that are hardly there: a fifth of the tracing of a
    second-order search step, for 3 MB of 1.1 GB (`docs/performance.md`).
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
