"""Floor 3: an exam: how it is scored, made harder, held, and what it holds."""

import jax
import jax.numpy as jnp

from skillearn_jax.tree import gather_over_devices, norm, sum_over_devices
from skillearn_jax.types import Array


def normalized_exam_loss(
    losses: Array,
    scores: Array,
    axis_name: str | None = None,
    hardness: Array | float | None = None,
) -> Array:
    """Returns the loss of an exam per selected example, `sum(f^h l) / sum(f^h)`.

    Only the proportions of the scores matter: they are taken relative to the largest, so
    that the gradient is exact down to the smallest normal number of their type.

    Args:
        losses: `[B]` the learner's loss on each example of the bank.
        scores: `[B]` selection probabilities f in (0, 1).
        axis_name: the device axis that the batch is split over, if it is.
        hardness: `[]` h, see `harden`; by default 1.

    Returns:
        `[]`; zero for an exam of size zero, with all scores below that number, unless h is
        0 and it is the whole bank all the same.
    """
    # One factor for all leaves the ratio, and so its derivative, as it is. Without it
    # the square of the exam's size, in the derivative, underflows long before the size.
    largest = gather_over_devices(jnp.max(scores)[None], axis_name)
    largest = jax.lax.stop_gradient(jnp.max(largest))
    empty = largest < jnp.finfo(scores.dtype).tiny
    scores = jnp.where(empty, 0, scores / jnp.where(empty, 1, largest))
    if hardness is not None:
        scores, empty = harden(scores, hardness), empty & (hardness != 0)
    total, size = sum_over_devices(
        (jnp.sum(scores * losses), jnp.sum(scores)), axis_name
    )
    return jnp.where(empty, 0, total / jnp.where(empty, 1, size))


def harden(scores: Array, hardness: Array | float) -> Array:
    """Returns the scores of a harder (or easier) exam from the same tester, `f^h`.

        w_d = f(d; C, E)^h,      d/dh sum(w l) / sum(w) = Cov_w(log f, l)

    At h = 0 the exam is the whole bank, at h = 1 the tester's own, and as h grows only the
    examples with the largest scores are left. So the exam grows harder with h exactly as
    far as the tester gives large scores to what the learner gets wrong. The derivative
    with respect to the tester is `dw = w h dlog f`: at h = 0 it learns nothing here.

    Args:
        scores: `[B]` selection probabilities f in (0, 1].
        hardness: `[]` h, at least 0.

    Returns:
        `[B]` in (0, 1].
    """
    # A score that underflowed to zero would have log -inf, and 0 * inf in the derivative.
    smallest = jnp.finfo(scores.dtype).tiny
    return jnp.exp(hardness * jnp.log(jnp.maximum(scores, smallest)))


def hold(scores: Array, share: Array | float) -> Array:
    """Returns the discrete exam: a mask of the share of the bank with the top scores.

    Args:
        scores: `[B]` selection scores.
        share: `[]` in [0, 1]; it may be traced. `ceil(share B)` examples are taken, at
            least one; of equal scores the earlier.

    Returns:
        `[B]` bool. It has no gradient.
    """
    order = jnp.argsort(-scores, stable=True)
    rank = jnp.zeros_like(order).at[order].set(jnp.arange(scores.size))
    # A share of 0.3 is a little more than 3/10 in binary: not one example more for that.
    # By the rounding of the share: that of bfloat16, as scores may be, would take 3 %.
    eps = jnp.finfo(jnp.result_type(share, float)).eps
    count = jnp.ceil(share * scores.size * (1 - 4 * eps))
    return rank < jnp.maximum(count, 1)


def class_rates(scores: Array, labels: Array, num_classes: int) -> Array:
    """Returns the expected share of each class that the exam selects.

        rate_c = sum_{d in c} f_d / |c|

    Args:
        scores: `[B]` selection probabilities, or a mask from `hold`.
        labels: `[B]` classes.
        num_classes: C.

    Returns:
        `[C]`; 0 for a class that the bank does not hold.
    """
    scores = scores.astype(jnp.result_type(float))
    chosen = jax.ops.segment_sum(scores, labels, num_classes)
    count = jax.ops.segment_sum(jnp.ones_like(scores), labels, num_classes)
    return chosen / jnp.maximum(count, 1)


def extremes(losses: Array, mask: Array, count: int) -> tuple[Array, Array]:
    """Returns the hardest and the easiest examples of an exam, by the learner's loss.

    Args:
        losses: `[B]` the learner's loss on each example of the bank.
        mask: `[B]` bool, the exam, as from `hold`.
        count: how many of each, at most B.

    Returns:
        `(hardest, easiest)`, both `[count] int32`, the most extreme first; -1 where
        the exam holds fewer.
    """
    size = jnp.sum(mask)

    def first(keys: Array) -> Array:
        order = jnp.argsort(jnp.where(mask, keys, jnp.inf), stable=True)[:count]
        return jnp.where(jnp.arange(count) < size, order, -1)

    return first(-losses), first(losses)


def score_loss_correlation(scores: Array, losses: Array) -> Array:
    """Returns Pearson's correlation of the selection score with the learner's loss.

    It is near 1 where the exam asks what the learner does not know, and negative where it
    asks what is known. Zero if one of them is constant.

    Args:
        scores: `[B]` selection probabilities.
        losses: `[B]` the learner's loss on the same examples.
    """

    def unit(x: Array) -> Array:
        x = x - jnp.mean(x)
        length = norm(x)  # scores of a shrunken exam are small
        return x / jnp.where(length == 0, 1, length)

    return jnp.sum(unit(scores) * unit(losses))
