"""Floor 2: the training stages take their steps, one after the other."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from skillearn_jax.framework import refusals
from skillearn_jax.framework.objective import Aux
from skillearn_jax.framework.stage import Stage
from skillearn_jax.hypergrad import Adjoint, one_step
from skillearn_jax.hypergrad.implicit import probe_argument
from skillearn_jax.tree import mean_over_devices
from skillearn_jax.types import Array, Key, ParamSets, PyTree


class Run(NamedTuple):
    """A pass through the training stages, as far as it has come."""

    values: dict[str, PyTree]
    opt_states: dict[str, PyTree]
    model_state: dict[str, PyTree]
    metrics: dict[str, Array]

    def after(self, name: str, new: ParamSets, opt_state: PyTree, aux: Aux) -> "Run":
        """Returns the run with the results of one more stage."""
        metrics = {f"{name}/{key}": value for key, value in aux.metrics.items()}
        return Run(
            {**self.values, **new},
            {**self.opt_states, name: opt_state},
            {**self.model_state, **aux.model_state},
            refusals.merged(self.metrics, metrics),
        )

    def mean_model_state(
        self, before: Mapping[str, PyTree], axis_name: str | None
    ) -> dict[str, PyTree]:
        """Returns the model states; those that a stage has changed, as means over devices."""
        changed = {
            name: value
            for name, value in self.model_state.items()
            if value is not before[name]
        }
        return {**self.model_state, **mean_over_devices(changed, axis_name)}


def advance(
    stage: Stage,
    adjoint: Adjoint,
    axis_name: str | None,
    active: ParamSets,
    reads: ParamSets,
    opt_state: PyTree,
    model_state: Mapping[str, PyTree],
    batches: Mapping[str, Any],
    key: Key,
    probe: Array | None = None,
) -> tuple[ParamSets, PyTree, Aux]:
    """Returns `(new_active, opt_state, Aux)` of a stage.

    With a solver of several steps, step i gets batch i, a key of its own and the model
    state that step i - 1 left; metrics are means over the steps.

    Args:
        stage: the loss, the optimiser, the solver.
        adjoint: how the result is differentiated.
        axis_name: the device axis.
        active: the sets that move.
        reads: the sets that are read.
        opt_state: of the stage.
        model_state: all model states.
        batches: of the stage's streams.
        key: of the stage in this step.
        probe: see `hypergrad.Implicit`.
    """

    def step_of(adjoint: Adjoint) -> Any:
        step = one_step(stage, stage.transformation, adjoint, axis_name)
        told = probe_argument(adjoint, probe)
        return lambda *args: step(*args, **told)

    if stage.solver is None:
        new, info = step_of(adjoint)(
            active, reads, opt_state, model_state, batches, key
        )
        changed = _changed(info.aux, model_state)
        return new, info.opt_state, info.aux._replace(model_state=changed)

    changed_names: set[str] = set()  # noted while the steps are traced

    def body_of(adjoint: Adjoint) -> Any:
        step = step_of(adjoint)

        def body(carry: Any, data: Any) -> tuple[Any, Any]:
            active, opt_state, seen = carry
            new, info = step(active, reads, opt_state, seen, *data)
            changed = _changed(info.aux, seen)
            changed_names.update(changed)
            return (new, info.opt_state, {**seen, **changed}), info.aux.metrics

        return body

    keys = jax.random.split(key, stage.solver.num_steps)
    (new, opt_state, after), metrics = stage.solver.run(
        adjoint,
        body_of,
        (active, opt_state, dict(model_state)),
        (dict(batches), keys),
    )
    metrics = {name: jnp.mean(values) for name, values in metrics.items()}
    changed = {name: after[name] for name in after if name in changed_names}
    return new, opt_state, Aux(metrics, changed)


def _changed(aux: Aux, model_state: Mapping[str, PyTree]) -> dict[str, PyTree]:
    """Returns the model states that a step has changed."""
    refusals.check_model_state(aux.model_state, model_state)
    # Held fixed: statistics are no path for gradients, in no stage and no adjoint.
    # Strongly typed, as in `init`: a weak type would compile the next step anew.
    return jax.tree.map(
        lambda leaf: jax.lax.stop_gradient(jnp.asarray(leaf, jnp.result_type(leaf))),
        dict(aux.model_state),
    )
