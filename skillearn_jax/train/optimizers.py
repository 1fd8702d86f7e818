"""Floor 4: the two optimisers of differentiable search, from their configs."""

import jax.numpy as jnp
import optax

from skillearn_jax.train.config import AdamConfig, SgdConfig
from skillearn_jax.types import Array


def cosine_by_epoch(
    lr: float, min_lr: float, epochs: int, steps_per_epoch: int
) -> optax.Schedule:
    """Returns a cosine from `lr` to `min_lr` that changes at each epoch's start.

        min_lr + (lr - min_lr) (1 + cos(pi epoch / epochs)) / 2

    Args:
        lr: at epoch 0.
        min_lr: after the last epoch.
        epochs: of the whole run.
        steps_per_epoch: the schedule counts steps.
    """

    def schedule(count: Array) -> Array:
        epoch = jnp.minimum(count // steps_per_epoch, epochs)
        return min_lr + (lr - min_lr) * (1 + jnp.cos(jnp.pi * epoch / epochs)) / 2

    return schedule


def sgd(
    config: SgdConfig, epochs: int, steps_per_epoch: int
) -> optax.GradientTransformation:
    """Returns SGD in PyTorch's order: clip, decay into the gradient, momentum."""
    schedule = cosine_by_epoch(config.lr, config.min_lr, epochs, steps_per_epoch)
    return optax.chain(
        optax.clip_by_global_norm(config.clip) if config.clip else optax.identity(),
        optax.add_decayed_weights(config.weight_decay),
        optax.sgd(schedule, momentum=config.momentum or None, nesterov=config.nesterov),
    )


def adam(config: AdamConfig) -> optax.GradientTransformation:
    """Returns Adam with L2 decay inside the gradient (not AdamW), clipped before."""
    clip = [optax.clip_by_global_norm(config.clip)] if config.clip else []
    return optax.chain(
        *clip,
        optax.add_decayed_weights(config.weight_decay),
        optax.adam(config.lr, b1=config.beta1, b2=config.beta2),
    )
