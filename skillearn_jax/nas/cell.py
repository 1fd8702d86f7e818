"""A cell of the supernet, computed source by source."""

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from skillearn_jax.errors import InputError
from skillearn_jax.layers import BatchMoments, BatchNorm, Draw, torch_uniform
from skillearn_jax.nas.functional import Form, factorized_reduce, separable_conv
from skillearn_jax.nas.ops import (
    KERNEL_SIZES,
    POOLS,
    CellInputs,
    depth_of,
    dilation_of,
)
from skillearn_jax.nas.partial import bypass, shuffle_channels
from skillearn_jax.nas.space import NUM_INPUTS, CellPlace, CellSpace

Kernels = dict[str, Sequence[jax.Array]]
"""Kernels of the edges that leave one source, side by side, per operation."""

AUXILIARY_SKIP = "auxiliary_skip"
"""The skip connection of DARTS-, outside the softmax; a key of `Kernels`."""

_SKIPS = ("skip_connect", AUXILIARY_SKIP)


class Mixture(NamedTuple):
    """How the operations of a cell are mixed.

    Attributes:
      ops: `[edges, candidates]`, rows in the order of `space.edges`: the weight of each
        candidate on its edge.
      edges: `[edges]`, the weight of each edge in its node (PC-DARTS), or None for 1.
      skip: `[]`, the weight of the auxiliary skip on every edge (DARTS-), or None.
      skip_dropout: `[]`, the rate of dropout after identities (P-DARTS), or None.
    """

    ops: jax.Array
    edges: jax.Array | None = None
    skip: jax.Array | None = None
    skip_dropout: jax.Array | None = None


class Branch(NamedTuple):
    """One operation on some of the edges that leave a source.

    Attributes:
      targets: positions of those edges among all that leave the source.
      weights: `[n]`, the weight of the operation on each of them.
    """

    targets: tuple[int, ...]
    weights: jax.Array


class OutgoingEdges(nn.Module):
    """The mixed operations on the T edges that leave one state of a cell.

    The edges read the same tensor, so what does not depend on the target is computed
    once: ReLU, pools and their normalisation. What has parameters per edge is computed
    side by side on a flat channel axis `(target, channel)`, and its last normalisation
    is folded into the weighted sum over operations.

    Attributes:
      stride: 2 from an input of a reduction cell, else 1.
      num_targets: T.
      axis_name: see `BatchNorm`.
      form: see `separable_conv`.
    """

    stride: int
    num_targets: int
    axis_name: str | None = None
    form: Form | None = None

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        kernels: Kernels,
        branches: Mapping[str, Branch],
        skip_dropout: jax.Array | None = None,
        *,
        train: bool,
    ) -> list[jax.Array]:
        """Returns what the state adds to each of its targets, T times `[B, H', W', C]`.

        Args:
          x: `[B, H, W, C]`.
          kernels: for `sep_conv` and `dil_conv` on n edges: `depthwise: [d, k, k, C, n]`
            and `pointwise: [d, C, n * C]` with `d = depth_of(op)`; for strided skips:
            `[2, C, n, C / 2]`, see `factorized_reduce`.
          branches: by operation.
          skip_dropout: see `Mixture`.
          train: see `BatchNorm`.
        """
        sums: list[list[jax.Array]] = [[] for _ in range(self.num_targets)]
        for targets, y in self._with_kernels(x, kernels, branches, train):
            for target, part in zip(
                targets, jnp.split(y, len(targets), axis=-1), strict=True
            ):
                sums[target].append(part)
        pooled = {op: POOLS[op](x, self.stride) for op in branches if op in POOLS}
        shared = self._normalise(pooled, "pools", train)
        if self.stride == 1:
            shared |= dict.fromkeys((op for op in _SKIPS if op in branches), x)
        for op, y in shared.items():
            for i, target in enumerate(branches[op].targets):
                kept = y
                if op == "skip_connect" and train and skip_dropout is not None:
                    kept = self._drop(y, target, skip_dropout)
                sums[target].append(kept * branches[op].weights[i])
        height, width = (-(-side // self.stride) for side in x.shape[1:3])
        nothing = jnp.zeros((x.shape[0], height, width, x.shape[-1]), x.dtype)
        return [functools.reduce(jnp.add, parts or [nothing]) for parts in sums]

    def _with_kernels(
        self,
        x: jax.Array,
        kernels: Kernels,
        branches: Mapping[str, Branch],
        train: bool,
    ) -> list[tuple[tuple[int, ...], jax.Array]]:
        """Returns the sums of the operations with parameters, per group of targets.

        Operations on the same targets are summed flat, `[B, H', W', n * C]`.
        """
        rectified = nn.relu(x)
        outputs = {
            op: separable_conv(
                rectified,
                kernels[op][0][0],
                kernels[op][1][0],
                stride=self.stride,
                dilation=dilation_of(op),
                form=self.form,
            )
            for op in branches
            if op in KERNEL_SIZES
        }
        hidden = {op: y for op, y in outputs.items() if depth_of(op) == 2}
        for op, y in self._normalise(hidden, "hidden", train).items():
            outputs[op] = self._second_convolutions(y, *kernels[op])
        for op in _SKIPS if self.stride == 2 else ():
            if op in branches:
                outputs[op] = factorized_reduce(rectified, *kernels[op])
        if not outputs:
            return []
        moments = BatchMoments(axis_name=self.axis_name, name="outputs")
        mean, inverse = moments(list(outputs.values()), train=train)
        weights = jnp.concatenate([branches[op].weights for op in outputs])
        scale = inverse * jnp.repeat(weights, x.shape[-1])[None, None, None]
        cuts = np.cumsum([y.shape[-1] for y in outputs.values()])[:-1]
        groups: dict[tuple[int, ...], list[jax.Array]] = {}
        for op, mu, factor in zip(
            outputs,
            jnp.split(mean, cuts, axis=-1),
            jnp.split(scale, cuts, axis=-1),
            strict=True,
        ):
            y = ((outputs[op] - mu) * factor).astype(x.dtype)
            groups.setdefault(branches[op].targets, []).append(y)
        return [
            (targets, functools.reduce(jnp.add, parts))
            for targets, parts in groups.items()
        ]

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
        cuts = np.cumsum([array.shape[-1] for array in arrays.values()])[:-1]
        return dict(zip(arrays, jnp.split(y, cuts, axis=-1), strict=True))

    def _drop(self, x: jax.Array, target: int, rate: jax.Array) -> jax.Array:
        """Returns dropout of single elements, keyed by the example over all devices."""
        key = jax.random.fold_in(self.make_rng("skip_dropout"), target)
        examples = jnp.arange(x.shape[0])
        if self.axis_name is not None:
            examples += x.shape[0] * lax.axis_index(self.axis_name)

        def keep(example: jax.Array) -> jax.Array:
            example_key = jax.random.fold_in(key, example)
            return jax.random.bernoulli(example_key, 1 - rate, x.shape[1:])

        return jnp.where(jax.vmap(keep)(examples), x / (1 - rate), 0).astype(x.dtype)


class MixedCell(nn.Module):
    """A cell whose every edge is a weighted sum of its candidate operations.

    Parameters are stacked over edges, one array per operation, in the order in which
    the edges leave states 0, 1, 2, ..: few arrays to draw, to update and to compile.
    Operations that are no candidate of an edge have no parameters there.

    Attributes:
      space: operations and nodes.
      place: kind and channels C of the cell; a reduction cell halves the resolution on
        the edges from its two inputs.
      partial: only the first C / partial channels of a state pass the operations; the
        others bypass them, and all are shuffled (PC-DARTS). 1 is plain DARTS.
      axis_name: see `BatchNorm`.
      form: see `separable_conv`.
      draw: initialiser by fan-in.

    Raises:
      InputError: if the channels cannot be divided.
    """

    space: CellSpace
    place: CellPlace
    partial: int = 1
    axis_name: str | None = None
    form: Form | None = None
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
        if self.partial < 1:
            raise InputError(f"partial must be at least 1, got {self.partial}")
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
                source, states[source], kernels[source], mixture, train
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
            form=self.form,
            name=f"from_{source}",
        )
        mixed = self.place.features // self.partial
        branches = self._branches(source, mixture)
        sums = edges(
            state[..., :mixed], kernels, branches, mixture.skip_dropout, train=train
        )
        passed: list[jax.Array] = []
        if self.partial > 1:
            passed = [bypass(state[..., mixed:], stride)] * len(outgoing)
        if mixture.edges is not None:
            weights = [mixture.edges[edge] for edge in outgoing]
            sums = [w * y for w, y in zip(weights, sums, strict=True)]
            passed = [w * y for w, y in zip(weights, passed, strict=False)]
        return sums, passed

    def _branches(self, source: int, mixture: Mixture) -> dict[str, Branch]:
        """Returns the operations on the edges that leave a source."""
        outgoing = self.space.outgoing(source)
        candidates = self.space.edge_ops(self.place.kind)
        branches = {}
        for op in self.space.ops:
            targets = self._targets(source, op)
            if op == "none" or not targets:
                continue
            rows = np.array([outgoing[target] for target in targets])
            columns = np.array([candidates[row].index(op) for row in rows])
            branches[op] = Branch(targets, mixture.ops[rows, columns])
        if mixture.skip is not None:
            everywhere = tuple(range(len(outgoing)))
            weights = jnp.broadcast_to(mixture.skip, len(outgoing))
            branches[AUXILIARY_SKIP] = Branch(everywhere, weights)
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
            if op in _SKIPS:
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
            elif op in _SKIPS:
                kernel = draw(op, c, (2, c, edges, c // 2))
                stacks = [jnp.split(kernel, cuts, axis=2)]
            else:
                continue
            for source, arrays in enumerate(zip(*stacks, strict=True)):
                kernels[source][op] = arrays
        return kernels
