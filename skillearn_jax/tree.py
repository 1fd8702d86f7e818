"""Floor 0: the pytree operations that optax.tree does not have."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from skillearn_jax.types import PyTree


def is_differentiable(leaf: PyTree) -> bool:
    """Returns whether a leaf is a real or complex number: not an integer or a key."""
    return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


def partition(
    tree: PyTree, select: Callable[[PyTree], bool]
) -> tuple[PyTree, Callable[[PyTree], PyTree]]:
    """Splits off the selected leaves and returns them with the way back.

    Args:
        tree: any pytree.
        select: `leaf -> bool`.

    Returns:
        `(chosen, merge)`: `chosen` has the structure of `tree` with `None` in place of
        the other leaves, and `merge(chosen)` puts those back.
    """
    chosen = jax.tree.map(lambda leaf: leaf if select(leaf) else None, tree)

    def merge(new: PyTree) -> PyTree:
        return jax.tree.map(
            lambda kept, leaf: kept if leaf is None else leaf,
            tree,
            new,
            is_leaf=lambda leaf: leaf is None,
        )

    return chosen, merge


def mean_over_devices(tree: PyTree, axis_name: str | None) -> PyTree:
    """Returns the mean of every leaf over a mapped device axis.

    Integer leaves are equal on all devices and pass as they are; without an axis
    name, so does the whole tree.
    """
    if axis_name is None:
        return tree
    chosen, merge = partition(tree, is_differentiable)
    return merge(jax.lax.pmean(chosen, axis_name))


def sum_over_devices(tree: PyTree, axis_name: str | None) -> PyTree:
    """Returns the sum of every leaf over a mapped device axis; without one, the tree.

    For losses that are ratios over the whole batch: sum the numerator and the
    denominator, then divide. The mean of the devices' ratios is something else.
    """
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)


def cast_floats(tree: PyTree, dtype: str) -> PyTree:
    """Returns the tree with all floats in one type; integers and keys as they are."""
    return jax.tree.map(
        lambda leaf: (
            jnp.asarray(np.asarray(leaf), jnp.dtype(dtype))
            if is_differentiable(leaf)
            else leaf
        ),
        tree,
    )


def widen(tree: PyTree) -> PyTree:
    """Returns the tree with half precision widened to float32: to accumulate in."""
    return jax.tree.map(
        lambda leaf: leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)), tree
    )


def like(tree: PyTree, other: PyTree) -> PyTree:
    """Returns the tree with each leaf in the type of its counterpart."""
    return jax.tree.map(
        lambda leaf, target: leaf.astype(jnp.result_type(target)), tree, other
    )
