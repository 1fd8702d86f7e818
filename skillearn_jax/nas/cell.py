"""A cell of the supernet, computed source by source."""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from skillearn_jax.errors import InputError, check_at_least
from skillearn_jax.layers import Axis, Draw, torch_uniform
from skillearn_jax.nas.edges import (
    AUXILIARY_SKIP,
    SKIPS,
    Branch,
    Kernels,
    OutgoingEdges,
    SkipDropout,
)
from skillearn_jax.nas.functional import scaled
from skillearn_jax.nas.ops import KERNEL_SIZES, CellInputs, depth_of
from skillearn_jax.nas.partial import bypass, shuffle_channels
from skillearn_jax.nas.space import NUM_INPUTS, CellPlace, CellSpace


class Mixture(NamedTuple):
    """How the operations of a cell are mixed.

    Attributes:
        ops: `[edges, candidates]`, rows in the order of `space.edges`: the weight of
            each candidate on its edge.
        edges: `[edges]`, the weight of each edge in its node (PC-DARTS), or None for 1.
        skip: `[]`, the weight of the auxiliary skip on every edge (DARTS-), or None.
        skip_dropout: dropout after identities (P-DARTS), or None, as in evaluation.
    """

    ops: jax.Array
    edges: jax.Array | None = None
    skip: jax.Array | None = None
    skip_dropout: SkipDropout | None = None


class MixedCell(nn.Module):
    """A cell whose every edge is a weighted sum of its candidate operations.

    Parameters are stacked over edges, one array per operation, in the order in which
    the edges leave states 0, 1, 2, ..: few arrays to draw, to update and to compile.
    Operations that are no candidate of an edge have no parameters there.

    Attributes:
        space: operations and nodes.
        place: kind and channels C of the cell; a reduction cell halves the resolution
            on the edges from its two inputs.
        partial: only the first C / partial channels of a state pass the operations; the
            others bypass them, and all are shuffled (PC-DARTS). 1 is plain DARTS.
        axis_name: see `BatchNorm`.
        draw: initialiser by fan-in.

    Raises:
        InputError: if the channels cannot be divided.
    """

    space: CellSpace
    place: CellPlace
    partial: int = 1
    axis_name: Axis = None
    draw: Draw = torch_uniform

    @nn.compact
    def __call__(
        self, older: jax.Array, newer: jax.Array, mixture: Mixture, train: bool
    ) -> jax.Array:
        """Returns all nodes side by side, `[B, H', W', num_nodes * C]`.

        Args:
            older: output of the cell before the last one.
            newer: output of the last cell.
            mixture: weights of operations and edges.
            train: see `BatchNorm`.
        """
        features = self.place.features
        check_at_least("partial", self.partial, 1)
        # A skip at stride 2 is made of two halves.
        unit = self.partial * (2 if self.place.kind == "reduction" else 1)
        if features % unit:
            raise InputError(
                f"{features} channels of a {self.place.kind} cell cannot be split with "
                f"partial={self.partial}: they must be a multiple of {unit}"
            )
        inputs = CellInputs(
            features,
            self.place.reduced_before,
            affine=False,
            axis_name=self.axis_name,
            draw=self.draw,
            name="inputs",
        )
        states = list(inputs(older, newer, train=train))
        kernels = self._kernels_by_source(auxiliary=mixture.skip is not None)
        branches = self._branches(mixture)
        # What every state adds to the nodes that are still to come, and the channels
        # that bypass the operations.
        pending: list[list[jax.Array]] = [[] for _ in range(self.space.num_nodes)]
        around: list[list[jax.Array]] = [[] for _ in range(self.space.num_nodes)]
        for source in range(NUM_INPUTS + self.space.num_nodes):
            if source >= NUM_INPUTS:
                node = functools.reduce(jnp.add, pending.pop(0))
                rest = around.pop(0)
                if rest:
                    node = jnp.concatenate([node, functools.reduce(jnp.add, rest)], -1)
                    node = shuffle_channels(node, self.partial)
                states.append(node)
            if not pending:
                break
            sums, passed = self._leave(
                source,
                states[source],
                kernels[source],
                branches[source],
                mixture,
                train,
            )
            for target, y in enumerate(sums):
                pending[target].append(y)
            for target, y in enumerate(passed):
                around[target].append(y)
        return jnp.concatenate(states[NUM_INPUTS:], axis=-1)

    def _leave(
        self,
        source: int,
        state: jax.Array,
        kernels: Kernels,
        branches: Mapping[str, Branch],
        mixture: Mixture,
        train: bool,
    ) -> tuple[list[jax.Array], list[jax.Array]]:
        """Returns what a state adds to each target, mixed and around the mixture."""
        outgoing = self.space.outgoing(source)
        stride = self.place.stride_from(source)
        edges = OutgoingEdges(
            stride=stride,
            num_targets=len(outgoing),
            axis_name=self.axis_name,
            name=f"from_{source}",
        )
        mixed = self.place.features // self.partial
        dropout = mixture.skip_dropout
        if dropout is not None:
            dropout = dropout.fold_in(source)
        sums = edges(state[..., :mixed], kernels, branches, dropout, train=train)
        passed: list[jax.Array] = []
        if self.partial > 1:
            passed = [bypass(state[..., mixed:], stride)] * len(outgoing)
        if mixture.edges is not None:
            weights = [mixture.edges[edge] for edge in outgoing]
            sums = [scaled(y, w) for w, y in zip(weights, sums, strict=True)]
            passed = [scaled(y, w) for w, y in zip(weights, passed, strict=False)]
        return sums, passed

    def _branches(self, mixture: Mixture) -> list[dict[str, Branch]]:
        """Returns the operations on the edges that leave each source."""
        candidates = self.space.edge_ops(self.place.kind)
        sources = range(NUM_INPUTS + self.space.num_nodes - 1)
        keys = [
            (source, op, targets)
            for source in sources
            for op in self.space.ops
            if op != "none" and (targets := self._targets(source, op))
        ]
        edges = [[self.space.outgoing(s)[t] for t in targets] for s, _, targets in keys]
        # All weights in one gather, then cut: few operations to trace and to compile.
        rows = np.concatenate(edges)
        columns = [
            candidates[edge].index(op)
            for (_, op, _), some in zip(keys, edges, strict=True)
            for edge in some
        ]
        cuts = np.cumsum([len(some) for some in edges])[:-1]
        weights = jnp.split(mixture.ops[rows, np.array(columns)], cuts)
        branches: list[dict[str, Branch]] = [{} for _ in sources]
        for (source, op, targets), part in zip(keys, weights, strict=True):
            branches[source][op] = Branch(targets, part)
        if mixture.skip is not None:
            for source in sources:
                everywhere = self._targets(source, AUXILIARY_SKIP)
                part = jnp.broadcast_to(mixture.skip, len(everywhere))
                branches[source][AUXILIARY_SKIP] = Branch(everywhere, part)
        return branches

    def _targets(self, source: int, op: str) -> tuple[int, ...]:
        """Returns which of the edges that leave a source have a candidate."""
        candidates = self.space.edge_ops(self.place.kind)
        outgoing = self.space.outgoing(source)
        return tuple(
            i
            for i, edge in enumerate(outgoing)
            if op == AUXILIARY_SKIP or op in candidates[edge]
        )

    def _kernels_by_source(self, auxiliary: bool) -> list[Kernels]:
        """Draws the parameters of all edges and splits them by source."""
        c = self.place.features // self.partial
        sources = range(NUM_INPUTS + self.space.num_nodes - 1)
        kernels: list[Kernels] = [{} for _ in sources]

        def draw(name: str, fan_in: int, shape: tuple[int, ...]) -> jax.Array:
            return self.param(name, self.draw(fan_in), shape)

        for op in (*self.space.ops, *([AUXILIARY_SKIP] if auxiliary else [])):
            fanout = [len(self._targets(source, op)) for source in sources]
            if op in SKIPS:
                # Identities have no parameters.
                fanout = fanout[:NUM_INPUTS] if self.place.kind == "reduction" else []
            edges, cuts = sum(fanout), np.cumsum(fanout)[:-1]
            if not edges:
                continue
            if op in KERNEL_SIZES:
                n, k = depth_of(op), KERNEL_SIZES[op]
                depthwise = draw(f"{op}_depthwise", k * k, (n, k, k, c, edges))
                pointwise = draw(f"{op}_pointwise", c, (n, c, edges * c))
                stacks = [
                    jnp.split(depthwise, cuts, axis=-1),
                    jnp.split(pointwise, cuts * c, axis=-1),
                ]
            elif op in SKIPS:
                kernel = draw(op, c, (2, c, edges, c // 2))
                stacks = [jnp.split(kernel, cuts, axis=2)]
            else:
                continue
            for source, arrays in enumerate(zip(*stacks, strict=True)):
                kernels[source][op] = arrays
        return kernels
