"""Floor 1: products of mixed second derivatives with a vector, exact and approximate.

Both forms differentiate the same function, `gradient_fn: W -> grad_(W, R) L(W, R)`, along
a direction `u` in `W`. By the symmetry of second derivatives the result is, at once,

    d2L/dW dW . u    and    d2L/dR dW . u,

which is all that a pull-back through one optimiser step needs.
"""

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

from skillearn_jax.errors import InputError
from skillearn_jax.tree import norm, widen
from skillearn_jax.types import Array, PyTree

GradientFn = Callable[[PyTree], PyTree]


def mixed_hvp(gradient_fn: GradientFn, active: PyTree, direction: PyTree) -> PyTree:
    """Returns the derivative of a gradient along a direction, exactly.

        d/dt gradient_fn(W + t u) at t = 0

    Args:
        gradient_fn: `W -> pytree`, a gradient of a scalar with respect to anything.
        active: `W`, any pytree of floats.
        direction: `u`, like `active`.

    Returns:
        A pytree like `gradient_fn(active)`.

    Cost: one jvp through the gradient: about two gradients in time, and the memory of
    the gradient and its tangent.
    """
    return jax.jvp(gradient_fn, (active,), (direction,))[1]


def central_difference(
    gradient_fn: GradientFn, active: PyTree, direction: PyTree, radius: float
) -> PyTree:
    """Returns the derivative of a gradient along a direction, by a central difference.

        (gradient_fn(W + eps u) - gradient_fn(W - eps u)) / (2 eps),
        eps = radius / ||u||_2

    The points lie at distance `radius` from `W` whatever the length of `u`, so a step
    size inside `u` changes nothing: with `u = -xi v` this is the formula of DARTS and of the
    learner's stage in learning by passing tests, `eps = 0.01 / ||v||`; the codes of that
    tester and of interleaving learning take one for each set that moves.

    Args:
        gradient_fn: as in `mixed_hvp`.
        active: `W`, any pytree of floats.
        direction: `u`, like `active`. A zero direction gives zeros.
        radius: distance of the two points from `W`, in the units of `W`.

    Returns:
        A pytree like `gradient_fn(active)`. The error is O(radius^2) from the
        truncation and O(machine epsilon / radius) from the subtraction.

    Cost: two gradients; the memory of one.

    References:
        Liu, Simonyan, Yang 2018, DARTS, equation 8, arXiv 1806.09055.
    """
    active, direction = jax.tree.map(jnp.asarray, (active, direction))
    length = norm(widen(direction))
    zero = length == 0  # there is no unit vector
    eps = radius / jnp.where(zero, 1, length)

    # The norm has the widest type of the direction; each leaf keeps its own.
    def at(distance: Array) -> PyTree:
        return gradient_fn(
            jax.tree.map(
                lambda w, u: (w + distance * u).astype(w.dtype), active, direction
            )
        )

    # XLA may round two gradients at one point otherwise: their difference is no zero.
    return jax.tree.map(
        lambda above, below: jnp.where(zero, 0, (above - below) / (2 * eps)).astype(
            jnp.result_type(above)
        ),
        at(eps),
        at(-eps),
    )


def central_difference_per_set(
    gradient_fn: GradientFn,
    active: Mapping[str, PyTree],
    direction: Mapping[str, PyTree],
    radius: float,
) -> PyTree:
    """Returns the sum of central differences, each along one set of the direction alone.

        sum_s (gradient_fn(W + eps_s u_s) - gradient_fn(W - eps_s u_s)) / (2 eps_s),
        eps_s = radius / ||u_s||_2

    where u_s is `u` in set s and zero elsewhere. A derivative is linear in the direction,
    so this stands for the same product as `central_difference`; but a set with a small
    part of `u` is moved as far as the others, where one common distance hardly moves it.

    Args:
        gradient_fn: as in `mixed_hvp`.
        active: `W`, by the names of its sets.
        direction: `u`, like `active`. A set whose part is zero adds zeros.
        radius: distance of the two points from `W`, in the units of `W`.

    Returns:
        A pytree like `gradient_fn(active)`, with the errors of `central_difference`.

    Raises:
        InputError: if `active` has no named sets.

    Cost: two gradients for each set; the memory of two.

    References:
        Ban, Xie 2021, interleaving learning, arXiv 2103.07018, whose code takes encoder
        and head apart.
    """
    if not isinstance(active, Mapping) or not active:
        raise InputError(
            "a difference per set needs named sets, a non-empty mapping, as active "
            f"parameters, got {type(active).__name__}: set per_set=False"
        )

    def along(name: str) -> PyTree:
        def gradient_of(part: PyTree) -> PyTree:
            return gradient_fn({**active, name: part})

        return central_difference(gradient_of, active[name], direction[name], radius)

    first, *others = map(along, active)
    return functools.reduce(optax.tree.add, others, first)
