"""Floor 4: the two optimisers of differentiable search, from their configs."""

import jax
import jax.numpy as jnp
import optax

from skillearn_jax.parallel import sharded
from skillearn_jax.subroutines import subroutine
from skillearn_jax.train.config import AdamConfig, SgdConfig
from skillearn_jax.types import Array, PyTree


def learning_rate(
    config: SgdConfig, epochs: int, steps_per_epoch: int, accumulate: int = 1
) -> optax.Schedule:
    """Returns the learning rate of each update.

        cosine       min_lr + (lr - min_lr) (1 + cos(pi epoch / epochs)) / 2
        linear       min_lr + (lr - min_lr) (1 - epoch / epochs)
        exponential  lr decay^epoch

    A tail of T epochs makes the last part of `linear` flatter, as in P-DARTS's code: with
    E = epochs - T, the bracket is `1 - epoch / E` before epoch E and `(epochs - epoch) /
    (E T)` from there on. In the first `warmup_epochs` the rate is multiplied by
    `(epoch + 1) / warmup_epochs`. It changes at each epoch's start; with `by_step` at each
    update, the epoch being a fraction.

    Args:
        config: of the optimiser.
        epochs: of the whole run.
        steps_per_epoch: batches of an epoch.
        accumulate: batches of an update; the schedule counts updates.
    """
    lr, min_lr, warmup = config.lr, config.min_lr, config.warmup_epochs
    tail = config.tail_epochs

    def schedule(count: Array) -> Array:
        if config.by_step:
            epoch = count * (accumulate / steps_per_epoch)
        else:
            epoch = count * accumulate // steps_per_epoch
        epoch = jnp.minimum(epoch, epochs)
        if config.schedule == "cosine":
            rate = min_lr + (lr - min_lr) * (1 + jnp.cos(jnp.pi * epoch / epochs)) / 2
        elif config.schedule == "linear":
            left = 1 - epoch / (epochs - tail)
            if tail:
                flat = (epochs - epoch) / ((epochs - tail) * tail)
                left = jnp.where(epoch < epochs - tail, left, flat)
            rate = min_lr + (lr - min_lr) * left
        else:
            rate = lr * config.decay**epoch
        if not warmup:
            return rate
        return rate * jnp.minimum((epoch + 1) / warmup, 1)

    return schedule


def sgd(
    config: SgdConfig,
    epochs: int,
    steps_per_epoch: int,
    accumulate: int = 1,
    split_over: str | None = None,
    start_epoch: int = 0,
) -> optax.GradientTransformation:
    """Returns SGD in PyTorch's order: clip, decay into the gradient, momentum.

    Args:
        config: of the optimiser.
        epochs: of the whole run.
        steps_per_epoch: batches of an epoch.
        accumulate: batches whose mean gradient makes one update, clipped as one; after
            the others the parameters stay.
        split_over: the device axis that the momentum is split over; `None` keeps all of
            it on every device.
        start_epoch: of the first update, for what rests in the epochs before.
    """
    rate = learning_rate(config, epochs, steps_per_epoch, accumulate)
    rested = start_epoch * steps_per_epoch // accumulate

    def schedule(count: Array) -> Array:
        return rate(count + rested)

    momentum = config.momentum or None
    update = optax.chain(
        clip_by_global_norm(config.clip) if config.clip else optax.identity(),
        optax.add_decayed_weights(config.weight_decay),
        sharded(optax.sgd(schedule, momentum, config.nesterov), split_over),
    )
    if accumulate > 1:
        update = optax.MultiSteps(update, accumulate).gradient_transformation()
    # The gather of a split state is no matter for a subroutine.
    return update if split_over else _computed_once(update)


@subroutine
def _norm(tree: PyTree) -> Array:
    """Returns the Euclidean norm, and where all squares underflow 0 with derivative 0."""
    square = optax.tree.norm(tree, squared=True)
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), 0)


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """Returns optax's clipping, `g <- g max_norm / ||g||` where the norm is not below.

    With the norm in a subroutine: else its cotangent, a sum over all arrays, is computed
    anew for each of them in the pull-back, which takes XLA long to compile. And with a
    derivative where gradients are so small that their squares are 0 (optax's is NaN).
    """

    def clip(updates: PyTree, params: PyTree = None) -> PyTree:
        del params
        norm = _norm(updates)
        within = norm < max_norm
        divisor = jnp.where(within, 1, norm)
        return jax.tree.map(
            lambda g: jnp.where(within, g, (g / divisor.astype(g.dtype)) * max_norm),
            updates,
        )

    return optax.stateless(clip)


def adam(config: AdamConfig) -> optax.GradientTransformation:
    """Returns Adam with L2 decay inside the gradient (not AdamW), clipped before."""
    clip = [clip_by_global_norm(config.clip)] if config.clip else []
    return _computed_once(
        optax.chain(
            *clip,
            optax.add_decayed_weights(config.weight_decay),
            optax.adam(config.lr, b1=config.beta1, b2=config.beta2),
        )
    )


def _computed_once(
    optimizer: optax.GradientTransformation,
) -> optax.GradientTransformation:
    """Returns the optimiser with its update in a subroutine.

    Else XLA computes the update of a weight anew in everything that reads it: the loss
    after the look-ahead reads each in many places.
    """
    return optax.GradientTransformation(optimizer.init, subroutine(optimizer.update))
