"""Floor 1: the differentiable optimiser step, the heart of the package."""

from typing import Any

import optax

from skillearn_jax.hypergrad.adjoints import Adjoint, Exact, StepFn
from skillearn_jax.hypergrad.implicit import check_probe, probe_argument
from skillearn_jax.hypergrad.loss_output import function_name
from skillearn_jax.hypergrad.optimizer_step import OptimizerStep, StepInfo
from skillearn_jax.hypergrad.refusals import (
    check_adjoint,
    check_arrays,
    check_function,
    check_moved,
    check_opt_state,
    check_optimizer,
)
from skillearn_jax.types import Array, LossFn, PyTree


def one_step(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    adjoint: Adjoint = Exact(),
    axis_name: str | None = None,
) -> StepFn:
    """Returns one optimiser step as a function that gradients flow through.

        (W', s') = Phi(W, grad_W loss_fn(W, R, *data), s)

    with `Phi` the whole optimiser: momentum, clipping and weight decay included. The
    gradient of anything computed from `W'` and `s'` flows back to `W`, to the reads `R`,
    to the optimiser state `s` (so also through several steps, and to hyperparameters
    kept there by `optax.inject_hyperparams`) and to floating-point data. Steps compose
    as functions do: feed one step's `W'` into another's reads and differentiate the
    outside with `jax.grad`; K levels need nothing else.

        >>> import jax, optax
        >>> def inner(w, a):  # the toy of the DARTS paper
        ...     return w**2 - 2 * a * w + a**2
        >>> step = one_step(inner, optax.sgd(0.1))
        >>> def outer(a, w=-2.0):
        ...     w_new, _ = step(w, a, optax.sgd(0.1).init(w))
        ...     return a * w_new - 2 * a + 1
        >>> print(f"{jax.grad(outer)(2.0):.4f}")  # -4 + 12 * 0.1
        -2.8000

    Args:
        loss_fn: `(active, reads, *data) -> loss: []` or `(loss, aux)`. Everything traced
            that it depends on must be an argument: under `Exact` and `FiniteDifference`
            differentiated values that it closes over are refused, see `Exact`.
        optimizer: any optax transformation whose update takes gradients, state and
            parameters only, so not `optax.lbfgs`. Adam needs `eps_root > 0`: without it the
            derivative at a coordinate with zero gradient is NaN. So is that of a
            clipped global norm where the whole gradient is zero.
        adjoint: `Exact()`, `FiniteDifference(radius)`, `FirstOrder(at)` or `Autodiff()`;
            or, where the step is the last of a solver, `Neumann(num_terms, step)`,
            `ConjugateGradient(num_steps, damping)` or `FixedPoint(num_steps)`.
        axis_name: inside `pmap` or `shard_map(check_vma=False)`, the device axis: the
            gradient is averaged over it forwards, and the cotangent backwards. Average
            the outermost gradient yourself, once.

    Returns:
        `step(active, reads, opt_state, *data) -> (new_active, StepInfo)`. Any pytrees;
        integer and key leaves of reads and data take no gradient. Keys are consumed by
        the loss, not here: the same key gives the same step. With an implicit adjoint it
        takes `probe=` too, see `Implicit`.

    Raises:
        InputError: for a loss that is no function, an optimiser that is none of optax or
            an adjoint that is no value;
            when called, for active leaves that are no floats, reads and data that are no arrays,
            for an optimiser that asks for more than gradients, for the state of another
            optimiser or of parameters of other shapes, for a probe of another adjoint,
            and for values that are differentiated and closed over, see `Exact`.

    Cost: forwards one gradient of the loss; backwards as the adjoint says.

    References:
        Liu, Simonyan, Yang 2018, DARTS, equations 6 to 8, arXiv 1806.09055.
    """
    check_function("one_step", "loss_fn", loss_fn)
    name = f"one_step of {function_name(loss_fn)}"
    check_optimizer(name, optimizer)
    check_adjoint(name, adjoint)
    attached = adjoint.attach(OptimizerStep(loss_fn, optimizer, axis_name))

    def step(
        active: PyTree,
        reads: PyTree,
        opt_state: PyTree,
        *data: Any,
        probe: Array | None = None,
    ) -> tuple[PyTree, StepInfo]:
        check_moved("active", active)
        check_arrays("reads", reads)
        check_arrays("data", data)
        check_opt_state("opt_state", optimizer, active, opt_state)
        check_probe(adjoint, probe)
        told = probe_argument(adjoint, probe)
        return attached(active, reads, opt_state, *data, **told)

    return step
