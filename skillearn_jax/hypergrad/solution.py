"""Floor 1: a function that returns its argument and has a solution's derivative."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from skillearn_jax.errors import InputError
from skillearn_jax.hypergrad.optimizer_step import (
    Inputs,
    OptimizerStep,
    materialize,
)
from skillearn_jax.tree import is_differentiable, partition, widen
from skillearn_jax.types import Array, PyTree

PullBack = Callable[[OptimizerStep, Inputs, PyTree, PyTree], tuple[Inputs, Array]]
"""`(step, inputs, opt_state, v) -> (cotangent of the inputs, residual)`."""


def closed_over_as_data(
    step: OptimizerStep, inputs: Inputs
) -> tuple[OptimizerStep, tuple[Any, ...]]:
    """Returns the step with all that its loss may close over as one more datum, no aux.

    The loss is called only when the solution is pulled back, outside of the transformation
    whose values it may have closed over: their gradient would be lost in silence.
    """
    active, reads, data = inputs

    def loss(active: PyTree, reads: PyTree, *data: Any) -> Array:
        return step.loss(Inputs(active, reads, data))[0]

    loss_fn, closed = jax.closure_convert(loss, active, reads, *data)

    def explicit(active: PyTree, reads: PyTree, *data: Any) -> Any:
        return loss_fn(active, reads, *data[:-1], *data[-1])

    return step._replace(loss_fn=explicit), (*data, tuple(closed))


def as_solution(step: OptimizerStep, pull_back: PullBack) -> Any:
    """Returns `(found, opt_state, reads, data, probe) -> found`, differentiable.

    The first derivative is the pull-back. It is computed from the solution, so that the
    derivative of the derivative needs the solution's own again: `forward` keeps it with
    one. That one has to go forwards as well, through `Exact` and `jax.hessian`, which a
    custom VJP does not; its rule is the pull-back transposed. It is looked at only where
    a derivative is differentiated, and costs nothing else.
    """
    attached = _pushed_forward(step, pull_back)

    @jax.custom_vjp
    def solution(
        found: PyTree, opt_state: PyTree, reads: PyTree, data: PyTree, probe: Array
    ) -> PyTree:
        del opt_state, reads, data, probe
        return found

    def forward(*primals: Any) -> tuple[PyTree, Any]:
        found, opt_state, reads, data, probe = jax.tree.map(lambda p: p.value, primals)
        found = attached(found, opt_state, reads, data)
        return found, (Inputs(found, reads, data), opt_state, probe)

    def backward(residuals: Any, v: PyTree) -> tuple[PyTree, ...]:
        inputs, opt_state, probe = residuals
        v = step.mean(widen(materialize(v, inputs.active)))
        bar, residual = pull_back(step, inputs, opt_state, v)
        return None, None, bar.reads, bar.data, residual.astype(probe.dtype)

    solution.defvjp(forward, backward, symbolic_zeros=True)
    return solution


def _pushed_forward(step: OptimizerStep, pull_back: PullBack) -> Any:
    """Returns `(found, opt_state, reads, data) -> found` with the derivative forwards."""

    @jax.custom_jvp
    def attached(
        found: PyTree, opt_state: PyTree, reads: PyTree, data: PyTree
    ) -> PyTree:
        del opt_state, reads, data
        return found

    @attached.defjvp
    def push_forward(primals: Any, tangents: Any) -> tuple[PyTree, PyTree]:
        if step.axis_name is not None:
            # Transposed, the means over devices stand where they do not belong.
            raise InputError(
                "second derivatives of an implicit solution are for one device, and this "
                f"step averages over {step.axis_name!r}: leave axis_name out"
            )
        _, opt_state, reads, data = primals
        # Once more with its derivative: there may be a third.
        found = attached(*primals)

        def pulled(v: PyTree) -> PyTree:
            bar, _ = pull_back(step, Inputs(found, reads, data), opt_state, widen(v))
            return bar.reads, bar.data

        floats, _ = partition((reads, data), is_differentiable)
        moved = jax.tree.map(
            lambda leaf, tangent: None if leaf is None else tangent,
            floats,
            tangents[2:],
            is_leaf=lambda leaf: leaf is None,
        )
        # The pull-back is linear, so any point gives its transpose.
        _, transposed = jax.vjp(pulled, jax.tree.map(jnp.zeros_like, found))
        return found, transposed(moved)[0]

    return attached
