"""Floor 1: implicit adjoints: the derivative of a solution, not of the way to it.

At a minimiser `W*` of `L(., R)` the implicit function theorem gives

    dW*/dR = -(d2L/dW dW)^-1 d2L/dW dR,

so a cotangent `v` of `W*` is pulled back to the reads as `R_bar = -d2L/dR dW . q` with
`H q = v`. The adjoints here differ in how they solve for `q`, and all of them stop early. They
take any `W'`, a solution or not, as one: nothing flows back to where it started from, to the
optimiser's state or to earlier steps. How well the equation was solved is reported as a
residual, see `Implicit`.
"""

import functools
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.custom_derivatives import SymbolicZero

from skillearn_jax.errors import InputError
from skillearn_jax.hypergrad.adjoints import Adjoint, Passes, StepFn
from skillearn_jax.hypergrad.mixed_hvp import mixed_hvp
from skillearn_jax.hypergrad.optimizer_step import (
    Inputs,
    OptimizerStep,
    StepInfo,
    materialize,
)
from skillearn_jax.hypergrad.refusals import (
    check_arrays,
    check_count,
    check_function,
    check_moved,
    check_number,
)
from skillearn_jax.hypergrad.solution import as_solution, closed_over_as_data
from skillearn_jax.tree import is_differentiable, like, partition, widen
from skillearn_jax.types import Array, LossFn, PyTree

_Cotangent = tuple[PyTree, PyTree]
"""Of the parameters and of the float leaves of the optimiser's state."""


class Implicit(Adjoint):
    """An adjoint that takes what the step returns for a solution.

    The functions that it attaches to take one more argument, `probe=`: a scalar that
    changes nothing and whose gradient is the relative residual of the linear equation
    that the pull-back solved. A pull-back has no other way to say something.

    The Hessian is that of the loss at `W'` on the data of the (last) step. It should be
    positive definite; where the residual stays large, the gradient means little.

    The residual speaks of the linear equation alone. That `W'` is a minimiser, a point of
    zero gradient, is taken on trust; and of the loss as `loss_fn` gives it: `Neumann` and
    `ConjugateGradient` do not see what the optimiser adds to it. With weight decay in the
    optimiser they are wrong at a residual of zero. Put the decay into the loss, or set
    `damping` to it (exact for plain L2 decay), or use `FixedPoint`, which differentiates
    the optimiser too.

    The result may be differentiated again, any number of times, in forward mode from the
    second on (so `jax.hessian`), and it may stand in a loss that an `Exact` step is taken
    on. Those derivatives take `W'` for a solution too; they are for one device.

    What the loss closes over is differentiated like its arguments; what the optimiser
    closes over, such as a traced learning rate, is not.
    """

    @property
    def passes(self) -> Passes:
        """A solution depends on the reads alone, not on how it was found."""
        return Passes(start=False, hyperparams=False)

    @abstractmethod
    def pull_back(
        self, step: OptimizerStep, inputs: Inputs, opt_state: PyTree, v: PyTree
    ) -> tuple[Inputs, Array]:
        """Returns the cotangent of the inputs, and the relative residual `[]`.

        Args:
            step: the optimiser step.
            inputs: the solution, the reads and the data.
            opt_state: as the step left it.
            v: cotangent of the solution, averaged over devices, at least float32.
        """

    def attach(self, step: OptimizerStep) -> StepFn:
        """Returns `step.forward` with the implicit derivative at its result."""

        def implicit(
            active: PyTree,
            reads: PyTree,
            opt_state: PyTree,
            *data: Any,
            probe: Array | None = None,
        ) -> tuple[PyTree, StepInfo]:
            found, info = step.forward_held(active, reads, opt_state, *data)
            info = info._replace(opt_state=jax.lax.stop_gradient(info.opt_state))
            explicit, data = closed_over_as_data(step, Inputs(active, reads, data))
            solution = as_solution(explicit, self.pull_back)
            found = solution(found, info.opt_state, reads, data, _zero(probe))
            return found, info

        return implicit


def check_probe(adjoint: Adjoint, probe: Array | None) -> None:
    """Raises `InputError` for a probe of an adjoint that does not take one."""
    if probe is not None and not isinstance(adjoint, Implicit):
        raise InputError(
            f"probe= is for implicit adjoints, and this one is {adjoint}: leave it out"
        )


def probe_argument(adjoint: Adjoint, probe: Array | None) -> dict[str, Any]:
    """Returns the keyword argument that hands a probe on, where an adjoint takes one."""
    return {"probe": probe} if isinstance(adjoint, Implicit) else {}


@dataclass(frozen=True)
class Neumann(Implicit):
    """A truncated Neumann series for the inverse Hessian.

        q = step * sum_{i < num_terms} (1 - step * H)^i v

    It converges for `0 < step < 2 / (largest eigenvalue of H)`. On a quadratic loss it
    equals the gradient through `num_terms` steps of gradient descent at that rate, taken
    from the solution.

    It is of the loss: an optimiser's weight decay is not in `H`, see `Implicit`.

    Attributes:
        num_terms: of the series; 1 is the one-step hypergradient of gradient descent,
            at the solution.
        step: of the series, in the units of a learning rate.

    Cost: `num_terms` Hessian-vector products, in a scan: on CPU, XLA runs JAX's
    derivatives of convolutions inside a scan many times slower than outside; not those
    of `layers.conv2d`.

    References:
        Lorraine, Vicol, Duvenaud 2020, Optimizing millions of hyperparameters by
        implicit differentiation, arXiv 1911.02590.
    """

    num_terms: int = 10
    step: float = 0.1

    def __post_init__(self) -> None:
        check_count("Neumann num_terms", self.num_terms)
        check_number("Neumann step", self.step)

    def pull_back(
        self, step: OptimizerStep, inputs: Inputs, opt_state: PyTree, v: PyTree
    ) -> tuple[Inputs, Array]:
        """See `Implicit.pull_back`."""
        hvp = functools.partial(_hvp, step, inputs)

        def add(
            carry: tuple[PyTree, PyTree], _: None
        ) -> tuple[tuple[PyTree, ...], None]:
            term, total = carry
            term = optax.tree.add_scale(term, -self.step, hvp(term))
            return (term, optax.tree.add(total, term)), None

        first = optax.tree.scale(self.step, v)
        (_, q), _ = jax.lax.scan(add, (first, first), length=self.num_terms - 1)
        return _mixed_product(step, inputs, q, v, damping=0.0)


@dataclass(frozen=True)
class ConjugateGradient(Implicit):
    """Conjugate gradients on `(H + damping) q = v`, from zero.

    After `num_steps` steps, `q` is the best of the Krylov space of that dimension in the
    norm of `H + damping`: in exact arithmetic the solution after as many steps as `H` has
    distinct eigenvalues. An optimiser's weight decay is not in `H`, see `Implicit`.

    Attributes:
        num_steps: at most; it stops where the residual reaches machine precision.
        damping: added to the Hessian; makes a slightly indefinite one definite, and stands
            for plain L2 weight decay of that size in the optimiser.

    Cost: `num_steps + 2` Hessian-vector products, in a loop; see `Neumann`.

    References:
        Pedregosa 2016, Hyperparameter optimization with approximate gradient,
        arXiv 1602.02355. The solver is that of `jax.scipy`.
    """

    num_steps: int = 10
    damping: float = 0.0

    def __post_init__(self) -> None:
        check_count("ConjugateGradient num_steps", self.num_steps)
        check_number("ConjugateGradient damping", self.damping, positive=False)

    def pull_back(
        self, step: OptimizerStep, inputs: Inputs, opt_state: PyTree, v: PyTree
    ) -> tuple[Inputs, Array]:
        """See `Implicit.pull_back`."""

        def damped(q: PyTree) -> PyTree:
            return optax.tree.add_scale(_hvp(step, inputs, q), self.damping, q)

        # The solver wants one type for all leaves.
        widest = jnp.result_type(jnp.float32, *jax.tree.leaves(v))
        v = optax.tree.cast(v, widest)
        eps = float(jnp.finfo(widest).eps)
        q, _ = jax.scipy.sparse.linalg.cg(damped, v, tol=eps, maxiter=self.num_steps)
        return _mixed_product(step, inputs, q, v, self.damping)


@dataclass(frozen=True)
class FixedPoint(Implicit):
    """The adjoint fixed-point iteration of the optimiser's own update map.

    A solution is a fixed point `z = (W, s) = Phi(z, R)` of the optimiser, its state
    included. With `J` the derivative of `Phi` in `z`,

        l_0 = v,    l_{i+1} = v + J^T l_i,    R_bar = (dPhi/dR)^T l_{num_steps - 1}.

    With gradient descent it is `Neumann(num_steps, rate)`; with momentum, preconditioning or
    decay it converges as the optimiser does. Second derivatives hold the state fixed: that
    of a solution seldom depends on the reads, momentum is zero there.

    Attributes:
        num_steps: of the iteration; 1 is the exact one-step hypergradient, at the
            solution.

    Cost: `num_steps` pull-backs of a step, in a scan; see `Neumann`.

    References:
        Grazzi, Franceschi, Pontil, Salzo 2020, On the iteration complexity of
        hypergradient computation, arXiv 2006.16218.
    """

    num_steps: int = 10

    def __post_init__(self) -> None:
        check_count("FixedPoint num_steps", self.num_steps)

    def pull_back(
        self, step: OptimizerStep, inputs: Inputs, opt_state: PyTree, v: PyTree
    ) -> tuple[Inputs, Array]:
        """See `Implicit.pull_back`."""
        outputs, gradient = step.value_and_gradient(inputs)
        unused = jax.tree.map(SymbolicZero.from_primal_value, outputs)

        def pulled(cotangent: _Cotangent) -> tuple[Inputs, _Cotangent]:
            """Returns the cotangent of the inputs, and the next iterate."""
            by_active, by_state = cotangent
            info = StepInfo(_as_cotangent(by_state, opt_state), *unused)
            moved = like(by_active, inputs.active), info
            bar, state_bar = step.pull_back(
                inputs, opt_state, gradient, moved, mixed_hvp
            )
            back, state_back = step.mean(widen((bar.active, _floats(state_bar))))
            return bar, (optax.tree.add(v, back), state_back)

        start = v, jax.tree.map(jnp.zeros_like, widen(_floats(opt_state)))
        last, _ = jax.lax.scan(
            lambda cotangent, _: (pulled(cotangent)[1], None),
            start,
            length=self.num_steps - 1,
        )
        bar, (after, _) = pulled(last)
        return bar._replace(active=None), _relative(optax.tree.sub(after, last[0]), v)


def at_solution(
    loss_fn: LossFn, adjoint: Neumann | ConjugateGradient, axis_name: str | None = None
) -> Callable[..., PyTree]:
    """Returns the function that gives a solution, however found, its derivative.

        solution(W*, R) = W*    with    d solution/dR = -H^-1 d2L/dW dR

        >>> import jax, jax.numpy as jnp
        >>> def inner(w, t):  # minimised by w = 3 / (1 + t)
        ...     return (1 + t) * w**2 / 2 - 3 * w
        >>> solution = at_solution(inner, ConjugateGradient())
        >>> slope = jax.grad(lambda t: solution(3 / (1 + jax.lax.stop_gradient(t)), t))
        >>> print(f"{slope(0.5):.4f}")  # -3 / 1.5^2
        -1.3333

    Args:
        loss_fn: `(active, reads, *data) -> loss: []` or `(loss, aux)`.
        adjoint: how the linear equation is solved. `FixedPoint` needs an optimiser: use
            it with `one_step` or `unroll`.
        axis_name: as in `one_step`.

    Returns:
        `(solution, reads, *data, probe=None) -> solution`; no gradient passes to the
        solution given. For `probe` see `Implicit`.

    Raises:
        InputError: for a loss that is no function, and another adjoint; when called, for
            solutions that are no real floats, and reads and data that are no arrays.

    Cost: forwards nothing; backwards as the adjoint says.
    """
    check_function("at_solution", "loss_fn", loss_fn)
    if not isinstance(adjoint, Neumann | ConjugateGradient):
        raise InputError(
            f"at_solution with {adjoint}; it must be Neumann or ConjugateGradient"
        )
    step = OptimizerStep(loss_fn, optax.identity(), axis_name)

    def solution(
        found: PyTree, reads: PyTree, *data: Any, probe: Array | None = None
    ) -> PyTree:
        check_moved("solution", found)
        check_arrays("reads", reads)
        check_arrays("data", data)
        explicit, data = closed_over_as_data(step, Inputs(found, reads, data))
        attached = as_solution(explicit, adjoint.pull_back)
        return attached(found, (), reads, data, _zero(probe))

    return solution


def _hvp(step: OptimizerStep, inputs: Inputs, q: PyTree) -> PyTree:
    """Returns `H q` over all devices, in the type of `q`."""

    def gradient(active: PyTree) -> PyTree:
        return jax.grad(lambda w: step.loss(inputs._replace(active=w))[0])(active)

    product = mixed_hvp(gradient, inputs.active, like(q, inputs.active))
    return step.mean(like(product, q))


def _mixed_product(
    step: OptimizerStep, inputs: Inputs, q: PyTree, v: PyTree, damping: float
) -> tuple[Inputs, Array]:
    """Returns `-d2L/d(R, D)dW . q` and how well `(H + damping) q = v` holds."""
    product = mixed_hvp(step.gradient_of(inputs), inputs.active, like(q, inputs.active))
    hessian_q = step.mean(like(product.active, q))
    error = optax.tree.sub(optax.tree.add_scale(hessian_q, damping, q), v)
    bar = optax.tree.scale(-1, product)
    return bar._replace(active=None), _relative(error, v)


def _relative(error: PyTree, v: PyTree) -> Array:
    """Returns `||error|| / ||v||`; zero where both are."""
    size = optax.tree.norm(v)
    return optax.tree.norm(error) / jnp.where(size == 0, 1, size)


def _floats(opt_state: PyTree) -> PyTree:
    """Returns the float leaves of an optimiser's state, `None` for the others."""
    return partition(opt_state, is_differentiable)[0]


def _as_cotangent(by_state: PyTree, opt_state: PyTree) -> PyTree:
    """Returns a full cotangent of the state, of its types, from its float leaves."""
    floats, merge = partition(opt_state, is_differentiable)
    return materialize(merge(like(by_state, floats)), opt_state)


def _zero(probe: Array | None) -> Array:
    return jnp.zeros(()) if probe is None else probe
