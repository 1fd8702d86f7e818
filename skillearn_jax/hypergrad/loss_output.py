"""Floor 1: what a loss function returned."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from skillearn_jax.errors import InputError
from skillearn_jax.types import Array, LossFn, PyTree


def split_output(loss_fn: LossFn, output: Any) -> tuple[Array, PyTree]:
    """Returns `(value, aux)` of what a loss function returned, with `aux = ()` for none.

    Args:
        loss_fn: the function, for its name.
        output: the value, or the pair `(value, aux)`.

    Raises:
        InputError: if the value is no real scalar.
    """
    pair = output if isinstance(output, tuple) else (output, ())
    if len(pair) != 2:
        found = f"{len(pair)} things"
    elif not isinstance(pair[0], float | np.floating | np.ndarray | jax.Array):
        found = f"a value of type {type(pair[0]).__name__}"
    elif jnp.shape(pair[0]) != ():
        found = f"a value of shape {jnp.shape(pair[0])}"
    elif not jnp.issubdtype(jnp.result_type(pair[0]), jnp.floating):
        found = f"a value of type {jnp.result_type(pair[0])}"
    else:
        return pair
    raise InputError(
        f"{function_name(loss_fn)} returned {found}, but a scalar float is needed, such "
        "as .mean() or .sum() makes: return it, or (value, aux)"
    )


def function_name(function: Any) -> str:
    """Returns what messages call a function, or an object that is called like one."""
    return getattr(function, "__name__", type(function).__name__)
