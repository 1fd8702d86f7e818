"""Floor 1: an optimiser whose state is split over the devices, a part on each.

A leaf is flattened, filled up with zeros and cut into as many rows as there are devices.
Scalars, such as counts of steps, are everywhere.
"""

import functools
import math

import jax
import jax.numpy as jnp
import optax

from skillearn_jax.errors import InputError
from skillearn_jax.tree import Sharded
from skillearn_jax.types import Array, PyTree


def sharded(
    optimizer: optax.GradientTransformation, axis_name: str | None
) -> optax.GradientTransformation:
    """Returns the same optimiser, with 1 / n of its state on each of n devices.

    Device i updates its rows of the parameters, from its rows of the (averaged) gradient
    and of the state; then all devices gather the updates. Parameters stay whole
    everywhere. The numbers are those of the optimiser itself, and gradients flow through
    it as they do there.

    Args:
        optimizer: must treat each number apart, as SGD with momentum and Adam do, and
            clipping by a norm does not: chain that before.
        axis_name: the device axis; without one, the optimiser is returned as it is.

    Raises:
        InputError: in `init`, for a state that is not made of scalars and of arrays that
            are shaped like parameters.

    Cost: an update gathers the bytes of the parameters, as does the pull-back of one. Of
    the state, n - 1 of n parts are saved.

    References:
        Rajbhandari, Rasley, Ruwase, He 2020, ZeRO, stage 1, arXiv 1910.02054.
    """
    if axis_name is None:
        return optimizer

    def init(params: PyTree) -> Sharded:
        state = Sharded.of(optimizer.init(params))
        known = {jnp.shape(leaf) for leaf in jax.tree.leaves(params)} | {()}
        for shape in state.shapes:
            if shape not in known:
                raise InputError(
                    f"an optimiser with a state of shape {list(shape)}, which is that of no "
                    "parameter, cannot be sharded: set "
                    "--config.parallel.tester_optimizer=replicated"
                )
        return state

    def update(
        gradient: PyTree, state: Sharded, params: PyTree = None
    ) -> tuple[PyTree, Sharded]:
        def cut(tree: PyTree) -> PyTree:
            return jax.tree.map(lambda x: _cut(x, jnp.shape(x), axis_name), tree)

        own = state.map(lambda row, shape: row.reshape(-1 if shape else ()))
        updates, new = optimizer.update(
            cut(gradient), own.tree, None if params is None else cut(params)
        )
        updates = jax.tree.map(
            lambda row, like: _join(row, jnp.shape(like), axis_name), updates, gradient
        )
        rows = [leaf.reshape(1, -1) for leaf in jax.tree.leaves(new)]
        return updates, Sharded(rows, state.structure, state.shapes)

    return optax.GradientTransformation(init, update)


def to_rows(whole: Array, count: int) -> Array:
    """Returns a whole leaf as `[count, k]`, a row for each device."""
    if not whole.shape:
        return jnp.broadcast_to(whole, (count, 1))
    width = -(-whole.size // count)
    flat = jnp.pad(whole.reshape(-1), (0, count * width - whole.size))
    return flat.reshape(count, width)


def to_whole(rows: Array, shape: tuple[int, ...]) -> Array:
    """Returns the leaf of a shape whose rows these are."""
    return rows.reshape(-1)[: math.prod(shape)].reshape(shape)


# The parameters are equal on all devices, and so is a cotangent of them: what is cut is
# joined in the pull-back, and not summed, as the derivative of a gather by itself would.


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _cut(whole: Array, shape: tuple[int, ...], axis_name: str) -> Array:
    """Returns this device's row of a leaf that is equal on all devices, `[k]`."""
    if not shape:
        return whole
    rows = to_rows(whole, jax.lax.axis_size(axis_name))
    index = jax.lax.axis_index(axis_name)
    return jax.lax.dynamic_index_in_dim(rows, index, keepdims=False)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _join(row: Array, shape: tuple[int, ...], axis_name: str) -> Array:
    """Returns the whole leaf, equal on all devices, of the rows that each holds."""
    if not shape:
        return row
    return to_whole(jax.lax.all_gather(row, axis_name), shape)


_cut.defvjp(
    lambda whole, shape, axis_name: (_cut(whole, shape, axis_name), None),
    lambda shape, axis_name, _, row: (_join(row, shape, axis_name),),
)
_join.defvjp(
    lambda row, shape, axis_name: (_join(row, shape, axis_name), None),
    lambda shape, axis_name, _, whole: (_cut(whole, shape, axis_name),),
)
