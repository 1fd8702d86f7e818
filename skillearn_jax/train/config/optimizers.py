"""Floor 4: the groups of config keys that say how parameters move."""

import dataclasses

from skillearn_jax.train.fields import choice, number


@dataclasses.dataclass(frozen=True)
class SgdConfig:
    """SGD: clip, then L2 decay into the gradient, then momentum.

    Attributes:
        lr: the initial learning rate.
        min_lr: the learning rate that `cosine` and `linear` end in.
        schedule: how the rate falls, epoch by epoch unless `by_step`: `cosine`, `linear`, or
            `exponential` by the factor `decay`.
        decay: of `exponential`.
        tail_epochs: `linear` falls to its own step size when as many epochs are left, and
            then in steps that are smaller by this factor; 0 for one straight line.
        warmup_epochs: in these first epochs the scheduled rate is multiplied by 1/n, 2/n,
            ... 1.
        by_step: let the rate fall within an epoch too, step by step by the same formula.
        momentum: of the heavy ball.
        nesterov: look ahead along the momentum, as NAS-Bench-201's trainings do.
        weight_decay: added to the gradient, before momentum.
        clip: global norm of the gradient; 0 does not clip.
    """

    lr: float = number(0.025, above=0)
    min_lr: float = number(0.001, at_least=0)
    schedule: str = choice("cosine", ("cosine", "linear", "exponential"))
    decay: float = number(0.97, above=0, at_most=1)
    tail_epochs: int = number(0, at_least=0)
    warmup_epochs: int = number(0, at_least=0)
    by_step: bool = False
    momentum: float = number(0.9, at_least=0, below=1)
    nesterov: bool = False
    weight_decay: float = number(3e-4, at_least=0)
    clip: float = number(5.0, at_least=0)


@dataclasses.dataclass(frozen=True)
class AdamConfig:
    """Adam with L2 decay inside the gradient, as DARTS has it for alpha.

    Attributes:
        lr: the learning rate.
        beta1: decay of the first moment.
        beta2: decay of the second moment.
        weight_decay: added to the gradient, after clipping.
        clip: global norm of the gradient, as in P-DARTS; 0 does not clip.
    """

    lr: float = number(3e-4, above=0)
    beta1: float = number(0.5, at_least=0, below=1)
    beta2: float = number(0.999, at_least=0, below=1)
    weight_decay: float = number(1e-3, at_least=0)
    clip: float = number(0.0, at_least=0)
