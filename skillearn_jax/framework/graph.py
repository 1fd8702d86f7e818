"""Floor 2: who moves what, who reads what, and where gradients flow."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from skillearn_jax.framework.objective import Objective
from skillearn_jax.framework.stage import Stage

if TYPE_CHECKING:
    from skillearn_jax.framework.program import Program

VALIDATION = "validation"
"""The name of the validation stage; no training stage may take it."""


def known_sets(program: Program) -> tuple[str, ...]:
    """Returns the names of all parameter sets: moved, supporting, frozen."""
    moved = (name for stage in program.stages for name in stage.moves)
    return _unique((*moved, *supporting_sets(program), *program.frozen))


def streams(program: Program) -> tuple[str, ...]:
    """Returns the names of all data streams that the program reads."""
    return _unique(name for part in parts(program).values() for name in part.all_data)


def paths(
    program: Program, name: str, most: int | None = None
) -> list[tuple[str, ...]]:
    """Returns the chains of stages through which a supporting set reaches the objective.

    A chain lists stage names; the empty chain is the direct path. Stages whose adjoint
    passes no gradient to what they read end a chain before it starts. In a program in
    which every stage reads all earlier ones their number doubles with each stage: of
    many, the first `most` are returned.
    """
    return list(itertools.islice(_paths(program, name), most))


def _paths(program: Program, name: str) -> Iterator[tuple[str, ...]]:
    validation = program.validation
    assert validation is not None
    if name in validation.direct:
        yield ()
    for index, stage in enumerate(program.stages):
        if takes(stage, name):
            yield from _chains_from(program, index)


def passes_reads(stage: Stage) -> bool:
    """Returns whether gradient flows from a stage's result to what it reads.

    At first order it may flow to the reads that tune the optimiser, whichever those are.
    """
    if stage.adjoint.passes.reads:
        return True
    return stage.hyperparams is not None and stage.adjoint.passes.hyperparams


def takes(stage: Stage, name: str) -> bool:
    """Returns whether gradient flows from a stage's result to a set, as a read or start."""
    if name in stage.attached and passes_reads(stage):
        return True
    return name in stage.start.values() and stage.adjoint.passes.start


def active_learners(program: Program, stage: Stage) -> tuple[str, ...]:
    """Returns the names of the learners whose sets a stage's training loss reads.

    That is one learner, or several that share all the sets read; if no learner has them
    all, it is everyone who has any.
    """
    touched = learned_sets(program, stage)
    holders = [x.name for x in program.learners if touched <= set(x.sets)]
    meeting = [x.name for x in program.learners if touched & set(x.sets)]
    return tuple(holders or meeting) if touched else ()


def learned_sets(program: Program, stage: Stage) -> set[str]:
    """Returns the sets of learners that a stage's training loss moves or reads."""
    owned = {name for learner in program.learners for name in learner.sets}
    return {*stage.moves, *stage.reads} & owned


def _chains_from(program: Program, index: int) -> Iterator[tuple[str, ...]]:
    """Yields the chains from the result of stage `index` to the objective."""
    later, arrives = _readers(program, index)
    name = program.stages[index].name
    for k in later:
        for chain in _chains_from(program, k):
            yield (name, *chain)
    if arrives:
        yield (name,)


def arriving_stages(program: Program) -> set[int]:
    """Returns the stages whose result reaches the objective, through others or not."""
    arriving: set[int] = set()
    for index in reversed(range(len(program.stages))):
        later, arrives = _readers(program, index)
        if arrives or arriving & set(later):
            arriving.add(index)
    return arriving


def _readers(program: Program, index: int) -> tuple[list[int], bool]:
    """Returns the later stages that take gradient to a result, and if validation does."""
    assert program.validation is not None
    alive = set(program.stages[index].moves)  # names that still hold the result
    readers = []
    for later_index in range(index + 1, len(program.stages)):
        later = program.stages[later_index]
        starts = {later.start.get(name, name) for name in later.moves}
        continues = alive & starts and later.adjoint.passes.start
        if continues or (alive & set(later.attached) and passes_reads(later)):
            readers.append(later_index)
        alive -= set(later.moves)
    return readers, bool(alive & set(program.validation.attached))


def supporting_sets(program: Program) -> tuple[str, ...]:
    """Returns the names of the sets that the validation stage moves."""
    return tuple(program.validation.supporting) if program.validation else ()


def parts(program: Program) -> dict[str, Objective]:
    """Returns the training stages and the validation stage by name."""
    parts: dict[str, Objective] = {stage.name: stage for stage in program.stages}
    if program.validation is not None:
        parts[VALIDATION] = program.validation
    return parts


def _unique(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))
