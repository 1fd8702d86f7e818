"""Floor 1: several look-ahead steps on several batches, and their memory."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import optax

from skillearn_jax.errors import InputError, check_choice
from skillearn_jax.hypergrad.adjoints import Adjoint, Autodiff, Exact, StepFn
from skillearn_jax.hypergrad.implicit import Implicit, check_probe, probe_argument
from skillearn_jax.hypergrad.loss_output import function_name
from skillearn_jax.hypergrad.one_step import one_step
from skillearn_jax.hypergrad.optimizer_step import StepInfo
from skillearn_jax.hypergrad.refusals import (
    check_adjoint,
    check_count,
    check_function,
    check_moved,
    check_optimizer,
)
from skillearn_jax.types import Array, LossFn, PyTree

Loop = Literal["auto", "scan", "python"]

Body = Callable[[Any, Any], tuple[Any, Any]]
"""`(carry, one step's data) -> (carry, output)`, as in `jax.lax.scan`."""


@dataclass(frozen=True)
class Steps:
    """Several optimiser steps, one a batch: how the solution of a stage is found.

    The derivative through them stores the parameters and the optimiser's state at the
    start of each segment and computes a segment's steps again when it gets there: with k
    steps in segments of s, about `k / s + s` copies are alive at a time, the least of
    which, `2 sqrt(k)`, is the default.

    Attributes:
        num_steps: k; the data have a leading axis of this length.
        segment: s, steps between two stored points; `num_steps` stores all of them and
            computes nothing twice. By default about `sqrt(num_steps)`.
        loop: `"scan"` compiles one step and loops over it, `"python"` writes all steps
            out and leaves to XLA when it computes what again, so that memory may grow
            faster. `"auto"` writes them out on CPU, where XLA runs JAX's derivatives of
            convolutions inside a scan more than ten times slower than outside.
    """

    num_steps: int
    segment: int | None = None
    loop: Loop = "auto"

    def __post_init__(self) -> None:
        check_count("Steps num_steps", self.num_steps)
        if self.segment is not None:
            check_count("Steps segment", self.segment)
            if self.segment > self.num_steps:
                raise InputError(
                    f"Steps segment is {self.segment}; it must be 1 to num_steps, "
                    f"{self.num_steps}"
                )
        check_choice("Steps loop", self.loop, get_args(Loop))

    def run(
        self,
        adjoint: Adjoint,
        body_of: Callable[[Adjoint], Body],
        carry: Any,
        data: Any,
    ) -> tuple[Any, Any]:
        """Returns `(carry, outputs)` after all steps; outputs have a leading axis k.

        Args:
            adjoint: of each step. An implicit one differentiates the last step alone, so
                that the others are taken without a derivative.
            body_of: `adjoint -> body`, the step with that adjoint.
            carry: what goes from step to step.
            data: leading axis k.

        Raises:
            InputError: if the data have another leading axis.
        """
        for path, leaf in jax.tree.leaves_with_path(data):
            if jnp.shape(leaf)[:1] != (self.num_steps,):
                raise InputError(
                    f"data{jax.tree_util.keystr(path)} has shape {jnp.shape(leaf)}, but "
                    f"{self.num_steps} steps need a leading axis of {self.num_steps}"
                )
        if not isinstance(adjoint, Implicit):
            return self._segments(body_of(adjoint), carry, data, self.num_steps)
        before, last = _part(data, 0, -1), jax.tree.map(lambda leaf: leaf[-1], data)
        if self.num_steps == 1:
            return _written_out(body_of(adjoint), carry, data, 1)
        carry, early = jax.lax.stop_gradient(
            self._segments(body_of(Autodiff()), carry, before, self.num_steps - 1)
        )
        carry, output = body_of(adjoint)(carry, last)
        return carry, _joined(
            early, jax.tree.map(lambda x: jnp.asarray(x)[None], output)
        )

    def _segments(
        self, body: Body, carry: Any, data: Any, count: int
    ) -> tuple[Any, Any]:
        """Takes `count` steps in rematerialised segments."""
        length = min(self.segment or math.isqrt(count - 1) + 1, count)
        scans = self.loop == "scan" or (
            self.loop == "auto" and jax.default_backend() != "cpu"
        )
        loop = jax.lax.scan if scans else _written_out

        def segment_of(steps: int) -> Body:
            def segment(carry: Any, data: Any) -> tuple[Any, Any]:
                return loop(body, carry, data, steps)

            return jax.checkpoint(segment) if length < count else segment

        # Segments of equal length in a loop, then what is left over.
        left = count % length
        whole = count - left
        folded = jax.tree.map(
            lambda leaf: leaf[:whole].reshape(-1, length, *leaf.shape[1:]), data
        )
        carry, outputs = loop(segment_of(length), carry, folded, whole // length)
        outputs = jax.tree.map(lambda x: x.reshape(whole, *x.shape[2:]), outputs)
        if not left:
            return carry, outputs
        carry, rest = segment_of(left)(carry, _part(data, whole, count))
        return carry, _joined(outputs, rest)


def unroll(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    adjoint: Adjoint = Exact(),
    axis_name: str | None = None,
    *,
    segment: int | None = None,
    loop: Loop = "auto",
) -> StepFn:
    """Returns several optimiser steps as one function that gradients flow through.

        (W_{i+1}, s_{i+1}) = Phi(W_i, grad_W loss_fn(W_i, R, *data[i]), s_i),
        i = 0 .. num_steps - 1

    It is `one_step` composed with itself; what it adds is the bookkeeping of batches and
    of memory. With an implicit adjoint the steps are a solver: the derivative is that of
    a solution, at `W_k`, on the last batch.

        >>> import jax, jax.numpy as jnp, optax
        >>> def inner(w, a, x):
        ...     return (w - a * x) ** 2 / 2
        >>> step = unroll(inner, optax.sgd(0.5), num_steps=2)
        >>> batches = jnp.array([1.0, 2.0])
        >>> slope = jax.grad(lambda a: step(0.0, a, optax.sgd(0.5).init(0.0), batches)[0])
        >>> print(slope(3.0))  # 0.5 * (0.5 * 1 + 2)
        1.25

    Args:
        loss_fn: as in `one_step`.
        optimizer: as in `one_step`.
        num_steps: steps, each on a batch of its own.
        adjoint: of each step: `Exact()`, `FiniteDifference(radius)`, `FirstOrder(at)`,
            `Autodiff()`, or of the solution: `Neumann(num_terms, step)`,
            `ConjugateGradient(num_steps, damping)`, `FixedPoint(num_steps)`.
        axis_name: as in `one_step`.
        segment: steps between stored points, see `Steps`.
        loop: see `Steps`.

    Returns:
        `step(active, reads, opt_state, *stacked_data) -> (new_active, StepInfo)`, all data
        with a leading axis `num_steps`, the loss and the auxiliary output too. Without
        data every step is taken on the same loss. With an implicit adjoint it takes
        `probe=` too, see `Implicit`, and of the losses the last alone has a derivative.

    Raises:
        InputError: as `one_step`, and for numbers of steps that cannot be; when called,
            for data with another leading axis, and as a step does.

    Cost: forwards `num_steps` gradients. Backwards, with `Exact`, as many products of two
    gradients each and once more the forward pass; memory about `2 sqrt(num_steps)` copies
    of parameters and state, with implicit adjoints that of one step. So it is in a scan;
    written out, as on CPU unless `loop` says otherwise, XLA may keep a copy for every step.

    References:
        Franceschi, Donini, Frasconi, Pontil 2017, Forward and reverse gradient-based
        hyperparameter optimization, arXiv 1703.01785.
    """
    check_function("unroll", "loss_fn", loss_fn)
    name = f"unroll of {function_name(loss_fn)}"
    check_optimizer(name, optimizer)
    check_adjoint(name, adjoint)
    solver = Steps(num_steps, segment, loop)

    def step(
        active: PyTree,
        reads: PyTree,
        opt_state: PyTree,
        *stacked_data: Any,
        probe: Array | None = None,
    ) -> tuple[PyTree, StepInfo]:
        check_moved("active", active)
        check_probe(adjoint, probe)

        def body_of(adjoint: Adjoint) -> Body:
            one = one_step(loss_fn, optimizer, adjoint, axis_name)
            told = probe_argument(adjoint, probe)

            def body(carry: Any, data: Any) -> tuple[Any, Any]:
                new_active, info = one(carry[0], reads, carry[1], *data, **told)
                return (new_active, info.opt_state), (info.loss, info.aux)

            return body

        active, opt_state = jax.tree.map(jnp.asarray, (active, opt_state))
        (active, opt_state), (loss, aux) = solver.run(
            adjoint, body_of, (active, opt_state), stacked_data
        )
        return active, StepInfo(opt_state, loss, aux)

    return step


def _part(tree: PyTree, start: int, stop: int) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[start:stop], tree)


def _joined(first: PyTree, second: PyTree) -> PyTree:
    """Returns two trees, one after the other along the leading axis."""
    return jax.tree.map(lambda x, y: jnp.concatenate((x, y)), first, second)


def _written_out(body: Body, carry: Any, data: Any, length: int) -> tuple[Any, Any]:
    """Returns what `jax.lax.scan` does, without a loop in the compiled program."""
    outputs = []
    for index in range(length):
        carry, output = body(carry, jax.tree.map(lambda leaf, i=index: leaf[i], data))
        outputs.append(output)
    return carry, jax.tree.map(lambda *leaves: jnp.stack(leaves), *outputs)
