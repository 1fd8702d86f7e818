"""Floor 2: a program in words: its levels, who reads what, where gradients flow."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from skillearn_jax.framework import graph
from skillearn_jax.hypergrad.loss_output import function_name
from skillearn_jax.tracing import is_traced

if TYPE_CHECKING:
    from skillearn_jax.framework.objective import Objective
    from skillearn_jax.framework.program import Program
    from skillearn_jax.framework.stage import Stage


_MOST_PATHS = 40
"""Of one set: they may double with each stage."""


def describe(program: Program) -> str:
    """Returns the text that `print(program)` shows."""
    count = len(program.stages)
    title = f"{count} training stage{'s' if count > 1 else ''}"
    if program.validation is not None:
        title += f", then validation; commit {program.commit}"
    lines = [title]
    for learner in program.learners:
        task = f": {learner.task}" if learner.task else ""
        lines.append(f"  learner {learner.name}{task}")
        lines.append(f"    holds    {_names(learner.sets)}")
    for index, stage in enumerate(program.stages, start=1):
        lines += _describe_stage(program, stage, index)
    lines += _describe_validation(program)
    if program.frozen:
        lines.append(f"  frozen     {_names(program.frozen)}")
    if program.after is not None:
        lines.append(f"  at the end {function_name(program.after)}")
    return "\n".join(lines)


def _describe_stage(program: Program, stage: Stage, index: int) -> list[str]:
    lines = [f"  stage {index}  {stage.name}"]
    active = graph.active_learners(program, stage)
    if active:
        lines.append(f"    active   {_names(active)}")
    starts = {
        target: f" from {_primed(program, stage, (source,), index)[0]}"
        for target, source in stage.start.items()
    }
    moves = [name + starts.get(name, "") for name in stage.moves]
    fresh = ", its optimizer anew" if stage.restart else ""
    lines.append(f"    moves    {_names(moves)}{fresh}")
    if stage.hyperparams is not None:
        cut = "" if stage.adjoint.passes.hyperparams else f"  (cut: {stage.adjoint})"
        lines.append(
            f"    tunes    its optimizer by {function_name(stage.hyperparams)}{cut}"
        )
    lines += _describe_objective(program, stage, index)
    if stage.solver is not None:
        lines.append(f"    solver   {stage.solver}")
    lines.append(f"    adjoint  {stage.adjoint}")
    return lines


def _describe_validation(program: Program) -> list[str]:
    validation = program.validation
    if validation is None:
        return []
    lines = ["  validation"]
    if validation.minimize:
        lines.append(f"    minimize {_names(validation.minimize)}")
    if validation.maximize:
        lines.append(f"    maximize {_names(validation.maximize)}")
    if len(validation.supporting) > 1:
        lines.append(f"    order    {validation.order}")
    lines += _describe_objective(program, validation, len(program.stages) + 1)
    if validation.before:
        lines.append(f"    and old  {_names(validation.before)}")
    lines.append("  gradients flow")
    for name in validation.supporting:
        chains = graph.paths(program, name, _MOST_PATHS + 1)
        for chain in chains[:_MOST_PATHS]:
            way = " -> ".join((name, *chain, "objective"))
            lines.append(f"    {way}{'' if chain else '  (direct)'}")
        if len(chains) > _MOST_PATHS:
            lines.append(f"    {name} -> ...  (and more ways)")
        for stage in program.stages:
            if name in stage.detached:
                lines.append(f"    {name} -> {stage.name}  (cut: held fixed)")
            unpassed = name in stage.attached and not graph.passes_reads(stage)
            begun = name in stage.start.values() and not stage.adjoint.passes.start
            if unpassed or begun:
                lines.append(f"    {name} -> {stage.name}  (cut: {stage.adjoint})")
    return lines


def _describe_objective(program: Program, part: Objective, index: int) -> list[str]:
    lines = [f"    loss     {_call(part.loss_fn, part.data)}"]
    if part.reads:
        lines.append(
            f"    reads    {_names(_primed(program, part, part.reads, index))}"
        )
    if part.interaction is not None:
        call = _call(part.interaction, part.interaction_data)
        weight = part.interaction_weight
        shown = "traced" if is_traced(weight) else f"{weight:g}"
        lines.append(f"    interact {shown} x {call}")
        if part.interaction_reads:
            names = _primed(program, part, part.interaction_reads, index)
            lines.append(f"     reads   {_names(names)}")
    return lines


def _primed(
    program: Program, part: Objective, names: tuple[str, ...], index: int
) -> list[str]:
    """Marks with a prime the sets that an earlier stage has moved: `weights'`."""
    earlier = {name for s in program.stages[: index - 1] for name in s.moves}
    primed = [name + "'" if name in earlier else name for name in names]
    return [
        f"{shown} (held fixed)" if name in part.detached else shown
        for name, shown in zip(names, primed, strict=True)
    ]


def _call(fn: object, data: tuple[str, ...]) -> str:
    name = function_name(fn)
    return f"{name} on {_names(data)}" if data else name


def _names(names: Iterable[str]) -> str:
    return ", ".join(names)
