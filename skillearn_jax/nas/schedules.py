"""What changes from epoch to epoch in a search: skip dropout, skip weight, stop rules."""

import math
from typing import Any, Literal, NamedTuple, get_args

from skillearn_jax.errors import InputError, check_choice
from skillearn_jax.tracing import is_traced

Decay = Literal["constant", "linear", "cosine", "slow_cosine"]
"""How the auxiliary skip of DARTS- fades."""


def skip_dropout_rate(
    initial: float, epoch: int, epochs: int, warmup_epochs: int
) -> float:
    """Returns the rate of dropout after identity skips in one epoch of P-DARTS.

        p_0 (E - e - 1) / E              while only weights move, e < warmup_epochs
        p_0 exp(-0.2 (e - warmup_epochs))    afterwards

    Args:
        initial: p_0, of the stage.
        epoch: e, from 0.
        epochs: E, of the stage.
        warmup_epochs: epochs in which only weights move.

    References: Chen et al. 2019, section 3.3, arXiv 1904.12760; the schedule is that of
      the authors' code.
    """
    if epoch < warmup_epochs:
        return initial * (epochs - epoch - 1) / epochs
    return initial * math.exp(-0.2 * (epoch - warmup_epochs))


def skip_weight(decay: Decay, epoch: int, epochs: int) -> float:
    """Returns beta, the weight of the auxiliary skip of DARTS- in one epoch.

        linear (E - e) / E, cosine (1 + cos(pi e / E)) / 2, slow cosine cos(pi e / 2E)

    Args:
        decay: which; `"constant"` stays at 1.
        epoch: e, from 0.
        epochs: E.

    Raises:
        InputError: for an unknown decay.

    References: Chu et al. 2021, section 3.3, arXiv 2009.01027; the two cosines are
      options of the authors' code.
    """
    check_choice("decay", decay, get_args(Decay))
    done = epoch / epochs
    return {
        "constant": 1.0,
        "linear": 1 - done,
        "cosine": (1 + math.cos(math.pi * done)) / 2,
        "slow_cosine": math.cos(math.pi * done / 2),
    }[decay]


def is_zero(rate: Any) -> bool:
    """Returns whether a rate is known to be 0, so that nothing has to be dropped."""
    return not is_traced(rate) and float(rate) == 0


def check_rate(name: str, rate: Any) -> None:
    """Raises `InputError` unless a rate is in `[0, 1)`; a traced one cannot be looked at."""
    if not is_traced(rate) and not 0 <= float(rate) < 1:
        raise InputError(f"{name} must be in [0, 1), got {rate}")


class Stability(NamedTuple):
    """How long the ranking of the operations with parameters has stood.

    The state of the second stop rule of DARTS+, see `has_settled`. JSON keeps it:
    `Stability(*json.loads(json.dumps(stability)))` goes on where it was.

    Attributes:
        ranks: in lists and dicts, as JSON gives them back, or None before the first
            epoch.
        epochs: for how many epochs in a row it has not changed.
    """

    ranks: Any = None
    epochs: int = 0

    def update(self, ranks: Any) -> "Stability":
        """Returns the stability after one more epoch, which ended with this ranking."""
        return Stability(ranks, self.epochs + 1 if ranks == self.ranks else 0)


def has_settled(stability: Stability, patience: int = 10) -> bool:
    """Returns whether the ranking has stood for `patience` epochs in a row.

    The second stop rule of DARTS+: the operations with parameters have been learnt.

    Args:
        stability: updated at the end of every epoch.
        patience: epochs without a change of rank on any edge of either cell.

    References: Liang et al. 2019 (DARTS+), arXiv 1909.06035.
    """
    return stability.epochs >= patience
