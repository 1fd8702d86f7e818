"""Floor 2: a run as a sequence of programs: warm-up, search, deeper networks."""

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral

from skillearn_jax.errors import InputError
from skillearn_jax.framework.graph import VALIDATION
from skillearn_jax.framework.objective import check_names
from skillearn_jax.framework.program import Program
from skillearn_jax.framework.state import State
from skillearn_jax.tree import form
from skillearn_jax.types import Key, ParamSets, PyTree


@dataclass(frozen=True, eq=False)
class Phase:
    """A part of a run with a program of its own.

    A set that rests in one phase is left out of that phase's program (frozen), not given
    a zero learning rate, which would still fill Adam's moments.

    Attributes:
        name: for metrics and messages.
        program: what is stepped.
        epochs: how long, for whoever steps it.
        carry: names of the parameter sets and model states that go on from the phase
            before; the others begin anew. `None` carries all that both phases have.
        reset: names of training stages and supporting sets whose optimiser begins anew
            even though their parameters go on. One that goes on keeps what its state
            holds: the place in a schedule, and the numbers of `optax.inject_hyperparams`,
            whatever the new optimiser was given.
    """

    name: str
    program: Program
    epochs: int
    carry: tuple[str, ...] | None = None
    reset: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.epochs, Integral) or self.epochs < 0:
            raise InputError(
                f"phase {self.name!r} has {self.epochs!r} epochs; at least 0, and a whole "
                "number: change epochs="
            )
        check_names("reset", self.reset)
        if self.carry is not None:
            check_names("carry", self.carry)

    def enter(
        self,
        params: ParamSets,
        key: Key,
        model_state: Mapping[str, PyTree] | None = None,
        previous: State | None = None,
    ) -> State:
        """Returns the state at the start of this phase.

        Args:
            params: fresh values of all sets of the program, for those not carried.
            key: PRNG key of the run; the previous state's key goes on if there is one.
            model_state: fresh model states.
            previous: the state in which the phase before ended.

        Raises:
            InputError: if a name in `carry` or `reset` is unknown, or something carried
                has changed its structure or shapes.
        """
        fresh = self.program.init(params, key, model_state)
        self._check_names(fresh)
        if previous is None:
            return fresh
        carried = self._carried("parameter set", fresh.params, previous.params)
        statistics = self._carried(
            "model state", fresh.model_state, previous.model_state
        )
        opt_states = dict(fresh.opt_states)
        for stage in self.program.stages:
            if carried.issuperset(stage.moves):
                opt_states[stage.name] = self._optimizer_state(
                    stage.name, opt_states, previous.opt_states
                )
        if VALIDATION in opt_states:
            old = previous.opt_states.get(VALIDATION, {})
            opt_states[VALIDATION] = {
                name: self._optimizer_state(name, opt_states[VALIDATION], old)
                if name in carried
                else opt_state
                for name, opt_state in opt_states[VALIDATION].items()
            }
        return State(
            _take(fresh.params, previous.params, carried),
            opt_states,
            _take(fresh.model_state, previous.model_state, statistics),
            previous.step,
            previous.key,
        )

    def _optimizer_state(
        self, name: str, fresh: Mapping[str, PyTree], old: Mapping[str, PyTree]
    ) -> PyTree:
        """Returns the optimiser state that a stage or supporting set begins with."""
        if name in self.reset or name not in old:
            return fresh[name]
        if form(fresh[name]) != form(old[name]):
            raise InputError(
                f"phase {self.name!r} gives {name!r} another optimizer, which cannot go "
                f"on from the old one's state: add {name!r} to reset="
            )
        return old[name]

    def _check_names(self, fresh: State) -> None:
        """Refuses names in `carry` and `reset` that this phase does not know."""
        supporting = fresh.opt_states.get(VALIDATION, {})
        optimizers = {*(s.name for s in self.program.stages), *supporting}
        for name in self.reset:
            if name not in optimizers:
                raise InputError(
                    f"phase {self.name!r} resets {name!r}, which is no stage and no "
                    f"supporting set of it; those are {sorted(optimizers)}"
                )
        for name in self.carry or ():
            if name not in fresh.params and name not in fresh.model_state:
                raise InputError(
                    f"phase {self.name!r} carries {name!r}, which is not in both phases"
                )

    def _carried(
        self, kind: str, new: Mapping[str, PyTree], old: Mapping[str, PyTree]
    ) -> set[str]:
        """Returns the names that go on from the phase before."""
        wanted = set(new) & (set(old) if self.carry is None else set(self.carry))
        for name in sorted(wanted):
            if name not in old:
                raise InputError(
                    f"phase {self.name!r} carries {name!r}, which is not in both phases"
                )
            if form(new[name]) != form(old[name]):
                raise InputError(
                    f"phase {self.name!r} carries {name!r}, whose shapes have changed; "
                    f"leave it out of carry= for a fresh {kind}"
                )
        return wanted


def _take(
    fresh: Mapping[str, PyTree], old: Mapping[str, PyTree], names: set[str]
) -> dict[str, PyTree]:
    return {
        name: old[name] if name in names else value for name, value in fresh.items()
    }
