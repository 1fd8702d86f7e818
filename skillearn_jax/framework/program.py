"""Floor 2: K training stages, then a validation stage, as one pure step."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from skillearn_jax.errors import InputError, told_with
from skillearn_jax.framework import checking, describe, graph, refusals
from skillearn_jax.framework.advance import Run, advance
from skillearn_jax.framework.stage import Commit, Learner, Stage, Validation
from skillearn_jax.framework.state import Batches, Copies, HypergradInfo, State
from skillearn_jax.hypergrad import Adjoint, Autodiff, Exact, Implicit
from skillearn_jax.hypergrad.optimizer_step import updated
from skillearn_jax.tree import mean_over_devices, owned, widen
from skillearn_jax.types import Array, Key, Metrics, ParamSets, PyTree

VALIDATION = graph.VALIDATION


@dataclass(frozen=True, eq=False)
class Program:
    """A learning skill: K training stages in order, then a validation stage.

    A step looks ahead, moves the supporting sets, and then commits:

    1. For k = 1..K, one virtual step `W_k' = Phi_k(W_k, grad L_k(W_k, U_k, W'_{<k}))`.
    2. Every supporting set moves along the gradient of the validation objective at
       `{W_k'}`, which flows back through all virtual steps (`hypergrad`).
    3. Every stage takes its real step from the OLD values and optimiser state, on the
       same batches and keys, with the NEW supporting values. Nothing else of the
       look-ahead is kept.

    Attributes:
        stages: the training stages, in order. The results of earlier stages are read
            under the names of the sets that they moved.
        validation: the validation stage; `None` for a program that only trains, such as
            a warm-up.
        learners: the models, for the printout and for the check that a training loss
            reads the sets of one learner only.
        frozen: sets that are read and that nobody moves.
        commit: what the real step of a stage sees of earlier stages: `"sequential"`:
            their new values; `"jacobi"`: their old ones; `"lookahead"`: there is no
            real step, the virtual ones are kept, in alternating order the last of them.
        after: what ends a step: `(state, metrics) -> (state, metrics)`, equal on all
            devices. It keeps books in a model state that no stage changes, as a curriculum
            of exams or a running average of weights does.
        axis_name: the device axis, inside `pmap` or `shard_map(check_vma=False)`. Losses
            are averaged over it, as suits a mean over examples; a sum is made one, and a
            ratio takes both its parts through `jax.lax.pmean(..., axis_name)`.

    Raises:
        InputError: at construction, for a program that cannot be meant.

    References:
        Xie, Du, Ban 2020, Skillearn, arXiv 2012.04863. The one-step approximation is
        that of DARTS, arXiv 1806.09055.
    """

    stages: tuple[Stage, ...]
    validation: Validation | None = None
    _: KW_ONLY
    learners: tuple[Learner, ...] = ()
    frozen: tuple[str, ...] = ()
    commit: Commit = "sequential"
    after: Callable[[State, Metrics], tuple[State, Metrics]] | None = None
    axis_name: str | None = None

    def __post_init__(self) -> None:
        refusals.check_program(self)

    def __str__(self) -> str:
        return describe.describe(self)

    @property
    def sets(self) -> tuple[str, ...]:
        """Names of all parameter sets: moved, supporting and frozen."""
        return graph.known_sets(self)

    @property
    def streams(self) -> tuple[str, ...]:
        """Names of all data streams that a step reads."""
        return graph.streams(self)

    def replace(self, **changes: Any) -> "Program":
        """Returns a program with some attributes changed."""
        return dataclasses.replace(self, **changes)

    def with_adjoint(self, adjoint: Adjoint) -> "Program":
        """Returns the program with one adjoint in every training stage."""
        stages = tuple(dataclasses.replace(s, adjoint=adjoint) for s in self.stages)
        return self.replace(stages=stages)

    def training_only(self) -> "Program":
        """Returns the program without its validation stage: supporting sets rest.

        What ends a step is left out too: it may speak of the objective.
        """
        supporting = self.validation.supporting if self.validation else {}
        # Those that no stage reads as well: a phase carries the sets of its program.
        frozen = (*self.frozen, *supporting)
        return self.replace(validation=None, learners=(), frozen=frozen, after=None)

    def init(
        self,
        params: ParamSets,
        key: Key,
        model_state: Mapping[str, PyTree] | None = None,
    ) -> State:
        """Returns the state before the first step.

        Args:
            params: the parameter sets by name: exactly `self.sets`.
            key: the PRNG key of the run.
            model_state: model states by name.

        Raises:
            InputError: if a set is missing, or is given and nobody moves or reads it, or
                is moved and holds other numbers than floats, or differs in structure,
                shapes or types from one that it starts from; if the key is none.
        """
        refusals.check_params(self, params, model_state)
        refusals.check_key(key)
        params, states = owned((dict(params), dict(model_state or {})))
        opt_states = {
            stage.name: stage.transformation.init(
                {name: params[name] for name in stage.moves}
            )
            for stage in self.stages
        }
        if self.validation is not None:
            opt_states[VALIDATION] = {
                name: optimizer.init(params[name])
                for name, optimizer in self.validation.supporting.items()
            }
        step, key = jnp.zeros((), jnp.int32), jnp.copy(key)
        # Some optimizers keep the parameters, or one array in two places.
        return State(dict(params), owned(opt_states), states, step, key)

    def step(self, state: State, batches: Batches) -> tuple[State, Metrics]:
        """Returns the state after one step, and scalars by name.

        Pure; compiles once. Metrics of the stages are named `stage/loss`,
        `stage/interaction` and so on, those of the objective `validation/...`, and
        `hypergrad/SET/norm`, `.../direct` and `.../response` are Euclidean norms.

        Args:
            state: from `init` or an earlier step.
            batches: for each of `self.streams` whatever the loss functions read.

        Raises:
            InputError: while tracing, if a stream is missing, the state is of another
                program, or a function asks for what it has not declared.

        Cost: for K stages with the exact adjoint, about 4 gradients a stage (look-ahead,
        product, real step) and the gradient of the objective.
        """
        refusals.check_inputs(self, state, batches)
        if self.validation is None:
            run = self._run(state, self._copies(state.params), batches, virtual=False)
            values, opt_states, metrics = run.values, run.opt_states, run.metrics
        else:
            supporting, moved_by, found, run = self._validate(state, batches)
            if self.commit != "lookahead":
                copies = self._copies({**state.params, **supporting})
                run = self._run(state, copies, batches, virtual=False)
            values = {**run.values, **supporting}
            opt_states = {**run.opt_states, VALIDATION: moved_by}
            metrics = refusals.merged(run.metrics, found)
        metrics = mean_over_devices(metrics, self.axis_name)
        model_state = run.mean_model_state(state.model_state, self.axis_name)
        state = State(values, opt_states, model_state, state.step + 1, state.key)
        if self.after is None:
            return state, metrics
        return refusals.check_after(self, self.after(state, metrics))

    def hypergrad(
        self, state: State, batches: Batches
    ) -> tuple[ParamSets, HypergradInfo]:
        """Returns the gradient of the objective for each supporting set, and its parts.

            dJ/dU = direct + response,
            J(U) = L_val({W_k'(U)}, U)

        Minimised and maximised sets alike get the plain derivative of the objective.

        Args:
            state: from `init` or `step`; not changed.
            batches: as for `step`.
        """
        refusals.check_inputs(self, state, batches)
        grads, info, _ = self._hypergrad(state, batches)
        return grads, info

    def check(
        self, state: State, batches: Batches, radius: float = 0.01
    ) -> checking.CheckReport:
        """Returns how far the hypergradient is from plain autodiff, leaf by leaf.

        See `skillearn_jax.framework.check`.
        """
        return checking.check(self, state, batches, radius)

    def look_ahead(self, state: State, batches: Batches) -> State:
        """Returns the state as the look-ahead leaves it; supporting sets are at rest."""
        refusals.check_inputs(self, state, batches)
        run = self._run(state, self._copies(state.params), batches, virtual=True)
        statistics = run.mean_model_state(state.model_state, self.axis_name)
        return state._replace(
            params=run.values, opt_states=run.opt_states, model_state=statistics
        )

    def objective(self, state: State, batches: Batches) -> Array:
        """Returns the validation objective after the look-ahead, at `state`."""
        if self.validation is None:
            raise InputError("a program without a validation stage has no objective")
        refusals.check_inputs(self, state, batches)
        value, _ = self._objective(self._copies(state.params), {}, state, batches)
        return mean_over_devices(value, self.axis_name)

    def _validate(
        self, state: State, batches: Batches
    ) -> tuple[ParamSets, ParamSets, dict[str, Array], Run]:
        """Moves the supporting sets; returns their values and optimiser states too."""
        validation = self.validation
        assert validation is not None
        if validation.order == "simultaneous":
            rounds = [tuple(validation.supporting)]
        else:
            rounds = [(name,) for name in validation.supporting]
        metrics: dict[str, Array] = {}
        for names in rounds:
            grads, info, run = self._hypergrad(state, batches)
            metrics |= {f"{VALIDATION}/{k}": v for k, v in info.metrics.items()}
            metrics |= {f"{k}/residual": v for k, v in info.residuals.items()}
            for name in names:
                metrics[f"hypergrad/{name}/norm"] = optax.tree.norm(widen(grads[name]))
                metrics[f"hypergrad/{name}/direct"] = optax.tree.norm(
                    widen(info.direct[name])
                )
                metrics[f"hypergrad/{name}/response"] = optax.tree.norm(
                    widen(info.response[name])
                )
                state = self._move_supporting(state, name, grads[name])
        params = {name: state.params[name] for name in validation.supporting}
        return params, state.opt_states[VALIDATION], metrics, run

    def _move_supporting(self, state: State, name: str, gradient: PyTree) -> State:
        """Returns the state with one supporting set moved along its hypergradient."""
        assert self.validation is not None
        if name in self.validation.maximize:
            gradient = optax.tree.scale(-1, gradient)
        opt_states = state.opt_states[VALIDATION]
        value, opt_state = updated(
            self.validation.supporting[name],
            state.params[name],
            gradient,
            opt_states[name],
        )
        return state._replace(
            params={**state.params, name: value},
            opt_states={
                **state.opt_states,
                VALIDATION: {**opt_states, name: opt_state},
            },
        )

    def _hypergrad(
        self, state: State, batches: Batches
    ) -> tuple[ParamSets, HypergradInfo, Run]:
        if self.validation is None:
            raise InputError(
                "a program without a validation stage has no hypergradient"
            )
        probes = {
            stage.name: jnp.zeros(())
            for stage in self.stages
            if isinstance(stage.adjoint, Implicit)
        }
        (objective, (metrics, run)), (terms, residuals) = jax.value_and_grad(
            self._objective, argnums=(0, 1), has_aux=True
        )(self._copies(state.params), probes, state, batches)
        # The outermost gradient is averaged here, once; see hypergrad.OptimizerStep.
        terms, objective, metrics = mean_over_devices(
            (terms, objective, metrics), self.axis_name
        )
        direct, response = {}, {}
        for name in self.validation.supporting:
            zero = optax.tree.zeros_like(state.params[name])
            direct[name] = terms[VALIDATION].get(name, zero)
            parts = (terms[s.name][name] for s in self.stages if name in terms[s.name])
            response[name] = functools.reduce(optax.tree.add, parts, zero)
        grads = {name: optax.tree.add(direct[name], response[name]) for name in direct}
        moved = {name: run.values[name] for s in self.stages for name in s.moves}
        info = HypergradInfo(
            terms, direct, response, moved, residuals, objective, metrics
        )
        return grads, info, run

    def _objective(
        self,
        copies: Copies,
        probes: dict[str, Array],
        state: State,
        batches: Batches,
    ) -> tuple[Array, tuple[dict[str, Array], Run]]:
        """Returns the objective after the look-ahead, as a function of the supports.

        The gradient of a stage's probe is its residual, see `hypergrad.Implicit`.
        """
        assert self.validation is not None
        run = self._run(state, copies, batches, virtual=True, probes=probes)
        old = {f"{name}_before": state.params[name] for name in self.validation.before}
        with told_with("the validation stage: "):
            value, aux = self.validation(
                copies[VALIDATION],
                {**run.values, **old},
                state.model_state,
                batches,
                self._key(state, len(self.stages)),
            )
        metrics = {**aux.metrics, "objective": value}
        if self.validation.interaction is None:
            del metrics["loss"]  # it is the objective
        return value, (metrics, run)

    def _run(
        self,
        state: State,
        copies: Copies,
        batches: Batches,
        *,
        virtual: bool,
        probes: Mapping[str, Array] | None = None,
    ) -> Run:
        """Takes a step in every training stage.

        Args:
            state: before the step; it is not changed.
            copies: the supporting sets that each stage reads.
            batches: as for `step`.
            virtual: whether it looks ahead. A virtual step is differentiated by the
                stage's adjoint; the real step is the optimiser's own, whatever
                approximates its derivative, and differentiated as it is.
            probes: of a look-ahead, see `hypergrad.Implicit`.
        """
        run = Run(
            dict(state.params), dict(state.opt_states), dict(state.model_state), {}
        )
        for index, stage in enumerate(self.stages):
            old = self.commit == "jacobi" and not virtual
            seen = {**(state.params if old else run.values), **copies[stage.name]}
            active = {name: seen[stage.start.get(name, name)] for name in stage.moves}
            reads = {name: seen[name] for name in stage.all_reads}
            # Of all derivatives, plain autodiff alone has a forward mode.
            forwards = isinstance(stage.adjoint, Autodiff)
            begun = stage.begin(state.opt_states[stage.name], active, reads)
            with told_with(f"stage {stage.name!r}: "):
                new, opt_state, aux = advance(
                    stage,
                    stage.adjoint if virtual or forwards else Exact(),
                    self.axis_name,
                    active,
                    reads,
                    begun,
                    run.model_state,
                    {name: batches[name] for name in stage.all_data},
                    self._key(state, index),
                    (probes or {}).get(stage.name),
                )
            run = run.after(stage.name, new, opt_state, aux)
        return run

    def _copies(self, params: ParamSets) -> Copies:
        """Returns a copy of the supporting sets for each stage that reads them.

        One derivative for each copy is what splits the hypergradient into its terms.
        """
        if self.validation is None:
            return {stage.name: {} for stage in self.stages}
        supporting = self.validation.supporting
        reads = {
            stage.name: (*stage.all_reads, *stage.start.values())
            for stage in self.stages
        }
        reads[VALIDATION] = self.validation.direct
        return {
            reader: {name: params[name] for name in names if name in supporting}
            for reader, names in reads.items()
        }

    def _key(self, state: State, index: int) -> Key:
        """Returns the key of a stage in this step: the same in look-ahead and commit."""
        return jax.random.fold_in(jax.random.fold_in(state.key, state.step), index)
