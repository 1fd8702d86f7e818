"""Floor 2: what a stage minimises, as data: a loss and its interaction."""

import inspect
import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from skillearn_jax.errors import InputError
from skillearn_jax.hypergrad.loss_output import function_name, split_output
from skillearn_jax.hypergrad.refusals import check_arrays, check_function, is_number
from skillearn_jax.types import Array, Key, LossFn, ParamSets, PyTree

RESERVED = frozenset({"loss", "interaction", "objective", "residual"})
"""Names of the metrics that the framework itself gives."""

_NAMES = ("reads", "data", "interaction_reads", "interaction_data", "detached")


class Aux(NamedTuple):
    """What a loss function may return beside its value: `loss, Aux(...)`.

    Attributes:
        metrics: real scalars by name, to be logged; none of `RESERVED`, which the
            framework logs. Counts and truths become floats: of several steps and devices
            the mean is logged.
        model_state: new model states by name, such as BatchNorm's running statistics.
            Those that are not named stay as they are. They are kept by the real step
            only; what a look-ahead or the validation stage returns is dropped. No
            gradient flows through them from stage to stage. Over devices floats become
            means; integers must be equal on all, as a count of steps is.
    """

    metrics: Mapping[str, Array] = {}
    model_state: Mapping[str, PyTree] = {}


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
        """Names under which `loss_fn` (and the interaction) find their reads."""
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
        reads = self.held_fixed(reads)
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
                {name: reads[name] for name in (*self.loss_reads, *self.all_reads)},
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

    def held_fixed(self, reads: ParamSets) -> ParamSets:
        """Returns what is read, without a gradient to those that are detached."""
        fixed = {name: jax.lax.stop_gradient(reads[name]) for name in self.detached}
        return {**reads, **fixed}


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
            "interaction in interaction_reads= or interaction_data=; a supporting set of "
            "the validation stage must not stand in indirect= then"
        ) from error
    except TypeError as error:
        if _takes(fn, len(args)):
            raise  # of what the function does
        raise InputError(
            f"{name} is called with {len(args)} arguments, and takes others ({error}): "
            "its signature must be (moves, reads, model_state, batch, key)"
        ) from error
    value, aux = split_output(fn, out)
    if not isinstance(out, tuple):
        return value, Aux()
    if not isinstance(aux, Aux):
        raise InputError(
            f"{name} returned {type(aux).__name__} beside its value; return value or "
            "(value, Aux(metrics=..., model_state=...))"
        )
    for field, given in aux._asdict().items():
        if not isinstance(given, Mapping):
            raise InputError(
                f"{name} returned Aux({field}=...) of type {type(given).__name__}; it must "
                "map names to values"
            )
    taken = sorted(RESERVED & aux.metrics.keys())
    if taken:
        raise InputError(
            f"{name} returned the metrics {taken}, which are the framework's own; give "
            "them other names"
        )
    check_arrays(f"{name} returned a model state: ", aux.model_state)
    metrics = {key: _scalar(name, key, value) for key, value in aux.metrics.items()}
    return value, aux._replace(metrics=metrics)


def _scalar(name: str, key: str, metric: Any) -> Array:
    """Returns a metric as a float, of which there are means; refuses what is no scalar."""
    if not is_number(metric):
        found = f"type {type(metric).__name__}"
    elif jnp.shape(metric) != ():
        found = f"shape {jnp.shape(metric)}"
    elif jnp.issubdtype(kind := jnp.result_type(metric), jnp.floating):
        return jnp.asarray(metric)
    elif jnp.issubdtype(kind, jnp.integer) or jnp.issubdtype(kind, jnp.bool_):
        return jnp.asarray(metric, float)
    else:
        found = f"type {kind}"
    raise InputError(
        f"{name} returned the metric {key!r} of {found}; metrics are real scalars"
    )


def _takes(fn: LossFn, count: int) -> bool:
    """Returns whether a function takes so many arguments; true where that cannot be told."""
    try:
        # Not of the function that it wraps, which may take others.
        signature = inspect.signature(fn, follow_wrapped=False)
    except (TypeError, ValueError):
        return True
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True


def check_names(name: str, value: Any) -> None:
    """Refuses what is no tuple of names; a text would be read letter by letter."""
    if isinstance(value, str):
        raise InputError(f"{name}={value!r} must be a tuple of names: ({value!r},)")
    of_names = isinstance(value, tuple | list)
    if not of_names or not all(isinstance(one, str) for one in value):
        raise InputError(f"{name}={value!r} must be a tuple of names")


def check_objective(owner: str, part: Objective, *names: str) -> None:
    """Refuses what no objective can mean.

    `moves="weights"` would be read as a tuple of letters, and reads of an interaction
    that is not there as a path of the gradient.

    Args:
        owner: the stage, for messages.
        part: the stage.
        *names: of its further attributes that are names.
    """
    check_function(owner, "loss_fn", part.loss_fn)
    check_function(owner, "interaction", part.interaction, optional=True)
    for name in (*names, *_NAMES):
        value = getattr(part, name)
        check_names(name, value)
        if len(set(value)) < len(value):
            raise InputError(f"{name}={value!r} names a set or stream twice")
        if value and part.interaction is None and name.startswith("interaction_"):
            raise InputError(f"{name}={value!r} without an interaction= function")
    weight = part.interaction_weight
    if not is_number(weight):
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
