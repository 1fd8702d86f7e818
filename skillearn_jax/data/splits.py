"""Cuts of a set of examples: search halves and balanced subsets."""

import numpy as np

from skillearn_jax.data.examples import Examples
from skillearn_jax.errors import InputError


def halves(
    examples: Examples, fraction: float = 0.5, *, stratified: bool = False
) -> tuple[Examples, Examples]:
    """Returns the two parts of a search: weights' training set, then validation set.

    The papers cut CIFAR's training images by index, the first half and the last. The
    test bank of learning by passing tests is by default the second part too.

    Args:
        examples: the training set, N examples.
        fraction: share of the first part, in (0, 1); `floor(fraction * N)` examples.
        stratified: takes that share of each class, rounded to the nearest, instead of
            the first examples overall. Needed when the set is sorted by class.

    Returns:
        `(first, second)`, disjoint and together everything, each in the order of
        `examples`. Nothing is random.

    Raises:
        InputError: if a part would be empty, or without a class of the other; but for a
            class of one example, which a stratified cut leaves to the first part.

    References: Liu et al. 2019, DARTS, 1806.09055 (section 3.1).
    """
    label = np.asarray(examples.label)
    if stratified:
        first = stratified_mask(label, fraction)
    else:
        # 0.29 of 100 are 29, where the product of floats is 28.999999999999996.
        share = int(round(fraction * examples.size, 6))
        first = np.arange(examples.size) < share
    if first.all() or not first.any():
        raise InputError(
            f"train fraction {fraction} leaves a part of {examples.size} examples "
            "empty: set --config.data.train_fraction to a value between 0 and 1"
        )
    lacking = np.setxor1d(label[first], label[~first])
    if lacking.size and not stratified:
        raise InputError(
            f"cut by index, one of the parts of {examples.size} examples has no example "
            f"of class {lacking[0]}: set --config.data.stratified=True"
        )
    # A class of one example cannot be in both parts: it trains.
    alone = (np.bincount(label)[lacking] == 1) & np.isin(lacking, label[first])
    if not alone.all():
        lost = lacking[~alone][0]
        raise InputError(
            f"of class {lost}, which has {np.sum(label == lost)} in all, one of the parts "
            f"has no example at the train fraction {fraction}: set another "
            "--config.data.train_fraction"
        )
    return examples.take(np.flatnonzero(first)), examples.take(np.flatnonzero(~first))


def balanced_subset(examples: Examples, per_class: int, after: int = 0) -> Examples:
    """Returns as many examples of each class, in their order.

    Args:
        examples: with classes 0..K-1, K one more than the largest label.
        per_class: examples to keep of each class, at least 1.
        after: examples of each class to leave out before them.

    Returns:
        `K * per_class` examples.

    Raises:
        InputError: if a class has fewer.
    """
    label = np.asarray(examples.label)
    smallest = np.bincount(label).min()
    if per_class < 1 or after < 0 or after + per_class > smallest:
        left_out = f", after {after} that are left out," if after else ""
        raise InputError(
            f"{per_class} examples of each class{left_out} were asked for: together "
            f"they must be from 1 to {smallest}, the size of the smallest class: set "
            "--config.data.per_class"
        )
    rank = _rank_in_class(label)
    return examples.take(np.flatnonzero((rank >= after) & (rank < after + per_class)))


def stratified_mask(label: np.ndarray, fraction: float) -> np.ndarray:
    """Returns which examples make up the first `fraction` of their class.

    Args:
        label: `[N]` classes.
        fraction: share of each class, rounded to the nearest example.

    Returns:
        `[N] bool`.
    """
    quota = np.floor(fraction * np.bincount(label) + 0.5)
    return _rank_in_class(label) < quota[label]


def _rank_in_class(label: np.ndarray) -> np.ndarray:
    """Returns for each example how many of its class come before it, `[N] int64`."""
    count = np.bincount(label)
    first = np.cumsum(count) - count
    order = np.argsort(label, kind="stable")
    rank = np.empty(len(label), np.int64)
    rank[order] = np.arange(len(label)) - np.repeat(first, count)
    return rank
