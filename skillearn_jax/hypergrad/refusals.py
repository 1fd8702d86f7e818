"""Floor 1: what no optimiser step can be made of, or be called with."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from skillearn_jax.errors import InputError
from skillearn_jax.tree import is_differentiable
from skillearn_jax.types import PyTree


def check_optimizer(owner: str, optimizer: Any) -> None:
    """Raises `InputError` unless an optimiser is one of optax."""
    if not isinstance(optimizer, optax.GradientTransformation):
        raise InputError(
            f"{owner} has the optimizer {optimizer!r}; it must be an optax "
            "transformation such as optax.sgd(0.1)"
        )


def check_adjoint(owner: str, adjoint: Any) -> None:
    """Raises `InputError` unless an adjoint is a value with `attach`, not its class."""
    if isinstance(adjoint, type) or not hasattr(adjoint, "attach"):
        raise InputError(
            f"{owner} has adjoint={adjoint!r}; it must be a value such as Exact()"
        )


def check_moved(name: str, tree: PyTree) -> None:
    """Raises `InputError` unless all leaves of what is to move are floats."""
    for path, leaf in jax.tree.leaves_with_path(tree):
        if not is_differentiable(leaf):
            raise InputError(
                f"{name}{jax.tree_util.keystr(path)} is {jnp.result_type(leaf)}; what "
                "is moved holds floats"
            )


def check_opt_state(
    name: str, optimizer: optax.GradientTransformation, params: PyTree, state: PyTree
) -> None:
    """Raises `InputError` unless a state has the structure that the optimiser's has.

    Args:
        name: of the state.
        optimizer: that is to read it.
        params: that the optimiser moves.
        state: given.
    """
    wanted = jax.eval_shape(optimizer.init, params)
    found: Any = jax.tree.structure(state)
    if found != jax.tree.structure(wanted):
        raise InputError(
            f"{name} is of another optimizer or of other parameters: it is "
            f"{_outline(state)}, and this one's init gives {_outline(wanted)}"
        )


def _outline(state: PyTree) -> str:
    """Returns of what types an optimiser state is made, as those in a chain, and how large."""
    parts = state if type(state) is tuple else (state,)
    names = ", ".join(type(part).__name__ for part in parts)
    return f"({names}) of {len(jax.tree.leaves(state))} arrays"
