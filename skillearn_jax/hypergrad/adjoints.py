"""Floor 1: how the cotangent of a one-step solution is pulled back, as a choice.

An adjoint is a frozen value. Its method `attach(step)` turns a plain `OptimizerStep`
into a function `(active, reads, opt_state, *data) -> (W', info)` with the derivative that
the adjoint stands for. None of them changes how `W'` itself is found,
except `FirstOrder(at="current")`, which by definition takes no step.
"""

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import jax

from skillearn_jax.errors import InputError, check_choice
from skillearn_jax.hypergrad.loss_output import function_name
from skillearn_jax.hypergrad.mixed_hvp import (
    central_difference,
    central_difference_per_set,
    mixed_hvp,
)
from skillearn_jax.hypergrad.optimizer_step import (
    Inputs,
    MixedProduct,
    OptimizerStep,
    StepInfo,
)
from skillearn_jax.hypergrad.refusals import check_number
from skillearn_jax.types import PyTree

StepFn = Callable[..., tuple[PyTree, StepInfo]]
"""`(active, reads, opt_state, *data) -> (new_active, info)`."""


class Passes(NamedTuple):
    """Where gradient flows to from the result of a step.

    Attributes:
        reads: to what the loss reads.
        start: to where the step started.
        hyperparams: to what tunes the optimiser, kept in its state.
    """

    reads: bool = True
    start: bool = True
    hyperparams: bool = True


class Adjoint(ABC):
    """What gives a plain step its derivative: the base of all adjoints."""

    @abstractmethod
    def attach(self, step: OptimizerStep) -> StepFn:
        """Returns `step.forward` with this adjoint's derivative."""

    @property
    def passes(self) -> Passes:
        """Where gradient flows to: paths, printouts and refusals go by it."""
        return Passes()


@dataclass(frozen=True)
class Exact(Adjoint):
    """The exact derivative of the step: one jvp of the gradient per pull-back.

    Every value that is differentiated must be an argument of the loss or stand in the
    optimiser's state. One that the loss or the optimiser closes over, such as a traced rate
    in `optax.sgd(rate)`, is an `InputError`; under `jax.jit` an error of JAX's own, which
    speaks of a closed-over value or of a side effect. Pass it as a read, keep it in the state by
    `optax.inject_hyperparams`, or use `Autodiff`. The same holds for `FiniteDifference`.

    Cost: about two gradients of the loss, whatever the number of reads.
    """

    def attach(self, step: OptimizerStep) -> StepFn:
        """Returns the step with `mixed_hvp` in its pull-back."""
        return _with_pull_back(step, mixed_hvp)


@dataclass(frozen=True)
class FiniteDifference(Adjoint):
    """The paper's approximation: a central difference of the gradient.

    Kept for comparison: it costs two gradients, as `Exact` does, errs by O(radius^2) in
    float64 and is noise in half precision. The optimiser itself (momentum, clipping,
    decay) is still pulled back exactly; only the second derivative is approximated.

    Attributes:
        radius: distance of the two points from `W`; 0.01 in DARTS.
        per_set: take one difference for each of the named sets that a stage moves, at that
            distance in this set alone, and add them up: two gradients a set. The authors
            of interleaving learning treat encoder and head so. Else all sets move at once.
    """

    radius: float = 0.01
    per_set: bool = False

    def __post_init__(self) -> None:
        check_number("FiniteDifference radius", self.radius)

    def __repr__(self) -> str:
        per_set = ", per_set=True" if self.per_set else ""
        return f"FiniteDifference(radius={self.radius!r}{per_set})"

    def attach(self, step: OptimizerStep) -> StepFn:
        """Returns the step with central differences in its pull-back."""
        difference = central_difference_per_set if self.per_set else central_difference
        return _with_pull_back(step, functools.partial(difference, radius=self.radius))


At = Literal["current", "lookahead"]


@dataclass(frozen=True)
class FirstOrder(Adjoint):
    """No second derivatives: the gradient of the loss counts as a constant.

    What the loss reads has no response term. Where the step started does: to a learned
    initialisation this is the first order of MAML.

    Attributes:
        at: where the objective is evaluated. `"current"`: at the old `W`, no step is
            taken, `W' = W` and `s' = s` with the derivative of the identity (the first
            order of DARTS, xi = 0). `"lookahead"`: at the real `W' = Phi(W, g, s)`, whose
            derivative in `W` and `s`, so in the optimiser's hyperparameters too, is that
            of `Phi` at a constant g.

    Cost: of `"lookahead"`, backwards, a pull-back of the optimiser's update alone;
    forwards, the loss beside its gradient where XLA does not merge the two.

    References:
        Finn, Abbeel, Levine 2017, MAML, arXiv 1703.03400.
    """

    at: At = "current"

    def __post_init__(self) -> None:
        check_choice("FirstOrder at", self.at, get_args(At))

    @property
    def passes(self) -> Passes:
        """Nothing passes to the reads, and where no step is taken none is tuned."""
        return Passes(reads=False, hyperparams=self.at == "lookahead")

    def attach(self, step: OptimizerStep) -> StepFn:
        """Returns the step with no derivative, or with that of the identity."""
        if self.at == "lookahead":
            return step.forward_held

        def first_order(
            active: PyTree, reads: PyTree, opt_state: PyTree, *data: Any
        ) -> tuple[PyTree, StepInfo]:
            loss, aux = step.loss(Inputs(active, reads, data))
            return active, StepInfo(opt_state, step.mean(loss), aux)

        return first_order


@dataclass(frozen=True)
class Autodiff(Adjoint):
    """Plain autodiff through the step: the reference that the others are tested against.

    Reverse over reverse. Forward mode (`jax.jvp`, `jax.jacfwd`) passes through it, which
    it does not through the custom VJP of `Exact` and `FiniteDifference`.
    """

    def attach(self, step: OptimizerStep) -> StepFn:
        """Returns the step as it is."""
        return step.forward


def _with_pull_back(step: OptimizerStep, product: MixedProduct) -> StepFn:
    """Returns the step with `OptimizerStep.pull_back` as its derivative."""

    @jax.custom_vjp
    def stepped(
        active: PyTree, reads: PyTree, opt_state: PyTree, data: tuple[Any, ...]
    ) -> tuple[PyTree, StepInfo]:
        return step.forward(active, reads, opt_state, *data)

    def forward(*primals: Any) -> tuple[tuple[PyTree, StepInfo], Any]:
        active, reads, opt_state, data = jax.tree.map(lambda p: p.value, primals)
        inputs = Inputs(active, reads, data)
        out, gradient = step.forward_and_gradient(inputs, opt_state)
        return out, (inputs, opt_state, gradient)

    def backward(residuals: Any, cotangents: Any) -> tuple[PyTree, ...]:
        inputs, opt_state, gradient = residuals
        inputs_bar, opt_state_bar = step.pull_back(
            inputs, opt_state, gradient, cotangents, product
        )
        return inputs_bar.active, inputs_bar.reads, opt_state_bar, inputs_bar.data

    # Symbolic zeros tell the pull-back which outputs nobody differentiates.
    stepped.defvjp(forward, backward, symbolic_zeros=True)

    def call(
        active: PyTree, reads: PyTree, opt_state: PyTree, *data: Any
    ) -> tuple[PyTree, StepInfo]:
        try:
            return stepped(active, reads, opt_state, data)
        except jax.errors.UnexpectedTracerError as error:
            raise InputError(
                f"{function_name(step.loss_fn)} or its optimizer seems to close over a "
                "value that is differentiated: pass it as a read, keep it in the optimizer's state by "
                "optax.inject_hyperparams, or set adjoint=Autodiff()"
            ) from error

    return call
