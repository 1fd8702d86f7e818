"""Floor 2: compares a program's hypergradient with plain autodiff, leaf by leaf."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np
from jax.interpreters.partial_eval import dce_jaxpr

from skillearn_jax.errors import InputError
from skillearn_jax.framework import gains
from skillearn_jax.framework.graph import VALIDATION
from skillearn_jax.hypergrad import Autodiff, Exact, FiniteDifference
from skillearn_jax.tree import by_path
from skillearn_jax.types import Array

if TYPE_CHECKING:
    from skillearn_jax.framework.program import Program
    from skillearn_jax.framework.state import Batches, Copies, State


FAR = 0.01
"""The relative error of a program's own hypergradient that is worth a warning."""


class CheckRow(NamedTuple):
    """One leaf of one supporting set under one adjoint.

    Attributes:
        adjoint: `"program"`, `"exact"` or `"finite difference"`.
        leaf: the path of the leaf, beginning with the name of its set.
        norm: Euclidean norm of its hypergradient by plain autodiff.
        rel_error: `||g - autodiff|| / ||autodiff||`; of a zero gradient, infinite or 0.
        cosine: of the angle between the two.
    """

    adjoint: str
    leaf: str
    norm: float
    rel_error: float
    cosine: float

    @property
    def warning(self) -> str:
        """What is suspicious about the row; empty if nothing is."""
        far = self.adjoint == "program" and self.rel_error > FAR
        return suspicion(self.norm, self.rel_error) or (
            "far from autodiff: the program's own adjoints approximate" if far else ""
        )


def suspicion(norm: float, rel_error: float) -> str:
    """Returns what is suspicious about a hypergradient; empty if nothing is.

    Args:
        norm: by plain autodiff.
        rel_error: of another hypergradient against it.
    """
    # An error relative to zero is infinite, and says nothing of the optimiser.
    total = norm + rel_error
    if math.isnan(total) or (math.isinf(total) and norm != 0):
        return "not finite; a common cause is Adam without eps_root > 0"
    if norm == 0:
        return "zero by autodiff: no gradient arrives here"
    return ""


class CheckReport(NamedTuple):
    """A check; `print(report)` shows it as a table.

    Attributes:
        rows: one for each adjoint and leaf.
        warnings: a line for each stage that passes (almost) no response term, and for
            each supporting set that the objective is given and never reads.
    """

    rows: tuple[CheckRow, ...]
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        width = max((len(row.leaf) for row in self.rows), default=len("leaf"))
        head = (
            f"{'adjoint':<18}{'leaf':<{width}}  {'norm':>10}{'rel. error':>12}  cosine"
        )
        lines = [head, "-" * len(head)]
        for row in self.rows:
            lines.append(
                f"{row.adjoint:<18}{row.leaf:<{width}}  {row.norm:>10.3e}"
                f"{row.rel_error:>12.1e}  {row.cosine:.6f}"
                + (f"  ! {row.warning}" if row.warning else "")
            )
        return "\n".join((*lines, *(f"! {line}" for line in self.warnings)))


def check(
    program: Program, state: State, batches: Batches, radius: float = 0.01
) -> CheckReport:
    """Returns how far the hypergradient is from plain autodiff, leaf by leaf.

    Takes the hypergradient at `state` four times: with the program's own adjoints, with
    `Exact()` and with `FiniteDifference(radius)` in every stage, each against
    `Autodiff()`, reverse mode through the whole composition.

    Args:
        program: a program with a validation stage.
        state: from `init` or `step`.
        batches: as for `step`.
        radius: of the finite difference.

    Cost: four hypergradients and the optimisers' gains, compiled: for small problems.
    """
    variants = {
        "program": program,
        "exact": program.with_adjoint(Exact()),
        "finite difference": program.with_adjoint(FiniteDifference(radius)),
    }
    if program.axis_name is not None:
        raise InputError(
            f"check a program without axis_name={program.axis_name!r}: it needs no devices"
        )
    reference = _leaves(program.with_adjoint(Autodiff()), state, batches)
    rows = []
    for name, variant in variants.items():
        for leaf, value in _leaves(variant, state, batches).items():
            rows.append(_compare(name, leaf, value, reference[leaf]))
    lines = (
        f"the objective never reads {name!r}: name it in Validation(indirect=...)"
        for name in unread(program, state, batches)
    )
    return CheckReport(tuple(rows), (*gains.warnings(program, state, batches), *lines))


def unread(program: Program, state: State, batches: Batches) -> tuple[str, ...]:
    """Returns the supporting sets that the objective is given and never reads.

    They belong in `Validation(indirect=...)`: the printout, and the refusal of a set
    without any path, go by what is declared.

    Args:
        program: a program with a validation stage.
        state: from `init` or `step`, for its shapes.
        batches: as for `step`, likewise.

    Cost: the objective and its look-ahead are traced; nothing is computed.
    """

    def objective(copies: Copies) -> Array:
        return program._objective(copies, {}, state, batches)[0]

    copies = program._copies(state.params)
    jaxpr = jax.make_jaxpr(objective)(copies).jaxpr
    _, used = dce_jaxpr(jaxpr, [True])
    read = jax.tree.unflatten(jax.tree.structure(copies), used)[VALIDATION]
    return tuple(
        name
        for name, of_leaves in read.items()
        if (leaves := jax.tree.leaves(of_leaves)) and not any(leaves)
    )


def _leaves(program: Program, state: State, batches: Batches) -> dict[str, Array]:
    grads, _ = jax.jit(program.hypergrad)(state, batches)
    return by_path(grads)


def _compare(adjoint: str, leaf: str, value: Array, truth: Array) -> CheckRow:
    # In float64: a comparison adds no error, and no square underflows.
    got, want = (np.asarray(x, np.float64).ravel() for x in (value, truth))
    norm, value_norm = np.linalg.norm(want), np.linalg.norm(got)
    error = np.linalg.norm(got - want)
    # Of a zero vector there is no angle: equal counts as parallel, unequal as not.
    either_zero = norm == 0 or value_norm == 0
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = 0.0 if error == 0 else error / norm
        cosine = error == 0 if either_zero else got @ want / (norm * value_norm)
    return CheckRow(adjoint, leaf, float(norm), float(relative), float(cosine))
