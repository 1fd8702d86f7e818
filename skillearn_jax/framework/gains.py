"""Floor 2: how much of a response term each stage's optimiser lets through."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from skillearn_jax.hypergrad import Autodiff
from skillearn_jax.tree import widen
from skillearn_jax.types import Array, ParamSets, PyTree

if TYPE_CHECKING:
    from skillearn_jax.framework.program import Program
    from skillearn_jax.framework.state import Batches, State

SMALL_GAIN = 1e-3
"""Below it, a stage's response term is too small to steer anything."""


class GainState(NamedTuple):
    """The state of `measure_gain`.

    Attributes:
        inner: that of the optimiser measured.
        gain: `[]` for each moved set; NaN where its gradient was zero.
    """

    inner: optax.OptState
    gain: dict[str, Array]


def measure_gain(
    optimizer: optax.GradientTransformation,
) -> optax.GradientTransformation:
    """Returns the optimiser with its gain written into its state.

        gain = (|dPhi/dg^T z| / |z|) / (|Phi(g)| / |g|)

    for a fixed random vector z: how strongly a cotangent passes, measured by how far the
    step goes. It is 1 for gradient descent whatever its rate, 0 for sign descent and
    saturated clipping by value, and about 1e-8 for Adam at its first step, whose update
    is a sign in all but name. Where the gradient is zero there is no step to measure by:
    NaN.

    Args:
        optimizer: of a dict of parameter sets.
    """

    def init(params: ParamSets) -> GainState:
        return GainState(optimizer.init(params), _ones(params))

    def update(
        gradient: ParamSets, state: GainState, params: ParamSets | None = None
    ) -> tuple[PyTree, GainState]:
        def of(gradient: ParamSets) -> tuple[PyTree, PyTree]:
            return cast(
                tuple[PyTree, PyTree], optimizer.update(gradient, state.inner, params)
            )

        updates, pull_back, inner = jax.vjp(of, gradient, has_aux=True)
        z = optax.tree.random_like(jax.random.key(0), gradient)
        (passed,) = pull_back(z)

        def norm(tree: PyTree) -> Array:
            return optax.tree.norm(widen(tree))

        def gain(name: str) -> Array:
            length = norm(gradient[name])
            moved = _nonzero(norm(z[name]) * norm(updates[name]))
            ratio = norm(passed[name]) * length / moved
            return jnp.where(length == 0, jnp.nan, ratio).astype(jnp.float32)

        return updates, GainState(inner, {name: gain(name) for name in gradient})

    return optax.GradientTransformation(init, update)


def optimizer_gains(
    program: Program, state: State, batches: Batches
) -> dict[str, dict[str, Array]]:
    """Returns the gain of each stage's optimiser, `{stage: {moved set: []}}`.

    A gain far below 1 says that the stage passes (almost) no response term to what it
    reads, whatever the adjoint. See `measure_gain`.

    Args:
        program: any program.
        state: from `init` or `step`; the optimiser states in it matter.
        batches: as for `step`.

    Cost: a look-ahead, and a pull-back of each optimiser.
    """
    measured = program.replace(
        stages=tuple(
            dataclasses.replace(
                stage, optimizer=measure_gain(stage.transformation), adjoint=Autodiff()
            )
            for stage in program.stages
        )
    )
    opt_states = {
        stage.name: GainState(
            state.opt_states[stage.name],
            _ones(stage.moves),
        )
        for stage in program.stages
    }
    wrapped = state._replace(opt_states={**state.opt_states, **opt_states})
    after = measured.look_ahead(wrapped, batches).opt_states
    return {
        stage.name: cast(GainState, after[stage.name]).gain for stage in program.stages
    }


def warnings(program: Program, state: State, batches: Batches) -> tuple[str, ...]:
    """Returns a line for each moved set whose optimiser passes almost no gradient."""
    measured = jax.device_get(
        jax.jit(lambda s, b: optimizer_gains(program, s, b))(state, batches)
    )
    return tuple(
        f"stage {stage!r} passes {gain:.1e} of what gradient descent would through "
        f"{name!r}: (almost) no response term. Sign-type optimisers, Adam in a fresh "
        "state and saturated clipping do that"
        for stage, of_sets in measured.items()
        for name, gain in of_sets.items()
        if gain < SMALL_GAIN
    )


def _ones(names: Iterable[str]) -> dict[str, Array]:
    return {name: jnp.ones((), jnp.float32) for name in names}


def _nonzero(x: Array) -> Array:
    return jnp.where(x == 0, 1, x)
