"""A cell of the supernet, computed source by source."""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from skillearn_jax.layers import BatchNorm, torch_uniform
from skillearn_jax.nas.functional import Form, factorized_reduce, separable_conv
from skillearn_jax.nas.ops import (
    KERNEL_SIZES,
    POOLS,
    CellInputs,
    depth_of,
    dilation_of,
)
from skillearn_jax.nas.space import NUM_INPUTS, CellPlace, CellSpace

Kernels = dict[str, Sequence[jax.Array]]
"""Kernels of the edges that leave one source, side by side, per operation."""


class OutgoingEdges(nn.Module):
    """The mixed operations on the T edges that leave one state of a cell.

    The edges read the same tensor, so what does not depend on the target is computed
    once: ReLU, pools and their normalisation. What has parameters per edge is computed
    side by side on a flat channel axis `(target, channel)`.

    Attributes:
      stride: 2 from an input of a reduction cell, else 1.
      axis_name: see `BatchNorm`.
      form: see `separable_conv`.
    """

    stride: int
    axis_name: str | None = None
    form: Form | None = None

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        kernels: Kernels,
        weights: dict[str, jax.Array],
        *,
        train: bool,
    ) -> jax.Array:
        """Returns what the state adds to each of its targets, `[B, H', W', T * C]`.

        Args:
          x: `[B, H, W, C]`.
          kernels: for `sep_conv` and `dil_conv`: `depthwise: [n, k, k, C, T]` and
            `pointwise: [n, C, T * C]` with `n = depth_of(op)`; for a strided
            `skip_connect`: `[2, C, T, C / 2]`, see `factorized_reduce`.
          weights: `[T]` per operation.
          train: see `BatchNorm`.
        """
        rectified = nn.relu(x)
        shared = {op: POOLS[op](x, self.stride) for op in weights if op in POOLS}
        shared = self._normalise(shared, "pools", train)
        own = {
            op: separable_conv(
                rectified,
                kernels[op][0][0],
                kernels[op][1][0],
                stride=self.stride,
                dilation=dilation_of(op),
                form=self.form,
            )
            for op in weights
            if op in KERNEL_SIZES
        }
        hidden = {op: y for op, y in own.items() if depth_of(op) == 2}
        for op, y in self._normalise(hidden, "hidden", train).items():
            own[op] = self._second_convolutions(y, *kernels[op])
        if "skip_connect" in weights and self.stride == 1:
            shared["skip_connect"] = x
        elif "skip_connect" in weights:
            own["skip_connect"] = factorized_reduce(rectified, *kernels["skip_connect"])
        outputs = self._normalise(own, "outputs", train)
        for op, y in shared.items():
            outputs[op] = jnp.tile(y, weights[op].size)
        return functools.reduce(
            jnp.add,
            (
                y * jnp.repeat(weights[op], x.shape[-1])[None, None, None]
                for op, y in outputs.items()
            ),
        )

    def _second_convolutions(
        self, x: jax.Array, depthwise: jax.Array, pointwise: jax.Array
    ) -> jax.Array:
        """Runs one convolution per target, `[B, H, W, T * C] -> [B, H, W, T * C]`.

        T dense convolutions: a grouped one is 50 times slower on CPU.
        """
        targets = depthwise.shape[-1]
        branches = zip(
            jnp.split(nn.relu(x), targets, axis=-1),
            jnp.split(depthwise[1], targets, axis=-1),
            jnp.split(pointwise[1], targets, axis=-1),
            strict=True,
        )
        outputs = [separable_conv(*branch, form=self.form) for branch in branches]
        return jnp.concatenate(outputs, axis=-1)

    def _normalise(
        self, arrays: dict[str, jax.Array], name: str, train: bool
    ) -> dict[str, jax.Array]:
        """Normalises several arrays side by side: one wide layer compiles faster."""
        if not arrays:
            return {}
        norm = BatchNorm(affine=False, axis_name=self.axis_name, name=name)
        y = norm(jnp.concatenate(list(arrays.values()), axis=-1), train=train)
        return dict(zip(arrays, jnp.split(y, len(arrays), axis=-1), strict=True))


class MixedCell(nn.Module):
    """A cell whose every edge is a weighted sum of all candidate operations.

    Parameters are stacked over edges, one array per operation, in the order in which
    the edges leave states 0, 1, 2, ..: few arrays to draw, to update and to compile.

    Attributes:
      space: operations and nodes.
      place: kind and channels C of the cell; a reduction cell halves the resolution on
        the edges from its two inputs.
      axis_name: see `BatchNorm`.
      form: see `separable_conv`.
    """

    space: CellSpace
    place: CellPlace
    axis_name: str | None = None
    form: Form | None = None

    @nn.compact
    def __call__(
        self,
        older: jax.Array,
        newer: jax.Array,
        weights: jax.Array,
        *,
        train: bool,
    ) -> jax.Array:
        """Returns all nodes side by side, `[B, H', W', num_nodes * C]`.

        Args:
          older: output of the cell before the last one.
          newer: output of the last cell.
          weights: `[edges, ops]`, rows in the order of `space.edges`.
          train: see `BatchNorm`.
        """
        _, features, reduced_before = self.place
        inputs = CellInputs(
            features, reduced_before, False, self.axis_name, name="inputs"
        )
        states = list(inputs(older, newer, train=train))
        kernels = self._kernels_by_source()

        def leave(source: int, state: jax.Array) -> jax.Array:
            rows = weights[np.array(self.space.outgoing(source))]
            edges = OutgoingEdges(
                stride=self.place.stride_from(source),
                axis_name=self.axis_name,
                form=self.form,
                name=f"from_{source}",
            )
            by_op = dict(zip(self.space.ops, rows.T, strict=True))
            return edges(state, kernels[source], by_op, train=train)

        # What is still to come, node by node; every state adds to all that remain.
        pending = leave(0, states[0]) + leave(1, states[1])
        nodes = []
        for source in range(NUM_INPUTS, NUM_INPUTS + self.space.num_nodes):
            node, pending = jnp.split(pending, [features], axis=-1)
            nodes.append(node)
            if pending.size:
                pending = pending + leave(source, node)
        return jnp.concatenate(nodes, axis=-1)

    def _kernels_by_source(self) -> list[Kernels]:
        """Draws the parameters of all edges and splits them by source."""
        c = self.place.features
        sources = range(NUM_INPUTS + self.space.num_nodes - 1)
        fanout = [len(self.space.outgoing(source)) for source in sources]
        kernels: list[Kernels] = [{} for _ in sources]

        def draw(name: str, fan_in: int, shape: tuple[int, ...]) -> jax.Array:
            return self.param(name, torch_uniform(fan_in), shape)

        for op in self.space.ops:
            if op in KERNEL_SIZES:
                n, k, edges = depth_of(op), KERNEL_SIZES[op], sum(fanout)
                depthwise = draw(f"{op}_depthwise", k * k, (n, k, k, c, edges))
                pointwise = draw(f"{op}_pointwise", c, (n, c, edges * c))
                cuts = np.cumsum(fanout)[:-1]
                stacks = [
                    jnp.split(depthwise, cuts, axis=-1),
                    jnp.split(pointwise, cuts * c, axis=-1),
                ]
            elif op == "skip_connect" and self.place.kind == "reduction":
                edges = sum(fanout[:NUM_INPUTS])
                kernel = draw(op, c, (2, c, edges, c // 2))
                stacks = [jnp.split(kernel, NUM_INPUTS, axis=2)]
            else:
                continue
            for source, arrays in enumerate(zip(*stacks, strict=True)):
                kernels[source][op] = arrays
        return kernels
