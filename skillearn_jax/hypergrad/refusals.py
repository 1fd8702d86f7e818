"""Floor 1: what no optimiser step can be made of, or be called with."""

import math
from numbers import Integral, Real
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from skillearn_jax.errors import InputError
from skillearn_jax.hypergrad.hyperparams import is_hyperparam
from skillearn_jax.tracing import is_traced
from skillearn_jax.tree import is_differentiable, is_sharded
from skillearn_jax.types import PyTree


def check_count(what: str, value: Any) -> None:
    """Raises `InputError` unless the value is a whole number, at least 1."""
    if not isinstance(value, Integral) or value < 1:
        raise InputError(f"{what} is {value!r}; it must be a whole number, at least 1")


def is_number(value: Any) -> bool:
    """Returns whether a value is a number or an array of them, traced or not."""
    return isinstance(value, Real | np.bool_ | jax.Array | np.ndarray)


def check_number(what: str, value: Any, *, positive: bool = True) -> None:
    """Raises `InputError` unless a value is one finite number > 0, or traced.

    A traced one sweeps over many in one compilation; it cannot be looked at.

    Args:
        what: names the value in the message.
        value: to check.
        positive: refuse 0 too.
    """
    known = is_number(value)
    if known and jnp.shape(value) != ():
        raise InputError(
            f"{what} has the shape {jnp.shape(value)}; it must be one number: for several, "
            "jax.vmap over them"
        )
    if known and is_traced(value):
        return
    # Of an array the number: inside jit a comparison would be traced.
    number = float(value) if known else math.nan
    if not 0 <= number < math.inf or (positive and number == 0):
        bound = "> 0" if positive else ">= 0"
        raise InputError(f"{what}={value!r}; it must be a finite number {bound}")


def check_function(owner: str, name: str, value: Any, optional: bool = False) -> None:
    """Raises `InputError` unless a value can be called, or is the `None` that may be.

    Args:
        owner: whose argument it is, in the message.
        name: of the argument.
        value: to check.
        optional: allow `None`.
    """
    if not callable(value) and not (optional and value is None):
        allowed = "a function or None" if optional else "a function"
        raise InputError(f"{owner} has {name}={value!r}; it must be {allowed}")


def check_optimizer(owner: str, optimizer: Any) -> None:
    """Raises `InputError` unless an optimiser is one of optax."""
    if not isinstance(optimizer, optax.GradientTransformation):
        raise InputError(
            f"{owner} has the optimizer {optimizer!r}; it must be an optax "
            "transformation such as optax.sgd(0.1), of optax.MultiSteps its "
            "gradient_transformation()"
        )


def check_adjoint(owner: str, adjoint: Any) -> None:
    """Raises `InputError` unless an adjoint is a value of such a class, not the class."""
    of_one = hasattr(adjoint, "attach") and hasattr(adjoint, "passes")
    if isinstance(adjoint, type) or not of_one:
        raise InputError(
            f"{owner} has adjoint={adjoint!r}; it must be a value such as Exact(), of a "
            "class that extends Adjoint"
        )


def check_arrays(name: str, tree: PyTree) -> None:
    """Raises `InputError` unless all leaves are arrays or numbers."""
    for path, leaf in jax.tree.leaves_with_path(tree):
        try:
            jax.typeof(leaf)
        except (TypeError, OverflowError) as error:
            raise InputError(
                f"{name}{jax.tree_util.keystr(path)} is {leaf!r}; it must be an "
                "array or a number"
            ) from error


def check_moved(name: str, tree: PyTree) -> None:
    """Raises `InputError` unless all leaves of what is to move are real floats."""
    check_arrays(name, tree)
    for path, leaf in jax.tree.leaves_with_path(tree):
        if not is_differentiable(leaf):
            raise InputError(
                f"{name}{jax.tree_util.keystr(path)} is {jnp.result_type(leaf)}; what "
                "is moved holds floats"
            )
        if jnp.iscomplexobj(leaf):
            # The gradient of JAX is the conjugate of the direction in which to descend.
            raise InputError(
                f"{name}{jax.tree_util.keystr(path)} is {jnp.result_type(leaf)}; what "
                "is moved is real: split it into real and imaginary parts"
            )


def check_opt_state(
    name: str, optimizer: optax.GradientTransformation, params: PyTree, state: PyTree
) -> None:
    """Raises `InputError` unless a state has the structure and shapes that the optimiser's has.

    The hyperparameters of `optax.inject_hyperparams` may have any shape, as one for each
    coordinate. What is `Sharded` may be here in part; its whole shapes are structure.

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

    def check(path: Any, given: PyTree, like: PyTree) -> None:
        if (
            is_hyperparam(path)
            or is_sharded(given)
            or jnp.shape(given) == jnp.shape(like)
        ):
            return
        raise InputError(
            f"{name} is of other parameters: {jax.tree_util.keystr(path)} has the shape "
            f"{jnp.shape(given)}, and this optimizer's init gives {jnp.shape(like)}"
        )

    jax.tree.map_with_path(check, state, wanted, is_leaf=is_sharded)


def _outline(state: PyTree) -> str:
    """Returns of what types an optimiser state is made, as those in a chain, and how large."""
    parts = state if type(state) is tuple else (state,)
    names = ", ".join(type(part).__name__ for part in parts)
    return f"({names}) of {len(jax.tree.leaves(state))} arrays"
