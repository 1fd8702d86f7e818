"""Floor 2: what a program refuses: what cannot be meant, at construction and before a step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args

import jax
import jax.numpy as jnp

from skillearn_jax.errors import InputError, check_choice
from skillearn_jax.framework.graph import (
    VALIDATION,
    active_learners,
    arriving_stages,
    known_sets,
    learned_sets,
    parts,
    streams,
    supporting_sets,
    takes,
)
from skillearn_jax.framework.objective import check_names
from skillearn_jax.framework.stage import Commit, Learner, Stage, Validation
from skillearn_jax.framework.state import State
from skillearn_jax.hypergrad import FirstOrder
from skillearn_jax.hypergrad.loss_output import function_name
from skillearn_jax.hypergrad.refusals import (
    check_arrays,
    check_function,
    check_moved,
    check_opt_state,
)
from skillearn_jax.tree import form
from skillearn_jax.types import Array, Metrics

if TYPE_CHECKING:
    from skillearn_jax.framework.program import Program


def check_program(program: Program) -> None:
    """Raises `InputError`, with the names, for a program that cannot be meant."""
    if not isinstance(program.stages, tuple | list) or not program.stages:
        raise InputError(
            "a program needs a tuple of training stages, at least one: (stage,)"
        )
    for stage in program.stages:
        if not isinstance(stage, Stage):
            raise InputError(
                f"stages has a {type(stage).__name__}; it must be a tuple of Stage(...): "
                "a validation stage goes into validation="
            )
    if not isinstance(program.validation, Validation | None):
        raise InputError(
            f"validation={program.validation!r}; it must be a Validation(...) or None"
        )
    learners = program.learners
    if not isinstance(learners, tuple | list) or not all(
        isinstance(learner, Learner) for learner in learners
    ):
        raise InputError(
            f"learners={learners!r}; it must be a tuple of Learner(...), of one too: "
            "(learner,)"
        )
    check_names("frozen", program.frozen)
    check_choice("commit", program.commit, get_args(Commit))
    check_function("the program", "after", program.after, optional=True)
    _check_names(program)
    _check_owners(program)
    _check_reads(program)
    _check_commit(program)
    _check_streams(program)
    _check_learners(program)
    if program.validation is not None:
        arriving = arriving_stages(program)
        for name in program.validation.supporting:
            if name not in program.validation.direct and not any(
                takes(stage, name) and index in arriving
                for index, stage in enumerate(program.stages)
            ):
                raise InputError(
                    f"supporting set {name!r} has no path to the objective: no stage "
                    "whose result the objective depends on reads it with a gradient"
                )


def check_params(
    program: Program, params: Mapping[str, Any], model_state: Mapping[str, Any] | None
) -> None:
    """Raises `InputError` unless `params` are the program's sets and fit its stages.

    Moved sets hold floats, and a set that starts from another one is like it. Model
    states hold arrays and numbers.
    """
    if not isinstance(params, Mapping):
        raise InputError(
            f"params is a {type(params).__name__}; it must map the sets' names to them"
        )
    if not isinstance(model_state, Mapping | None):
        raise InputError(
            f"model_state is a {type(model_state).__name__}; it must map the model "
            "states' names to them"
        )
    check_arrays("model_state", model_state)
    known = set(known_sets(program))
    missing, extra = sorted(known - set(params)), sorted(set(params) - known)
    if missing:
        raise InputError(f"params lack the sets {missing}; given are {sorted(params)}")
    if extra:
        raise InputError(
            f"nobody moves or reads the sets {extra}; the program's are {sorted(known)}"
        )
    for name in sorted(known):
        if params[name] is None:  # to JAX a tree without leaves
            raise InputError(
                f"params[{name!r}] is None; a set holds arrays and numbers: give it its "
                "value, as an array or a tree of arrays"
            )
        check = check_arrays if name in program.frozen else check_moved
        check(f"params[{name!r}]", params[name])
    for stage in program.stages:
        for target, source in stage.start.items():
            if form(params[target]) != form(params[source]):
                raise InputError(
                    f"stage {stage.name!r} starts {target!r} from {source!r}, but their "
                    f"structures, shapes or types differ: {_shown(params[target])} and "
                    f"{_shown(params[source])}"
                )


def check_key(key: Any) -> None:
    """Raises `InputError` unless JAX takes a key for one."""
    try:
        jax.eval_shape(lambda: jax.random.fold_in(key, 0))
    except (TypeError, ValueError) as error:
        shown = " ".join(repr(key).split())  # of several keys it has as many lines
        raise InputError(f"key={shown}; it must be one as jax.random.key(0)") from error


def check_inputs(program: Program, state: State, batches: Mapping[str, Any]) -> None:
    """Raises `InputError` for a state of another program or a stream that is missing."""
    if not isinstance(state, State):
        raise InputError(
            f"the state is a {type(state).__name__}; take one from this program's init"
        )
    if not isinstance(batches, Mapping):
        raise InputError(
            f"batches is a {type(batches).__name__}; it must map the streams' names, "
            f"{sorted(streams(program))}, to what is read of them"
        )
    for what, needed, given in (
        ("sets", set(known_sets(program)), set(state.params)),
        ("optimizer states", set(parts(program)), set(state.opt_states)),
    ):
        if not needed <= given:
            raise InputError(
                f"the state lacks the {what} {sorted(needed - given)}; it has "
                f"{sorted(given)}: take one from this program's init"
            )
    for stage in program.stages:
        check_opt_state(
            f"the optimizer state of stage {stage.name!r}",
            stage.transformation,
            {name: state.params[name] for name in stage.moves},
            state.opt_states[stage.name],
        )
    supporting = program.validation.supporting if program.validation else {}
    for name, optimizer in supporting.items():
        check_opt_state(
            f"the optimizer state of {name!r}",
            optimizer,
            state.params[name],
            state.opt_states[VALIDATION].get(name),
        )
    for reader, part in parts(program).items():
        for name in part.all_data:
            if name not in batches:
                raise InputError(
                    f"{reader!r} reads the stream {name!r}, but no batch provides it; "
                    f"given are {sorted(batches)}"
                )
            check_arrays(f"batches[{name!r}]", batches[name])


def check_model_state(new: Mapping[str, Any], old: Mapping[str, Any]) -> None:
    """Raises `InputError` for model states that a stage may not return."""
    unknown = set(new) - set(old)
    if unknown:
        raise InputError(
            f"it returned model states {sorted(unknown)}, but init was given "
            f"{sorted(old)}"
        )
    for name, value in new.items():
        if form(value) != form(old[name]):
            raise InputError(
                f"it returned the model state {name!r} in another form: "
                f"{_shown(value)} for {_shown(old[name])}"
            )


def check_after(
    program: Program, result: tuple[State, Metrics]
) -> tuple[State, Metrics]:
    """Returns what ended a step; raises `InputError` unless that is `(state, metrics)`."""
    kinds = tuple(map(type, result)) if type(result) is tuple else (type(result),)
    if len(kinds) != 2 or kinds[0] is not State or not issubclass(kinds[1], Mapping):
        found = ", ".join(kind.__name__ for kind in kinds)
        raise InputError(
            f"after={function_name(program.after)} returned {found}; it must return "
            "(state, metrics), as it is given them"
        )
    return result


def merged(first: Metrics, second: Metrics) -> dict[str, Array]:
    """Returns metrics of two parts of a program; raises `InputError` for a shared name."""
    doubled = sorted(first.keys() & second.keys())
    if doubled:
        raise InputError(
            f"the metrics {doubled} are given twice, by stages whose names and metrics "
            "join to one: rename a stage or a metric"
        )
    return {**first, **second}


def _check_names(program: Program) -> None:
    for name, count in Counter(stage.name for stage in program.stages).items():
        if count > 1:
            raise InputError(f"{count} stages are named {name!r}; names must differ")
        if name == VALIDATION:
            raise InputError(f"a training stage may not be named {VALIDATION!r}")


def _check_owners(program: Program) -> None:
    """Every set has one owner: training stages, the validation stage, or nobody."""
    moved = {name for stage in program.stages for name in stage.moves}
    supporting, frozen = set(supporting_sets(program)), set(program.frozen)
    for first, second, what in (
        (moved, supporting, "moved by a training stage and by the validation stage"),
        (moved, frozen, "moved by a training stage and frozen"),
        (supporting, frozen, "moved by the validation stage and frozen"),
    ):
        if first & second:
            raise InputError(f"sets {sorted(first & second)} are both {what}")


def _check_reads(program: Program) -> None:
    known = known_sets(program)
    for reader, part in parts(program).items():
        for name in part.all_reads:
            if name not in known:
                raise InputError(
                    f"{reader!r} reads the set {name!r}, which nobody moves; known are "
                    f"{sorted(known)}; a constant set belongs in Program(frozen=...)"
                )
    for stage in program.stages:
        both = sorted(set(stage.moves) & set(stage.all_reads))
        if both:
            raise InputError(
                f"stage {stage.name!r} both moves and reads {both}; leave moved sets "
                "out of reads"
            )
        for target, source in stage.start.items():
            if target not in stage.moves:
                raise InputError(
                    f"stage {stage.name!r} has start={{{target!r}: ...}}, but moves "
                    f"{sorted(stage.moves)}"
                )
            if source not in known:
                raise InputError(
                    f"stage {stage.name!r} starts {target!r} from {source!r}, which "
                    f"nobody moves; known are {sorted(known)}"
                )
    for name in program.validation.before if program.validation else ():
        if not any(name in stage.moves for stage in program.stages):
            raise InputError(
                f"validation has before={name!r}, which no training stage moves; name "
                "it in reads="
            )
        if f"{name}_before" in known:
            raise InputError(f"before={name!r} needs the name '{name}_before', a set's")
    used = {name for part in parts(program).values() for name in part.all_reads}
    used |= {source for stage in program.stages for source in stage.start.values()}
    unused = sorted(set(program.frozen) - used)
    if unused and program.validation is not None:  # else they may rest
        raise InputError(f"frozen sets {unused} are read by nobody; leave them out")
    if program.validation is not None:
        doubled = sorted(
            set(program.validation.all_reads) & set(supporting_sets(program))
        )
        if doubled:
            raise InputError(
                f"validation reads its own supporting sets {doubled}; it is given them "
                "in `moves`: leave them out of reads"
            )


def _check_commit(program: Program) -> None:
    if program.commit == "jacobi":
        counts = Counter(name for stage in program.stages for name in stage.moves)
        shared = sorted(name for name, count in counts.items() if count > 1)
        if shared:
            raise InputError(
                f"commit='jacobi' would lose steps: {shared} are moved by several "
                "stages; use commit='sequential'"
            )
    if program.commit == "lookahead":
        for stage in program.stages:
            if stage.adjoint == FirstOrder(at="current"):
                raise InputError(
                    f"commit='lookahead' would never move stage {stage.name!r}: "
                    "FirstOrder(at='current') takes no virtual step; use "
                    "FirstOrder(at='lookahead') or commit='sequential'"
                )


def _check_streams(program: Program) -> None:
    """A stream has as many batches a step as each of its readers takes."""
    readers: dict[str, dict[int | None, str]] = {}
    for reader, part in parts(program).items():
        solver = part.solver if isinstance(part, Stage) else None
        count = None if solver is None else solver.num_steps
        for name in part.all_data:
            readers.setdefault(name, {}).setdefault(count, reader)
    for name, by_count in readers.items():
        if len(by_count) > 1:
            counts = ", ".join(
                f"{reader!r} takes {f'{count} batches' if count else 'one batch'}"
                for count, reader in by_count.items()
            )
            raise InputError(
                f"of the stream {name!r} {counts} a step; give each a stream of its own"
            )


def _check_learners(program: Program) -> None:
    """A training loss reads one learner; data and sets of learners must exist."""
    known = known_sets(program)
    for learner in program.learners:
        for name in learner.sets:
            if name not in known:
                raise InputError(
                    f"learner {learner.name!r} has the set {name!r}, which nobody "
                    f"moves; known are {sorted(known)}"
                )
    declared = {name for learner in program.learners for name in learner.data}
    for reader, part in parts(program).items() if declared else ():
        for name in part.all_data:
            if name not in declared:
                raise InputError(
                    f"{reader!r} reads the stream {name!r}, which no learner has; "
                    f"theirs are {sorted(declared)}"
                )
    unread = sorted(declared - set(streams(program)))
    if unread:
        raise InputError(
            f"learners have the streams {unread}, which nothing reads; read are "
            f"{sorted(streams(program))}"
        )
    for stage in program.stages:
        active = active_learners(program, stage)
        own = {n for x in program.learners if x.name in active for n in x.data}
        for name in stage.data if active and declared else ():
            if name not in own:
                raise InputError(
                    f"the training loss of stage {stage.name!r} reads the stream {name!r}, "
                    f"which is not of {' or '.join(map(repr, active))}; name it in Learner(data=...), or "
                    "read it in an interaction"
                )
        touched = learned_sets(program, stage)
        if touched and not any(touched <= set(x.sets) for x in program.learners):
            raise InputError(
                f"the training loss of stage {stage.name!r} reads the learners "
                f"{list(active)}; learners meet in interactions: use interaction_reads="
            )


def _shown(tree: Any) -> str:
    """Returns the first leaves of a tree, as `type[shape]`."""
    leaves = [
        f"{jnp.result_type(x)}{list(jnp.shape(x))}" for x in jax.tree.leaves(tree)
    ]
    return ", ".join(leaves[:3]) + (", ..." if len(leaves) > 3 else "")
