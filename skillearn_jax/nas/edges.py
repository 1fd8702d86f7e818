"""The mixed operations on the edges that leave one state of a cell."""

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from skillearn_jax.layers import Axis, SideBySide, example_numbers
from skillearn_jax.nas.functional import factorized_reduce, scaled, separable_conv
from skillearn_jax.nas.ops import KERNEL_SIZES, POOLS, depth_of, dilation_of
from skillearn_jax.subroutines import subroutine

Kernels = dict[str, Sequence[jax.Array]]
"""Kernels of the edges that leave one source, side by side, per operation."""

AUXILIARY_SKIP = "auxiliary_skip"
"""The skip connection of DARTS-, outside the softmax; a key of `Kernels`."""

SKIPS = ("skip_connect", AUXILIARY_SKIP)
"""Operations that are the identity at stride 1."""


class Branch(NamedTuple):
    """One operation on some of the edges that leave a source.

    Attributes:
        targets: positions of those edges among all that leave the source.
        weights: `[n]`, the weight of the operation on each of them.
    """

    targets: tuple[int, ...]
    weights: jax.Array


class SkipDropout(NamedTuple):
    """Dropout of single elements after the skip connections that are candidates.

    Attributes:
        rate: `[]`, of the elements that are set to 0.
        key: of the masks.
    """

    rate: jax.Array
    key: jax.Array

    def fold_in(self, part: int) -> "SkipDropout":
        """Returns the dropout of a part of what this one is for, with its own masks."""
        return self._replace(key=jax.random.fold_in(self.key, part))


class OutgoingEdges(nn.Module):
    """The mixed operations on the T edges that leave one state of a cell.

    The edges read the same tensor, so what does not depend on the target is computed
    once: ReLU, pools and their normalisation. What has parameters per edge is computed
    side by side on a flat channel axis `(target, channel)`, and the weight of an
    operation is the scale of its last normalisation.

    Attributes:
        stride: 2 from an input of a reduction cell, else 1.
        num_targets: T.
        axis_name: see `BatchNorm`.
    """

    stride: int
    num_targets: int
    axis_name: Axis = None

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        kernels: Kernels,
        branches: Mapping[str, Branch],
        skip_dropout: SkipDropout | None = None,
        *,
        train: bool,
    ) -> list[jax.Array]:
        """Returns what the state adds to each of its targets, T times `[B, H', W', C]`.

        Args:
            x: `[B, H, W, C]`.
            kernels: for `sep_conv` and `dil_conv` on n edges:
                `depthwise: [d, k, k, C, n]` and `pointwise: [d, C, n * C]` with
                `d = depth_of(op)`; for strided skips: `[2, C, n, C / 2]`, see
                `factorized_reduce`.
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
            shared |= dict.fromkeys((op for op in SKIPS if op in branches), x)
        scales: list[list[jax.Array]] = [[] for _ in sums]
        inputs: list[list[jax.Array]] = [[] for _ in sums]
        for op, y in shared.items():
            targets, weights = branches[op]
            for target, weight in zip(
                targets, jnp.split(weights, len(targets)), strict=True
            ):
                kept = y
                if op == "skip_connect" and skip_dropout is not None:
                    kept = self._drop(y, skip_dropout.fold_in(target))
                inputs[target].append(kept)
                scales[target].append(weight)
        height, width = (-(-side // self.stride) for side in x.shape[1:3])
        nothing = jnp.zeros((x.shape[0], height, width, x.shape[-1]), x.dtype)
        return [
            _weighted_sum(parts or [nothing], *terms)
            for parts, *terms in zip(sums, inputs, scales, strict=True)
        ]

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
            op: _first_convolutions(
                rectified,
                *kernels[op],
                stride=self.stride,
                dilation=dilation_of(op),
            )
            for op in branches
            if op in KERNEL_SIZES
        }
        hidden = {op: y for op, y in outputs.items() if depth_of(op) == 2}
        for op, y in self._normalise(hidden, "hidden", train).items():
            outputs[op] = _second_convolutions(y, *kernels[op])
        for op in SKIPS if self.stride == 2 else ():
            if op in branches:
                outputs[op] = factorized_reduce(rectified, *kernels[op])
        if not outputs:
            return []
        norm = SideBySide(axis_name=self.axis_name, name="outputs")
        scaled = norm(
            list(outputs.values()),
            [branches[op].weights for op in outputs],
            train=train,
        )
        groups: dict[tuple[int, ...], list[jax.Array]] = {}
        for op, y in zip(outputs, scaled, strict=True):
            groups.setdefault(branches[op].targets, []).append(y)
        return [
            (targets, functools.reduce(jnp.add, parts))
            for targets, parts in groups.items()
        ]

    def _normalise(
        self, arrays: dict[str, jax.Array], name: str, train: bool
    ) -> dict[str, jax.Array]:
        """Normalises the outputs of several operations."""
        if not arrays:
            return {}
        norm = SideBySide(axis_name=self.axis_name, name=name)
        outputs = norm(list(arrays.values()), [None] * len(arrays), train=train)
        return dict(zip(arrays, outputs, strict=True))

    def _drop(self, x: jax.Array, dropout: SkipDropout) -> jax.Array:
        """Returns dropout of single elements, keyed by the example over all devices."""
        examples = example_numbers(x.shape[0], self.axis_name)

        def keep(example: jax.Array) -> jax.Array:
            example_key = jax.random.fold_in(dropout.key, example)
            return jax.random.bernoulli(example_key, 1 - dropout.rate, x.shape[1:])

        kept = jax.vmap(keep)(examples)
        return jnp.where(kept, x / (1 - dropout.rate), 0).astype(x.dtype)


@subroutine
def _weighted_sum(
    parts: list[jax.Array], inputs: list[jax.Array], scales: list[jax.Array]
) -> jax.Array:
    """Returns the sum of the parts and of the inputs times their scales, `[1]` each."""
    for x, scale in zip(inputs, scales, strict=True):
        parts = [*parts, scaled(x, scale)]
    return functools.reduce(jnp.add, parts)


@functools.partial(subroutine, static_argnames=("stride", "dilation"))
def _first_convolutions(
    x: jax.Array,
    depthwise: jax.Array,
    pointwise: jax.Array,
    *,
    stride: int,
    dilation: int,
) -> jax.Array:
    """Runs the convolutions of all targets as one, `[B, H, W, C]` onto `T * C`."""
    kernels = depthwise[0], pointwise[0]
    return separable_conv(x, *kernels, stride=stride, dilation=dilation)


@subroutine
def _second_convolutions(
    x: jax.Array, depthwise: jax.Array, pointwise: jax.Array
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
    return jnp.concatenate([separable_conv(*b) for b in branches], axis=-1)
