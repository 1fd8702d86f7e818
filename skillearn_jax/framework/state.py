"""Floor 2: what a program's step takes and returns."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from skillearn_jax.types import Array, Key, Metrics, ParamSets, PyTree

Batches = Mapping[str, Any]
"""For each data stream whatever the loss functions read."""

Copies = Mapping[str, ParamSets]
"""The supporting sets, one copy for each stage that reads them."""


class State(NamedTuple):
    """All that changes from step to step: one pytree of arrays.

    Attributes:
        params: the parameter sets by name.
        opt_states: optimiser states: one for each training stage by its name, and
            under `"validation"` one for each supporting set.
        model_state: model states by name, such as BatchNorm's running statistics.
        step: `[] int32` the number of steps taken.
        key: the PRNG key of the run; never consumed, only folded with `step`.
    """

    params: dict[str, PyTree]
    opt_states: dict[str, PyTree]
    model_state: dict[str, PyTree]
    step: Array
    key: Key


class HypergradInfo(NamedTuple):
    """What `Program.hypergrad` returns beside the gradient.

    Attributes:
        terms: the gradient, split by the stage through which it flows:
            `terms[stage][set]`. `terms["validation"]` is the direct term.
        direct: per supporting set, the derivative with the results of the training
            stages held fixed.
        response: per supporting set, the rest: through the training stages.
        lookahead: the sets that the training stages moved, after their look-ahead.
        residuals: for each stage with an implicit adjoint, `[]`: how badly the linear
            equation of its pull-back was solved, relative to its right-hand side.
        objective: `[]` the value of the validation objective.
        metrics: scalars by name.
    """

    terms: Copies
    direct: ParamSets
    response: ParamSets
    lookahead: ParamSets
    residuals: Metrics
    objective: Array
    metrics: Metrics
