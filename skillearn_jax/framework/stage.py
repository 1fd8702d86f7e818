"""Floor 2: the parts of a program, as data: learners, training stages, validation."""

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal, TypeAlias, get_args

import jax
import optax

from skillearn_jax.errors import InputError, check_choice
from skillearn_jax.framework.objective import Objective, check_names, check_objective
from skillearn_jax.hypergrad import Adjoint, Exact, Steps
from skillearn_jax.hypergrad.hyperparams import with_hyperparams
from skillearn_jax.hypergrad.refusals import check_adjoint, check_optimizer
from skillearn_jax.tree import is_sharded
from skillearn_jax.types import LossFn, ParamSets, PyTree

Optimizer: TypeAlias = optax.GradientTransformation

Commit = Literal["sequential", "jacobi", "lookahead"]
"""What the real step of a stage sees of earlier stages; see `Program`."""

Order = Literal["simultaneous", "alternate"]
"""In which supporting sets move: along gradients at one point, or one after the other."""


@dataclass(frozen=True)
class Learner:
    """A model, by what belongs to it; for the printout and its checks.

    A training loss reads the sets of one learner only: learners meet in interaction
    functions and in the validation stage. Learners may share a set.

    Attributes:
        name: for people.
        sets: names of its parameter sets.
        data: names of the data streams that it learns from or is judged on. Where a
            learner names any, every stream of the program is one of some learner's.
        task: what it learns to do, and with what head; for people.
    """

    name: str
    sets: tuple[str, ...]
    data: tuple[str, ...] = ()
    task: str = ""

    def __post_init__(self) -> None:
        check_names("sets", self.sets)
        check_names("data", self.data)


@dataclass(frozen=True)
class Stage(Objective):
    """A training stage: `W* = argmin_W L(W, R; D) + gamma * I(W, R; F)`.

    For the loss, the interaction and what they read see `Objective`.

    Attributes:
        name: for metrics and messages.
        moves: names of the active sets, those that this stage moves.
        optimizer: an optax transformation for all of them, or a mapping with one for
            each. Either is given a dict of sets by name, so that labels of
            `optax.partition` and masks begin with the name: `{"weights": ...}`. Several
            stages may move the same set, in order; each keeps an optimiser state of its
            own.
        adjoint: how the approximate solution is differentiated.
        solver: how it is found: `None` takes one step on one batch; `Steps(k)` takes k,
            in the look-ahead and for real, and every leaf of the stage's streams then
            has a leading axis of k, one batch a step.
        start: for sets in `moves`, the set whose value they start from instead of their
            own; the gradient follows. `{"encoder_b": "encoder_a"}` hands an encoder on;
            from a supporting set it is a learned initialisation.
        restart: begin every step with a fresh optimiser state. By default it goes on from
            that of the step before, momentum included, which a stage that starts over
            may not want.
        hyperparams: the optimiser's hyperparameters that the reads decide, such as
            `lambda reads: {"learning_rate": jnp.exp(reads["log_rate"])}`, of an optimiser
            made by `optax.inject_hyperparams`; of several in one stage, a name is that of
            all that hold it. The gradient follows, under
            `FirstOrder("lookahead")` too, but not under implicit adjoints: at a solution
            they do not matter.
    """

    name: str
    _: KW_ONLY
    moves: tuple[str, ...]
    optimizer: Optimizer | Mapping[str, Optimizer]
    adjoint: Adjoint = Exact()
    solver: Steps | None = None
    start: Mapping[str, str] = field(default_factory=dict)
    restart: bool = False
    hyperparams: Callable[[ParamSets], Mapping[str, Any]] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise InputError(f"a stage is named {self.name!r}; it must be a string")
        check_objective(f"stage {self.name!r}", self, "moves")
        if not isinstance(self.start, Mapping):
            raise InputError(
                f"stage {self.name!r} has start={self.start!r}; it must map sets that it "
                "moves to those that they start from: {'weights': 'init'}"
            )
        if self.hyperparams is not None and not callable(self.hyperparams):
            raise InputError(
                f"stage {self.name!r} has hyperparams={self.hyperparams!r}; it must be a "
                "function of the reads"
            )
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

    def begin(self, opt_state: PyTree, active: ParamSets, reads: ParamSets) -> PyTree:
        """Returns the optimiser state that a step begins with.

        Args:
            opt_state: that the step before has left.
            active: the sets that move, where they start.
            reads: the sets that are read.
        """
        if self.restart:
            if any(map(is_sharded, jax.tree.leaves(opt_state, is_leaf=is_sharded))):
                raise InputError(
                    f"stage {self.name!r} has restart=True, but its optimizer's state is "
                    "split over devices: take one that is whole on each"
                )
            opt_state = self.transformation.init(active)
        if self.hyperparams is None:
            return opt_state
        owner, given = f"hyperparams of stage {self.name!r}", self.held_fixed(reads)
        try:
            decided = self.hyperparams(given)
        except KeyError as error:
            raise InputError(
                f"{owner} asks for {error}; it is given {sorted(given)}: declare it in "
                "reads="
            ) from error
        return with_hyperparams(owner, opt_state, decided)


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
        check_objective("the validation stage", self, "indirect", "before")
        for name in ("minimize", "maximize"):
            if not isinstance(getattr(self, name), Mapping):
                raise InputError(
                    f"{name}={getattr(self, name)!r} must map sets to optimizers: "
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
        """Names under which the objective (and the interaction) find their reads."""
        return (*self.reads, *(f"{name}_before" for name in self.before))

    @property
    def supporting(self) -> dict[str, Optimizer]:
        """All supporting sets with their optimisers, in order."""
        return {**self.minimize, **self.maximize}

    @property
    def direct(self) -> tuple[str, ...]:
        """The supporting sets that the objective itself reads."""
        return tuple(name for name in self.supporting if name not in self.indirect)


def _check_optimizers(owner: str, given: Optimizer | Mapping[str, Optimizer]) -> None:
    for optimizer in given.values() if isinstance(given, Mapping) else (given,):
        check_optimizer(owner, optimizer)
