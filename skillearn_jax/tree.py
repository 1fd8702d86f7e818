"""Floor 0: the pytree operations that optax.tree does not have."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import keystr

from skillearn_jax.errors import InputError
from skillearn_jax.types import Array, PyTree


def owned(tree: PyTree) -> PyTree:
    """Returns a copy: a donated state shares no buffer with itself or with the caller.

    Strongly typed, since a weak type would compile a step twice.
    """
    return jax.tree.map(lambda leaf: jnp.array(leaf, jnp.result_type(leaf)), tree)


def form(tree: PyTree) -> PyTree:
    """Returns what a compiled step depends on: the structure, shapes and types."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves]


def is_differentiable(leaf: PyTree) -> bool:
    """Returns whether a leaf is a real or complex number: not an integer or a key."""
    return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


def by_path(tree: PyTree) -> dict[str, PyTree]:
    """Returns the leaves by their paths, as in `params/weights/stem/kernel`.

    Raises:
        InputError: if two leaves have the same path.
    """
    leaves = jax.tree.leaves_with_path(tree)
    found: dict[str, PyTree] = {}
    for keys, leaf in leaves:
        path = keystr(keys, simple=True, separator="/")
        if path in found:
            raise InputError(f"two leaves have the path {path!r}: rename one")
        found[path] = leaf
    return found


def kind(leaf: PyTree) -> str:
    """Returns type and shape of an array, as in `float32[3, 4]`."""
    return f"{leaf.dtype.name}{list(leaf.shape)}"


@jax.tree_util.register_pytree_with_keys_class
class Sharded:
    """A tree of which each device of a mapped axis holds a part; see `parallel.sharding`.

    Outside a mapped function the leaves are whole, inside they are this device's rows,
    `[1, k]`. As a pytree it consists of its leaves, under the paths that they have in the
    plain tree, so that a checkpoint does not say whether a state was sharded.

    Attributes:
        leaves: the leaves of the tree, whole or this device's rows of them.
        structure: the structure of the tree.
        shapes: the shape of each leaf when it is whole.
    """

    def __init__(
        self,
        leaves: Sequence[PyTree],
        structure: PyTree,
        shapes: tuple[tuple[int, ...], ...],
    ) -> None:
        self.leaves, self.structure, self.shapes = tuple(leaves), structure, shapes

    @classmethod
    def of(cls, tree: PyTree) -> "Sharded":
        """Returns it of a tree of whole leaves, which the backends split over devices."""
        leaves, structure = jax.tree.flatten(tree)
        return cls(leaves, structure, tuple(jnp.shape(leaf) for leaf in leaves))

    @property
    def tree(self) -> PyTree:
        """The tree with the leaves as they are, whole or in part."""
        return jax.tree.unflatten(self.structure, self.leaves)

    def map(self, function: Callable[..., PyTree]) -> "Sharded":
        """Returns it with `function(leaf, shape)` of each leaf and its whole shape."""
        leaves = map(function, self.leaves, self.shapes)
        return Sharded(tuple(leaves), self.structure, self.shapes)

    def tree_flatten(self) -> tuple[PyTree, PyTree]:
        """Returns the leaves, and what is static.

        JAX asks for the paths only where there is no such method, and writing them takes
        many times longer.
        """
        return self.leaves, (self.structure, self.shapes)

    def tree_flatten_with_keys(self) -> tuple[PyTree, PyTree]:
        """Returns the leaves with their paths, and what is static."""
        numbers = jax.tree.unflatten(self.structure, range(len(self.leaves)))
        named = [
            (jax.tree_util.DictKey(path), self.leaves[i])
            for path, i in by_path(numbers).items()
        ]
        return named, (self.structure, self.shapes)

    @classmethod
    def tree_unflatten(cls, static: PyTree, leaves: Sequence[PyTree]) -> "Sharded":
        """Returns it with other leaves."""
        return cls(leaves, *static)


def is_sharded(leaf: PyTree) -> bool:
    """Returns whether something is `Sharded`; for `is_leaf`."""
    return isinstance(leaf, Sharded)


def partition(
    tree: PyTree,
    select: Callable[[PyTree], bool],
    is_leaf: Callable[[PyTree], bool] = lambda leaf: False,
) -> tuple[PyTree, Callable[[PyTree], PyTree]]:
    """Splits off the selected leaves and returns them with the way back.

    Args:
        tree: any pytree.
        select: `leaf -> bool`.
        is_leaf: what else counts as a leaf.

    Returns:
        `(chosen, merge)`: `chosen` has the structure of `tree` with `None` in place of
        the other leaves, and `merge(chosen)` puts those back.
    """
    chosen = jax.tree.map(
        lambda leaf: leaf if select(leaf) else None, tree, is_leaf=is_leaf
    )

    def merge(new: PyTree) -> PyTree:
        return jax.tree.map(
            lambda kept, leaf: kept if leaf is None else leaf,
            tree,
            new,
            is_leaf=lambda leaf: leaf is None or is_leaf(leaf),
        )

    return chosen, merge


def mean_over_devices(tree: PyTree, axis_name: str | None) -> PyTree:
    """Returns the mean of every leaf over a mapped device axis.

    Integer leaves are equal on all devices and pass as they are, as do the parts of what
    is `Sharded`, which are of different things; without an axis name, so does the whole
    tree.

    Raises:
        InputError: for an axis that `check_axis` refuses; so in sums and gathers.
    """
    if axis_name is None:
        return tree
    check_axis(axis_name)
    chosen, merge = partition(
        tree, lambda leaf: not is_sharded(leaf) and is_differentiable(leaf), is_sharded
    )
    return merge(jax.lax.pmean(chosen, axis_name))


def check_axis(axis_name: str) -> None:
    """Raises `InputError` unless an axis is mapped, and means over it are what they seem.

    Under `jax.shard_map` with its default, `check_vma=True`, gradients with respect to
    values that are equal on all devices come out summed over them: each mean of such
    gradients would be too large by the number of devices.

    Args:
        axis_name: of the devices.
    """
    try:
        index = jax.lax.axis_index(axis_name)
    except NameError as error:
        raise InputError(
            f"axis_name={axis_name!r} is not mapped here: call the step under jax.pmap or "
            "jax.shard_map with this axis, or leave axis_name out"
        ) from error
    if axis_name in jax.typeof(index).mat.varying:  # noted by `check_vma=True` alone
        raise InputError(
            f"axis_name={axis_name!r} is of a jax.shard_map that sums gradients by itself: "
            "give it check_vma=False"
        )


def sum_over_devices(tree: PyTree, axis_name: str | None) -> PyTree:
    """Returns the sum of every leaf over a mapped device axis; without one, the tree.

    For losses that are ratios over the whole batch: sum the numerator and the
    denominator, then divide. The mean of the devices' ratios is something else.
    """
    if axis_name is None:
        return tree
    check_axis(axis_name)
    return jax.lax.psum(tree, axis_name)


def gather_over_devices(array: Array, axis_name: str | None) -> Array:
    """Returns the parts of all devices, one after the other; without an axis, the array.

    For what is no mean over the batch, such as the examples with the largest scores.
    """
    if axis_name is None:
        return array
    check_axis(axis_name)
    return jax.lax.all_gather(array, axis_name, tiled=True)


def cast_floats(tree: PyTree, dtype: str) -> PyTree:
    """Returns the tree with all floats in one type; integers and keys as they are.

    Integers of 64 bits are the exception: where the type is not float64 they become
    integers of 32 bits, since JAX has both 64-bit types or neither. A complex number has
    parts of the type, or of float32 where there are none.
    """
    narrow = {"int64": "int32", "uint64": "uint32"} if dtype != "float64" else {}

    def cast(leaf: PyTree) -> PyTree:
        kind: Any
        if jnp.iscomplexobj(leaf):
            kind = jnp.promote_types(dtype, jnp.complex64)
        elif is_differentiable(leaf):
            kind = jnp.dtype(dtype)
        else:
            kind = narrow.get(_type(leaf))
        return leaf if kind is None else jnp.asarray(np.asarray(leaf).astype(kind))

    return jax.tree.map(cast, tree)


def _type(leaf: PyTree) -> str:
    return str(getattr(leaf, "dtype", ""))


def widen(tree: PyTree) -> PyTree:
    """Returns the tree with half precision widened to float32: to accumulate in."""
    return jax.tree.map(
        lambda leaf: leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)), tree
    )


def norm(tree: PyTree) -> Array:
    """Returns the Euclidean norm, however small the numbers: no square underflows.

    Computed in units of the largest number, where `optax.tree.norm` of numbers below
    1e-19 is 0 in float32.
    """
    largest = optax.tree.norm(tree, ord="inf")
    unit = jnp.where(largest == 0, 1, largest)
    return unit * optax.tree.norm(optax.tree.scale(1 / unit, tree))


def like(tree: PyTree, other: PyTree) -> PyTree:
    """Returns the tree with each leaf in the type of its counterpart."""
    return jax.tree.map(
        lambda leaf, target: leaf.astype(jnp.result_type(target)), tree, other
    )
