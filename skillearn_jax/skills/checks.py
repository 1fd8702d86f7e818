"""Floor 3: checks of what a skill is handed: trade-offs, and what model functions return."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from skillearn_jax.errors import InputError
from skillearn_jax.skills.models import Batch, ModelState
from skillearn_jax.tracing import is_traced
from skillearn_jax.types import Array, PyTree


def is_left_out(weight: float | Array) -> bool:
    """Returns whether a trade-off is known to be 0; a traced one counts as present."""
    return not is_traced(weight) and float(weight) == 0


def per_example(name: str, values: Any, batch: Batch) -> Array:
    """Returns what a model function returned for a batch, one number for each example.

    A column `[B, 1]` would be broadcast against a row `[B]`, and a scalar weighed as if
    it were every example's own: both give a finite number that is not the one meant.

    Args:
        name: of the function.
        values: what it returned.
        batch: what it was for; the first axis of its leaves is that of the examples.

    Raises:
        InputError: unless the shape is `[B]`.
    """
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(batch)} - {()}
    shape = getattr(values, "shape", None)
    # Data that a function closes over say nothing here: then any row will do.
    if shape in sizes or (not sizes and shape is not None and len(shape) == 1):
        return values
    wanted = " or ".join(map(str, sorted(sizes))) or "(B,)"
    raise InputError(
        f"{name} returned {_found(values)}; one number for each example, {wanted}, is needed"
    )


def with_state(name: str, output: Any) -> tuple[PyTree, ModelState]:
    """Returns the pair that a model function returned, of a value and new model states.

    Raises:
        InputError: if it is no such pair. Features of two examples would unpack as one.
    """
    if not (isinstance(output, tuple) and len(output) == 2):
        found = _found(output)
    elif not isinstance(output[1], Mapping):
        found = f"a pair, the second of {_found(output[1])}"
    else:
        return output
    raise InputError(
        f"{name} returned {found}; a pair (value, new_model_state) is needed, with {{}} "
        "where no model state changes"
    )


def _found(value: Any) -> str:
    """Returns what a message says of a value: of arrays the shape, of others the type."""
    shape = getattr(value, "shape", None)
    return f"type {type(value).__name__}" if shape is None else f"shape {shape}"
