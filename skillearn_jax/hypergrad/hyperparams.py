"""Floor 1: the numbers that `optax.inject_hyperparams` keeps in an optimiser's state."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from skillearn_jax.errors import InputError
from skillearn_jax.types import PyTree

_HELD, _SCHEDULED = "hyperparams", "hyperparams_states"


def is_hyperparam(path: tuple[Any, ...]) -> bool:
    """Returns whether a path in an optimiser's state leads to one of them."""
    return _stands_in(path, _HELD)


def with_hyperparams(owner: str, opt_state: PyTree, decided: Any) -> PyTree:
    """Returns the optimiser state with some of them decided anew.

    Args:
        owner: what decided them, for messages.
        opt_state: of an optimiser made by `optax.inject_hyperparams`, chained or not.
        decided: numbers by name; of the shape that the state has, or one for all.

    Raises:
        InputError: for a name that the state does not hold or that a schedule decides,
            for another shape, and for a fraction where the state holds an integer.
    """
    if not isinstance(decided, Mapping):
        raise InputError(
            f"{owner} returned {type(decided).__name__}; it must map names to numbers"
        )
    paths = [path for path, _ in jax.tree.leaves_with_path(opt_state)]
    known = {_name(path[-1]) for path in paths if is_hyperparam(path)}
    scheduled = {
        _name(key) for path in paths if _stands_in(path, _SCHEDULED) for key in path
    }
    missing, overruled = sorted(set(decided) - known), sorted(set(decided) & scheduled)
    if missing:
        raise InputError(
            f"{owner} returned {missing}, which its optimizer's state does not hold: "
            + (
                f"it holds {sorted(map(str, known))}"
                if known
                else "make the optimizer by optax.inject_hyperparams"
            )
        )
    if overruled:
        raise InputError(
            f"{owner} returned {overruled}, which the optimizer has a schedule for: give "
            "optax.inject_hyperparams a number there"
        )

    def replace(path: Any, old: Any) -> Any:
        name = _name(path[-1]) if is_hyperparam(path) else None
        if name not in decided:
            return old
        value, wanted = jnp.asarray(decided[name]), jnp.result_type(old)
        if not jnp.can_cast(value.dtype, wanted, "same_kind"):
            raise InputError(
                f"{owner} returned {name!r} as {value.dtype}, but the optimizer holds it "
                f"as {wanted}: give optax.inject_hyperparams a number with a point, 1.0"
            )
        value = value.astype(wanted)
        if value.shape not in ((), jnp.shape(old)):
            raise InputError(
                f"{owner} returned {name!r} of shape {value.shape}, but the optimizer's "
                f"own has the shape {jnp.shape(old)}"
            )
        return jnp.broadcast_to(value, jnp.shape(old))

    return jax.tree.map_with_path(replace, opt_state)


def _name(key: Any) -> Any:
    return getattr(key, "key", None)


def _stands_in(path: tuple[Any, ...], group: str) -> bool:
    return any(getattr(key, "name", None) == group for key in path)
