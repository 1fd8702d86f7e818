"""Floor 1: one step of an optimiser, and the pull-back of cotangents through it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.custom_derivatives import SymbolicZero
from jax.dtypes import float0

from skillearn_jax.errors import InputError
from skillearn_jax.hypergrad.loss_output import split_output
from skillearn_jax.tree import is_differentiable, mean_over_devices, partition
from skillearn_jax.types import Array, LossFn, PyTree

MixedProduct = Callable[[Callable[[PyTree], PyTree], PyTree, PyTree], PyTree]
"""`(gradient_fn, active, direction) -> derivative of gradient_fn along direction`."""


class StepInfo(NamedTuple):
    """What a step returns beside the new parameters.

    Attributes:
        opt_state: the new optimiser state; differentiable, like the parameters.
        loss: `[]` the loss at the OLD parameters, averaged over devices; of several steps
            `[num_steps]`.
        aux: the auxiliary output of the loss, of this device's data.
    """

    opt_state: PyTree
    loss: Array
    aux: PyTree


class Inputs(NamedTuple):
    """All that a loss sees: `loss_fn(active, reads, *data)`."""

    active: PyTree
    reads: PyTree
    data: tuple[Any, ...]


def updated(
    optimizer: optax.GradientTransformation,
    params: PyTree,
    gradient: PyTree,
    opt_state: PyTree,
) -> tuple[PyTree, PyTree]:
    """Returns `(params, opt_state)` as an optimiser's update leaves them.

    Raises:
        InputError: for one that asks for more, such as the loss for a line search.
    """
    try:
        updates, opt_state = optimizer.update(gradient, opt_state, params)
    except TypeError as error:
        if "keyword-only argument" not in str(error):
            raise
        raise InputError(
            "an optimizer's update is given gradient, state and parameters, and this one "
            f"asks for more ({error}): take one without a line search, not optax.lbfgs"
        ) from error
    return optax.apply_updates(params, updates), opt_state


class OptimizerStep(NamedTuple):
    """A plain optimiser step `(W', s') = Phi(W, grad_W L(W, R), s)`.

    Attributes:
        loss_fn: `(active, reads, *data) -> loss` or `(loss, aux)`.
        optimizer: any optax transformation; its state `s` is an argument of the step.
        axis_name: the mapped device axis to average over, if there is one.
    """

    loss_fn: LossFn
    optimizer: optax.GradientTransformation
    axis_name: str | None = None

    def loss(self, inputs: Inputs) -> tuple[Array, PyTree]:
        """Returns `(loss, aux)`, with `aux = ()` where the loss function has none."""
        out = self.loss_fn(inputs.active, inputs.reads, *inputs.data)
        return split_output(self.loss_fn, out)

    def update(
        self, active: PyTree, gradient: PyTree, opt_state: PyTree
    ) -> tuple[PyTree, PyTree]:
        """Returns `Phi(W, g, s) = (W', s')`."""
        return updated(self.optimizer, active, gradient, opt_state)

    def mean(self, tree: PyTree) -> PyTree:
        """Returns the mean over the step's device axis, if it has one."""
        return mean_over_devices(tree, self.axis_name)

    def value_and_gradient(self, inputs: Inputs) -> tuple[tuple[Array, PyTree], PyTree]:
        """Returns `((loss, aux), g)` with `g = grad_W L`; loss and `g` over devices."""

        def of_active(active: PyTree) -> tuple[Array, PyTree]:
            return self.loss(inputs._replace(active=active))

        (loss, aux), gradient = jax.value_and_grad(of_active, has_aux=True)(
            inputs.active
        )
        loss, gradient = self.mean((loss, gradient))
        return (loss, aux), gradient

    def gradient_of(self, inputs: Inputs) -> Callable[[PyTree], Inputs]:
        """Returns `W -> grad_(W, R, D) L` on this device's data, the other inputs fixed."""
        chosen, loss_of = self._loss_of_floats(inputs)

        def gradient(active: PyTree) -> Inputs:
            return jax.grad(loss_of, has_aux=True)(chosen._replace(active=active))[0]

        return gradient

    def _loss_of_floats(
        self, inputs: Inputs
    ) -> tuple[Inputs, Callable[[Inputs], tuple[Array, PyTree]]]:
        """Returns the inputs that are differentiated, and `(loss, aux)` as their function."""
        chosen, merge = partition(inputs, is_differentiable)
        return chosen, lambda chosen: self.loss(merge(chosen))

    def forward_and_gradient(
        self, inputs: Inputs, opt_state: PyTree
    ) -> tuple[tuple[PyTree, StepInfo], PyTree]:
        """Returns `((W', info), g)`, with the gradient that the step was taken along."""
        (loss, aux), gradient = self.value_and_gradient(inputs)
        new_active, opt_state = self.update(inputs.active, gradient, opt_state)
        return (new_active, StepInfo(opt_state, loss, aux)), gradient

    def forward(
        self, active: PyTree, reads: PyTree, opt_state: PyTree, *data: Any
    ) -> tuple[PyTree, StepInfo]:
        """Returns `(W', info)`: the step itself, differentiable by plain autodiff."""
        return self.forward_and_gradient(Inputs(active, reads, data), opt_state)[0]

    def forward_held(
        self, active: PyTree, reads: PyTree, opt_state: PyTree, *data: Any
    ) -> tuple[PyTree, StepInfo]:
        """Returns `forward` with the gradient held fixed; all else is differentiable."""
        inputs = Inputs(active, reads, data)
        loss, aux = self.loss(inputs)
        gradient = self.value_and_gradient(jax.lax.stop_gradient(inputs))[1]
        # The result too: the loss may close over traced values.
        gradient = jax.lax.stop_gradient(gradient)
        new_active, opt_state = self.update(active, gradient, opt_state)
        return new_active, StepInfo(opt_state, self.mean(loss), aux)

    def pull_back(
        self,
        inputs: Inputs,
        opt_state: PyTree,
        gradient: PyTree,
        cotangents: tuple[PyTree, StepInfo],
        product: MixedProduct,
    ) -> tuple[Inputs, PyTree]:
        """Returns the cotangents of the step's inputs and of its optimiser state.

        With cotangents `v` on `W'` and `v_s` on `s'`:

            (w_bar, u, s_bar) = vjp of Phi at (W, g, s) applied to (v, v_s)
            (h_W, h_R)        = d/dt grad_(W, R) L(W + t u, R) at t = 0
            W_bar = w_bar + h_W,    R_bar = h_R,    s_bar

        at the OLD `W`, on the data that made `W'`; float data count as reads. The loss
        and the auxiliary output are ordinary functions of the inputs and add their own
        pull-back where somebody differentiates them.

        Over devices, `v` is averaged first and the product is taken on local data; the
        caller averages the outermost gradient: mean(H_i v_i) is not mean(H) mean(v).
        The cotangent of per-device data is that of the device's own objective.

        Args:
            inputs: the step's active parameters, reads and data.
            opt_state: the old optimiser state `s`.
            gradient: `g`, as `value_and_gradient` returned it.
            cotangents: of `(W', info)`; `SymbolicZero` leaves mean "not asked for".
            product: `mixed_hvp`, or an approximation of it.

        Returns:
            `(inputs_bar, s_bar)`, with `None` for integers and keys in the inputs.
        """
        v, (v_s, loss_bar, aux_bar) = cotangents
        chosen, loss_of = self._loss_of_floats(inputs)

        # Skipped, not multiplied by zero: in an optimiser's derivative 0 * inf is NaN.
        if _all_zero((v, v_s)):
            inputs_bar = jax.tree.map(jnp.zeros_like, chosen)
            opt_state_bar = jax.tree.map(_zero_cotangent, opt_state)
        else:
            outputs, phi_vjp = jax.vjp(self.update, inputs.active, gradient, opt_state)
            step_bar = self.mean(materialize((v, v_s), outputs))
            w_bar, u, opt_state_bar = phi_vjp(step_bar)
            inputs_bar = product(self.gradient_of(inputs), inputs.active, u)
            active_bar = optax.tree.add(inputs_bar.active, w_bar)
            inputs_bar = inputs_bar._replace(active=active_bar)

        if not _all_zero((loss_bar, aux_bar)):
            (loss, aux), loss_vjp = jax.vjp(loss_of, chosen)
            loss_bar, aux_bar = materialize((loss_bar, aux_bar), (loss, aux))
            loss_bar = self.mean(loss_bar)
            inputs_bar = optax.tree.add(inputs_bar, loss_vjp((loss_bar, aux_bar))[0])
        return inputs_bar, opt_state_bar


def _all_zero(cotangents: PyTree) -> bool:
    """Returns whether nobody differentiates these outputs, known while tracing."""
    return all(
        isinstance(leaf, SymbolicZero) or jnp.result_type(leaf) == float0
        for leaf in jax.tree.leaves(cotangents)
    )


def _zero_cotangent(output: PyTree) -> PyTree:
    """Returns the zero cotangent of one leaf: float0 for integers and keys."""
    if is_differentiable(output):
        return jnp.zeros_like(output)
    return np.zeros(jnp.shape(output), float0)


def materialize(cotangents: PyTree, outputs: PyTree) -> PyTree:
    """Returns the cotangents with arrays in place of symbolic zeros."""
    return jax.tree.map(
        lambda output, cotangent: (
            _zero_cotangent(output)
            if isinstance(cotangent, SymbolicZero) or not is_differentiable(output)
            else cotangent
        ),
        outputs,
        cotangents,
    )
