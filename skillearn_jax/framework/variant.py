"""Floor 2: a program under another adjoint, which may leave sets without a gradient."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING

from skillearn_jax.errors import InputError
from skillearn_jax.hypergrad import Adjoint

if TYPE_CHECKING:
    from skillearn_jax.framework.program import Program


def under(program: Program, adjoint: Adjoint) -> tuple[Program | None, list[str]]:
    """Returns the program with one adjoint, and a line for what has to be left out.

    Sets that the adjoint leaves without a path to the objective rest; where nothing can
    be compared at all, there is no program.

    Args:
        program: with a validation stage.
        adjoint: for every training stage.
    """
    try:
        return program.with_adjoint(adjoint), []
    except InputError as error:
        left_out = [f"{adjoint!r} left out: {error}"]
    validation = program.validation
    assert validation is not None
    kept, reasons = list(validation.direct), []
    for name in validation.indirect:
        try:
            _moving(program, adjoint, (*validation.direct, name))
        except InputError as error:
            reasons.append(f"{adjoint!r} has no rows of {name!r}: {error}")
        else:
            kept.append(name)
    if not kept:
        return None, left_out
    try:
        return _moving(program, adjoint, kept), reasons
    except InputError:  # about the adjoint, whatever moves
        return None, left_out


def _moving(program: Program, adjoint: Adjoint, names: Collection[str]) -> Program:
    """Returns the program with one adjoint, in which other supporting sets rest."""
    validation = program.validation
    assert validation is not None
    rest = [name for name in validation.supporting if name not in names]
    moving = replace(
        validation,
        minimize={n: of for n, of in validation.minimize.items() if n in names},
        maximize={n: of for n, of in validation.maximize.items() if n in names},
        indirect=tuple(name for name in validation.indirect if name in names),
    )
    resting = program.replace(validation=moving, frozen=(*program.frozen, *rest))
    return resting.with_adjoint(adjoint)
