"""Floor 1: the ways in which one step runs on the devices; `devices.py` chooses.

A step is written once, with the axis name `AXIS_NAME`, and takes and returns values that
are equal on all devices: the state and the data set. What differs between devices is the
part of the batch that they gather, by `Devices.part`, and what is `Sharded`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from skillearn_jax.parallel.sharding import to_rows, to_whole
from skillearn_jax.tree import Sharded, is_sharded
from skillearn_jax.types import Array, PyTree

AXIS_NAME = "devices"
"""The name of the mapped axis that every mean and sum over devices uses."""


class Backend(Protocol):
    """A way to run a step; see `Devices` for what the methods do."""

    def compile(self, step: Callable[..., Any], *args: PyTree) -> jax.stages.Compiled:
        """Returns the step compiled; the first argument is donated."""

    def place(self, tree: PyTree, *, donated: bool) -> PyTree:
        """Returns the tree on every device."""

    def split(self, tree: PyTree) -> PyTree:
        """Returns the rows of this process, split over its devices."""

    def fetch(self, tree: PyTree) -> PyTree:
        """Returns the copy of this process's first device."""


@dataclass(frozen=True)
class OneDevice:
    """Plain `jit`: there is no axis."""

    def compile(self, step: Callable[..., Any], *args: PyTree) -> jax.stages.Compiled:
        """Returns the step compiled; the first argument is donated."""
        return jax.jit(step, donate_argnums=0).lower(*args).compile()

    def place(self, tree: PyTree, *, donated: bool) -> PyTree:
        """Returns the tree on the device, and a copy where it will be donated."""
        return jax.tree.map(jnp.copy, tree) if donated else jax.device_put(tree)

    def split(self, tree: PyTree) -> PyTree:
        """Returns the tree on the device."""
        return jax.device_put(tree)

    def fetch(self, tree: PyTree) -> PyTree:
        """Returns the tree as it is."""
        return tree


@dataclass(frozen=True)
class Pmap:
    """`jax.pmap`: every leaf has a leading axis of devices, one entry each.

    Leaves span the devices of all processes. `pmap` itself speaks of those of its own
    process only, which is why it is shown such a view where it asks for shapes.

    Attributes:
        devices: of all processes.
    """

    devices: Sequence[jax.Device]

    def compile(self, step: Callable[..., Any], *args: PyTree) -> jax.stages.Compiled:
        """Returns the step compiled; the first argument is donated."""
        mapped = jax.pmap(step, AXIS_NAME, devices=self.devices, donate_argnums=(0,))
        return mapped.lower(*jax.tree.map(_local_view, args)).compile()

    def place(self, tree: PyTree, *, donated: bool) -> PyTree:
        """Returns a copy on every device, with a leading device axis, in any case."""
        sharding = NamedSharding(_mesh(self.devices), PartitionSpec(AXIS_NAME))
        count, local = len(self.devices), _local(self.devices)

        def put(leaf: Any) -> Array:
            row = jnp.asarray(leaf)[None]
            copies = [jax.device_put(row, device) for device in local]
            return jax.make_array_from_single_device_arrays(
                (count, *row.shape[1:]), sharding, copies
            )

        of_all = put if donated else _once(put)
        return _each(of_all, lambda parts: _spread(parts, self.devices, 1), tree)

    def split(self, tree: PyTree) -> PyTree:
        """Returns the rows of this process, with a leading device axis."""
        sharding = NamedSharding(_mesh(self.devices), PartitionSpec(AXIS_NAME))
        count, local = len(self.devices), len(_local(self.devices))

        def put(leaf: Any) -> Array:
            rows = np.asarray(leaf)
            rows = rows.reshape(local, -1, *rows.shape[1:])
            shape = (count, *rows.shape[1:])
            return jax.make_array_from_process_local_data(sharding, rows, shape)

        return jax.tree.map(put, tree)

    def fetch(self, tree: PyTree) -> PyTree:
        """Returns the copy of this process's first device, without the axis."""
        return _each(lambda leaf: leaf.addressable_data(0)[0], _gather, tree)


@dataclass(frozen=True)
class ShardMap:
    """`jax.shard_map`: every leaf is one array, replicated over the devices or split.

    `check_vma=False`: with the check, gradients with respect to replicated values come
    out summed over devices already, and the means that a step takes would be wrong.

    Attributes:
        devices: of all processes.
    """

    devices: Sequence[jax.Device]

    def compile(self, step: Callable[..., Any], *args: PyTree) -> jax.stages.Compiled:
        """Returns the step compiled; the first argument is donated."""
        whole, part = PartitionSpec(), PartitionSpec(AXIS_NAME)

        def apart(*args: PyTree) -> tuple[PyTree, PyTree]:
            """Returns the result twice: without what is sharded, and only that."""
            result = step(*args)
            return _each(_same, _nothing, result), _each(_nothing, _same, result)

        mapped = jax.shard_map(
            apart,
            mesh=_mesh(self.devices),
            in_specs=jax.tree.map(lambda leaf: leaf.sharding.spec, args),
            out_specs=(whole, part),
            check_vma=False,
        )

        def together(*args: PyTree) -> PyTree:
            return jax.tree.map(
                lambda of_all, own: own if of_all is None else of_all,
                *mapped(*args),
                is_leaf=lambda leaf: leaf is None,
            )

        return jax.jit(together, donate_argnums=0).lower(*args).compile()

    def place(self, tree: PyTree, *, donated: bool) -> PyTree:
        """Returns one array a leaf that spans the devices, all (or a part) on each."""
        sharding = NamedSharding(_mesh(self.devices), PartitionSpec())
        local = _local(self.devices)

        def put(leaf: Any) -> Array:
            value = jnp.copy(leaf) if donated else jnp.asarray(leaf)
            copies = [jax.device_put(value, device) for device in local]
            return jax.make_array_from_single_device_arrays(
                value.shape, sharding, copies
            )

        of_all = put if donated else _once(put)
        return _each(of_all, lambda parts: _spread(parts, self.devices), tree)

    def split(self, tree: PyTree) -> PyTree:
        """Returns one array a leaf, of which each device holds some rows."""
        sharding = NamedSharding(_mesh(self.devices), PartitionSpec(AXIS_NAME))
        return jax.tree.map(
            lambda leaf: jax.make_array_from_process_local_data(
                sharding, np.asarray(leaf)
            ),
            tree,
        )

    def fetch(self, tree: PyTree) -> PyTree:
        """Returns the copy of this process's first device."""
        return _each(lambda leaf: leaf.addressable_data(0), _gather, tree)


def _each(
    of_all: Callable[[Any], Any], of_parts: Callable[[Sharded], Any], tree: PyTree
) -> PyTree:
    """Maps leaves that are equal on all devices, and what is split over them."""
    return jax.tree.map(
        lambda leaf: of_parts(leaf) if is_sharded(leaf) else of_all(leaf),
        tree,
        is_leaf=is_sharded,
    )


def _once(put: Callable[[Any], Array]) -> Callable[[Any], Array]:
    """Returns the function, which returns the same for a leaf that comes again.

    As images do of which two streams draw. What is donated is given away but once.
    """
    done: dict[int, Array] = {}

    def once(leaf: Any) -> Array:
        if id(leaf) not in done:
            done[id(leaf)] = put(leaf)
        return done[id(leaf)]

    return once


def _same(leaf: Any) -> Any:
    return leaf


def _nothing(leaf: Any) -> None:
    del leaf


def _spread(whole: Sharded, devices: Sequence[jax.Device], axes: int = 0) -> Sharded:
    """Returns a part on each device: `[n, k]`, with more axes of one before k."""
    count = len(devices)
    sharding = NamedSharding(_mesh(devices), PartitionSpec(AXIS_NAME))

    def spread(leaf: Any, shape: tuple[int, ...]) -> Array:
        del shape
        rows = np.asarray(to_rows(jnp.asarray(leaf), count))
        rows = rows.reshape(count, *(axes * (1,)), -1)
        return jax.make_array_from_callback(rows.shape, sharding, rows.__getitem__)

    return whole.map(spread)


def _gather(parts: Sharded) -> Sharded:
    """Returns whole leaves; where there are several processes, all must come here."""

    def gather(leaf: Array, shape: tuple[int, ...]) -> Array:
        rows = multihost_utils.process_allgather(leaf, tiled=True)
        return to_whole(jnp.asarray(rows), shape)

    return parts.map(gather)


def _mesh(devices: Sequence[jax.Device]) -> Mesh:
    return Mesh(np.asarray(devices), (AXIS_NAME,))


def _local(devices: Sequence[jax.Device]) -> list[jax.Device]:
    """Returns those of the devices that belong to this process."""
    return [d for d in devices if d.process_index == jax.process_index()]


def _local_view(leaf: Array) -> Array:
    """Returns the rows of a leaf that this process holds, as an array of their own."""
    if leaf.is_fully_addressable:
        return leaf
    shards = leaf.addressable_shards
    sharding = NamedSharding(
        _mesh([shard.device for shard in shards]), PartitionSpec(AXIS_NAME)
    )
    return jax.make_array_from_single_device_arrays(
        (len(shards), *leaf.shape[1:]), sharding, [shard.data for shard in shards]
    )
