"""Floor 4: the group of config keys of searches over several tasks."""

import dataclasses
from typing import Any, get_args

from skillearn_jax.skills.interleaving import Coupling, Transfer, Weights
from skillearn_jax.train.fields import choice, number


@dataclasses.dataclass(frozen=True)
class InterleavingConfig:
    """How tasks take turns, within every step of the search.

    Which keys a skill reads: `interleaving` and `blocked` all (but `blocked` makes its own
    schedule), `sequential` `rounds` and `heads`, `joint` `heads`.

    Attributes:
        rounds: M, turns of each task.
        schedule: task names, turn by turn, in place of `rounds`; empty: ABC ABC ...
        interaction_weight: lambda, of the squared distance to the encoder of the turn
            before; 0 couples nothing. Not read where `transfer` is `copy`.
        transfer: `proximal` (pulled to it, as in the paper) or `copy` (started from
            it).
        coupling: `full`, or `stop_gradient` as in the authors' derivation.
        weights: what is stored: `copies` (one encoder for each turn), `per_task` or
            `shared` (for `copy`).
        proximal_step: solve the interaction in place of descending it, stable for any
            lambda.
        heads: width of the hidden layer of each task's head, 0 for a linear head; empty:
            all linear.
    """

    rounds: int = number(2, at_least=1)
    schedule: tuple[str, ...] = ()
    interaction_weight: float = number(1.0, at_least=0)
    transfer: str = choice("proximal", get_args(Transfer))
    coupling: str = choice("full", get_args(Coupling))
    weights: str = choice("copies", get_args(Weights))
    proximal_step: bool = False
    heads: tuple[int, ...] = number((), at_least=0)

    def options(self) -> dict[str, Any]:
        """Returns the arguments of `skills.interleaving_learning` that these keys are."""
        names = (
            "interaction_weight",
            "transfer",
            "coupling",
            "weights",
            "proximal_step",
        )
        return {name: getattr(self, name) for name in names}
