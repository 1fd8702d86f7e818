"""Floor 2: the parts of a program, as data: learners, training stages, validation."""

import math
import numbers
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax

from skillearn_jax.errors import InputError, check_choice
from skillearn_jax.hypergrad import Adjoint, Exact, Steps
from skillearn_jax.hypergrad.loss_output import function_name, split_output
from skillearn_jax.hypergrad.refusals import check_adjoint, check_optimizer
from skillearn_jax.types import Array, Key, LossFn, ParamSets, PyTree

Optimizer: TypeAlias = optax.GradientTransformation

Commit = Literal["sequential", "jacobi", "lookahead"]
"""What the real step of a stage sees of earlier stages; see `Program`."""

Order = Literal["simultaneous", "alternate"]
"""In which supporting sets move: along gradients at one point, or one after the other."""

RESERVED = frozenset({"loss", "interaction", "objective"})
"""Names of the metrics that the framework gives to the values of the functions."""

_NAMES = ("reads", "data", "interaction_reads", "interaction_data", "detached")


class Aux(NamedTuple):
    """What a loss function may return beside its value: `loss, Aux(...)`.

    Attributes:
        metrics: scalars by name, to be logged; not `loss`, `interaction` or `objective`,
            which the framework logs.
        model_state: new model states by name, such as BatchNorm's running statistics.
            Those that are not named stay as they are. They are kept by the real step
            only; what a look-ahead or the validation stage returns is dropped. No
            gradient flows through them from stage to stage.
    """

    metrics: Mapping[str, Array] = {}
    model_state: Mapping[str, PyTree] = {}


@dataclass(frozen=True)
class Learner:
    """A model, by what belongs to it; for the printout and its checks.

    A training loss reads the sets of one learner only: learners meet in interaction
    functions and in the validation stage. Learners may share a set.

    Attributes:
        name: for people.
        sets: names of its parameter sets.
        data: names of the data streams that it learns from.
        task: what it learns to do, and with what head; for people.
    """

    name: str
    sets: tuple[str, ...]
    data: tuple[str, ...] = ()
    task: str = ""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """A loss plus a weighted interaction: `L(W, R; D) + gamma * I(W, R; F)`.

    Both functions have the one signature of the framework,

        `fn(moves, reads, model_state, batch, key) -> value` or `(value, Aux)`

    where `moves` and `reads` are dicts of parameter sets, `model_state` is the dict of all
    model states, `batch` is a dict of the declared streams and `key` is a PRNG key of its
    own, which the function consumes.

    Attributes:
        loss_fn: the training loss, or the validation objective.
        reads: names of the sets that `loss_fn` (and the interaction) read.
        data: names of the streams that `loss_fn` reads.
        interaction: the interaction function, if there is one.
        interaction_reads: names of further sets that only the interaction reads.
        interaction_data: names of the (auxiliary) streams that it reads.
        interaction_weight: gamma, the trade-off: a number. One that is learned is a
            supporting set in `interaction_reads`, by which the interaction multiplies.
        detached: those of the reads that are held fixed: no gradient flows back
            through them, whatever the adjoint.
    """

    loss_fn: LossFn
    reads: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    interaction: LossFn | None = None
    interaction_reads: tuple[str, ...] = ()
    interaction_data: tuple[str, ...] = ()
    interaction_weight: float = 1.0
    detached: tuple[str, ...] = ()

    @property
    def loss_reads(self) -> tuple[str, ...]:
        """Names under which `loss_fn` finds its reads."""
        return self.reads

    @property
    def attached(self) -> tuple[str, ...]:
        """Names of the reads that gradient flows back through."""
        return tuple(name for name in self.all_reads if name not in self.detached)

    @property
    def all_reads(self) -> tuple[str, ...]:
        """Names of all sets that are read, without repetition."""
        return tuple(dict.fromkeys((*self.reads, *self.interaction_reads)))

    @property
    def all_data(self) -> tuple[str, ...]:
        """Names of all streams that are read, without repetition."""
        return tuple(dict.fromkeys((*self.data, *self.interaction_data)))

    def __call__(
        self,
        moves: ParamSets,
        reads: ParamSets,
        model_state: Mapping[str, PyTree],
        batches: Mapping[str, Any],
        key: Key,
    ) -> tuple[Array, Aux]:
        """Returns `(L + gamma * I, Aux)`, each function seeing only what it declared."""
        loss_key, interaction_key = jax.random.split(key)
        fixed = {name: jax.lax.stop_gradient(reads[name]) for name in self.detached}
        reads = {**reads, **fixed}
        total, aux = _value_and_aux(
            self.loss_fn,
            moves,
            {name: reads[name] for name in self.loss_reads},
            model_state,
            {name: batches[name] for name in self.data},
            loss_key,
        )
        metrics = {"loss": total, **aux.metrics}
        new_state = dict(aux.model_state)
        if self.interaction is not None:
            # The interaction sees the model state as the loss left it.
            value, aux = _value_and_aux(
                self.interaction,
                moves,
                {name: reads[name] for name in self.all_reads},
                {**model_state, **new_state},
                {name: batches[name] for name in self.interaction_data},
                interaction_key,
            )
            total = total + self.interaction_weight * value
            doubled = metrics.keys() & aux.metrics.keys()
            if doubled:
                raise InputError(
                    f"loss and interaction both return the metrics {sorted(doubled)}"
                )
            metrics |= {"interaction": value, **aux.metrics}
            new_state |= aux.model_state
        return total, Aux(metrics, new_state)


@dataclass(frozen=True)
class Stage(Objective):
    """A training stage: `W* = argmin_W L(W, R; D) + gamma * I(W, R; F)`.

    Attributes:
        name: for metrics and messages.
        moves: names of the active sets, those that this stage moves.
        optimizer: an optax transformation for all of them, or a mapping with one for
            each. Several stages may move the same set, in order; each keeps an optimiser
            state of its own.
        adjoint: how the approximate solution is differentiated.
        solver: how it is found: `None` takes one step on one batch; `Steps(k)` takes k,
            in the look-ahead and for real, and every leaf of the stage's streams then
            has a leading axis of k, one batch a step.
        start: for sets in `moves`, the set whose value they start from instead of their
            own; the gradient follows. `{"encoder_b": "encoder_a"}` hands an encoder on;
            from a supporting set it is a learned initialisation.
    """

    name: str
    _: KW_ONLY
    moves: tuple[str, ...]
    optimizer: Optimizer | Mapping[str, Optimizer]
    adjoint: Adjoint = Exact()
    solver: Steps | None = None
    start: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_objective(self, "moves")
        if not self.moves:
            raise InputError(f"stage {self.name!r} moves nothing; name a set in moves=")
        check_adjoint(f"stage {self.name!r}", self.adjoint)
        if not isinstance(self.solver, Steps | None):
            raise InputError(
                f"stage {self.name!r} has solver={self.solver!r}; it must be None or a "
                "value such as Steps(3)"
            )
        _check_optimizers(f"stage {self.name!r}", self.optimizer)
        if isinstance(self.optimizer, Mapping) and set(self.optimizer) != set(
            self.moves
        ):
            raise InputError(
                f"stage {self.name!r} has optimizers for {sorted(self.optimizer)}, "
                f"but moves {sorted(self.moves)}; give one for each moved set"
            )

    @property
    def transformation(self) -> Optimizer:
        """The optimiser of the dict of active sets."""
        if isinstance(self.optimizer, Mapping):
            return optax.partition(self.optimizer, {name: name for name in self.moves})
        return self.optimizer


@dataclass(frozen=True)
class Validation(Objective):
    """The validation stage: moves all supporting sets along the hypergradient.

        min_{minimize} max_{maximize}  loss_fn({W*_k}, {U_k}; D_val)

    `loss_fn` is called with the supporting sets in `moves` and the declared results of
    the training stages in `reads`; with model states as they were before the step, not as
    the look-ahead leaves them.

    Attributes:
        minimize: the supporting sets that descend, with their optimisers.
        maximize: those that ascend. The gradient is negated BEFORE the optimiser, so
            that weight decay still pulls towards zero.
        indirect: supporting sets that the objective does not read itself and is not
            given: they act through the training stages alone.
        before: sets that the objective reads as they were BEFORE the training stages,
            under the name `NAME_before`: data, without a path for gradients. They may
            stand in `reads` as well, for the results.
        order: `"simultaneous"`: all supporting sets move along gradients taken at the
            same point. `"alternate"`: one after the other in the order given, each
            seeing the new values of those before, at one hypergradient per set.
    """

    loss_fn: LossFn
    _: KW_ONLY
    minimize: Mapping[str, Optimizer] = field(default_factory=dict)
    maximize: Mapping[str, Optimizer] = field(default_factory=dict)
    indirect: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    order: Order = "simultaneous"

    def __post_init__(self) -> None:
        _check_objective(self, "indirect", "before")
        for name in ("minimize", "maximize"):
            if not isinstance(getattr(self, name), Mapping):
                raise InputError(
                    f"{name}={getattr(self, name)!r} must map sets to optimisers: "
                    "{'alphas': optax.adam(3e-4)}"
                )
        _check_optimizers("the validation stage", self.supporting)
        if not self.supporting:
            raise InputError(
                "the validation stage moves nothing; name a supporting set in minimize= "
                "or maximize=, or leave the stage out"
            )
        both = set(self.minimize) & set(self.maximize)
        if both:
            raise InputError(f"{sorted(both)} stand in both minimize= and maximize=")
        unknown = set(self.indirect) - set(self.supporting)
        if unknown:
            raise InputError(
                f"indirect={sorted(unknown)} are not supporting sets; those are "
                f"{sorted(self.supporting)}"
            )
        check_choice("order", self.order, get_args(Order))

    @property
    def loss_reads(self) -> tuple[str, ...]:
        """Names under which the objective finds its reads."""
        return (*self.reads, *(f"{name}_before" for name in self.before))

    @property
    def supporting(self) -> dict[str, Optimizer]:
        """All supporting sets with their optimisers, in order."""
        return {**self.minimize, **self.maximize}

    @property
    def direct(self) -> tuple[str, ...]:
        """The supporting sets that the objective itself reads."""
        return tuple(name for name in self.supporting if name not in self.indirect)


def _value_and_aux(fn: LossFn, *args: Any) -> tuple[Array, Aux]:
    """Calls a loss function; gives it an empty `Aux` where it returns none."""
    name = function_name(fn)
    try:
        out = fn(*args)
    except KeyError as error:
        given = dict(
            zip(("moves", "reads", "model_state", "batch"), args, strict=False)
        )
        raise InputError(
            f"{name} asks for {error}; it is given "
            + ", ".join(f"{kind} {sorted(value)}" for kind, value in given.items())
            + ": if that is a set or stream, declare it in reads= or data=, for an "
            "interaction in interaction_reads= or interaction_data="
        ) from error
    value, aux = split_output(fn, out)
    if not isinstance(out, tuple):
        return value, Aux()
    if not isinstance(aux, Aux):
        raise InputError(
            f"{name} returned {type(aux).__name__} beside its value; return value or "
            "(value, Aux(metrics=..., model_state=...))"
        )
    taken = sorted(RESERVED & aux.metrics.keys())
    if taken:
        raise InputError(
            f"{name} returned the metrics {taken}, which are the framework's own; give "
            "them other names"
        )
    for key, metric in aux.metrics.items():
        if jnp.shape(metric) != ():
            raise InputError(
                f"{name} returned the metric {key!r} of shape {jnp.shape(metric)}; "
                "metrics are scalars"
            )
    return value, aux


def _check_optimizers(owner: str, given: Optimizer | Mapping[str, Optimizer]) -> None:
    for optimizer in given.values() if isinstance(given, Mapping) else (given,):
        check_optimizer(owner, optimizer)


def _check_objective(part: Objective, *names: str) -> None:
    """Refuses what no objective can mean.

    `moves="weights"` would be read as a tuple of letters, and reads of an interaction
    that is not there as a path of the gradient.
    """
    for name in (*names, *_NAMES):
        value = getattr(part, name)
        if isinstance(value, str):
            raise InputError(f"{name}={value!r} must be a tuple of names: ({value!r},)")
        if not isinstance(value, tuple | list):
            raise InputError(f"{name}={value!r} must be a tuple of names")
        if len(set(value)) < len(value):
            raise InputError(f"{name}={value!r} names a set or stream twice")
        if value and part.interaction is None and name.startswith("interaction_"):
            raise InputError(f"{name}={value!r} without an interaction= function")
    weight = part.interaction_weight
    if not isinstance(weight, numbers.Real | jax.Array | np.ndarray):
        raise InputError(
            f"interaction_weight={weight!r} must be a number; to learn it, read a "
            "supporting set in the interaction and multiply there"
        )
    if jnp.shape(weight) != ():
        raise InputError(
            f"interaction_weight has shape {jnp.shape(weight)}; it must be one number"
        )
    if isinstance(weight, numbers.Real) and not math.isfinite(weight):
        raise InputError(f"interaction_weight={weight}; it must be finite")
    unread = sorted(set(part.detached) - set(part.all_reads))
    if unread:
        raise InputError(f"detached={unread} are not read; name them in reads= too")
