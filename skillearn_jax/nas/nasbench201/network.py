"""The network that a NAS-Bench-201 cell makes, searched or derived."""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from skillearn_jax.errors import InputError, check_at_least
from skillearn_jax.layers import (
    Axis,
    BatchNorm,
    Conv,
    Dense,
    conv2d,
    run_module,
    torch_uniform,
)
from skillearn_jax.nas.functional import avg_pool, scaled
from skillearn_jax.nas.nasbench201.architecture import (
    ALPHAS_KEY,
    EDGES,
    OPS,
    Architecture,
)
from skillearn_jax.nas.nasbench201.space import BenchSpace

_SIZES = {"nor_conv_1x1": 1, "nor_conv_3x3": 3}
_FREE: dict[str, Callable[[jax.Array], jax.Array]] = {
    "skip_connect": lambda x: x,
    "avg_pool_3x3": avg_pool,
}
_NUM_NODES = 4


class Kernels(NamedTuple):
    """The convolutions of one size on the n edges that leave a node, side by side.

    Attributes:
        kernel: `[k, k, C, n * C]`.
        bias: `[n * C]`, or None.
    """

    kernel: jax.Array
    bias: jax.Array | None


class BenchCell(nn.Module):
    """Four nodes; every later one reads all earlier ones.

    The edges that leave a node read one tensor: it is rectified and pooled once, the
    convolutions of one size run side by side, and both sizes share one normalisation.
    Parameters are stacked over edges, one array per operation, in the order in which
    the edges leave nodes 0, 1, 2.

    Attributes:
        features: channels C.
        architecture: the operation on each edge, or None for a mixture of all.
        axis_name: see `BatchNorm`.
    """

    features: int
    architecture: Architecture | None = None
    axis_name: Axis = None

    @nn.compact
    def __call__(
        self, x: jax.Array, weights: jax.Array | None, train: bool
    ) -> jax.Array:
        """Maps `[B, H, W, C]` to `[B, H, W, C]`.

        Args:
            x: the first node.
            weights: `[6, 5]`, of the operations on each edge; None for an architecture.
            train: see `BatchNorm`.
        """
        kernels = self._kernels_by_source()
        pending: list[list[jax.Array]] = [[] for _ in range(_NUM_NODES)]
        pending[0].append(x)
        for source, node_kernels in enumerate(kernels):
            node = functools.reduce(jnp.add, pending[source] or [jnp.zeros_like(x)])
            for edge, op, y in self._leave(source, node, node_kernels, train):
                if weights is not None:
                    y = scaled(y, weights[edge, OPS.index(op)])
                pending[EDGES[edge][1]].append(y)
        return functools.reduce(jnp.add, pending[-1] or [jnp.zeros_like(x)])

    def _edges(self, source: int, op: str) -> list[int]:
        """Returns the edges that leave a node and carry an operation."""
        return [
            edge
            for edge, (start, _) in enumerate(EDGES)
            if start == source
            and (self.architecture is None or self.architecture.ops[edge] == op)
        ]

    def _kernels_by_source(self) -> list[dict[str, Kernels]]:
        """Draws the parameters of all convolutions and splits them by source."""
        sources = range(_NUM_NODES - 1)
        kernels: list[dict[str, Kernels]] = [{} for _ in sources]
        for op, size in _SIZES.items():
            widths = [len(self._edges(s, op)) * self.features for s in sources]
            if not sum(widths):
                continue
            draw = torch_uniform(size * size * self.features)
            shape = (size, size, self.features, sum(widths))
            cuts = np.cumsum(widths)[:-1]
            stack = jnp.split(self.param(op, draw, shape), cuts, axis=-1)
            biases: list[jax.Array | None] = [None for _ in sources]
            # The benchmark ties the two: a normalisation without its own bias leaves
            # one to the convolution.
            if self.architecture is None:
                bias = self.param(f"{op}_bias", draw, (sum(widths),))
                biases = list(jnp.split(bias, cuts))
            for source, width in enumerate(widths):
                if width:
                    kernels[source][op] = Kernels(stack[source], biases[source])
        return kernels

    def _leave(
        self, source: int, x: jax.Array, kernels: dict[str, Kernels], train: bool
    ) -> list[tuple[int, str, jax.Array]]:
        """Returns what a node gives to later ones: `(edge, operation, output)`."""
        outputs = []
        for op, apply in _FREE.items():
            if edges := self._edges(source, op):
                y = apply(x)
                outputs += [(edge, op, y) for edge in edges]
        if not kernels:
            return outputs
        rectified, convolved = nn.relu(x), []
        for kernel, bias in kernels.values():
            y = conv2d(rectified, kernel)
            if bias is not None:
                y = (y + bias[None, None, None]).astype(y.dtype)
            convolved.append(y)
        norm = BatchNorm(
            affine=self.architecture is not None,
            axis_name=self.axis_name,
            name=f"norm_{source}",
        )
        y = norm(jnp.concatenate(convolved, axis=-1), train=train)
        places = [(edge, op) for op in kernels for edge in self._edges(source, op)]
        parts = jnp.split(y, len(places), axis=-1)
        return outputs + [(*p, y) for p, y in zip(places, parts, strict=True)]


class ResidualBlock(nn.Module):
    """Two ReLU-convolution-normalisations at half resolution, and a shortcut.

    Attributes:
        features: output channels.
        axis_name: see `BatchNorm`.
    """

    features: int
    axis_name: Axis = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps `[B, H, W, C]` to `[B, ceil(H / 2), ceil(W / 2), features]`."""
        y = Conv(self.features, size=3, stride=2)(nn.relu(x))
        y = BatchNorm(axis_name=self.axis_name)(y, train=train)
        y = Conv(self.features, size=3)(nn.relu(y))
        y = BatchNorm(axis_name=self.axis_name)(y, train=train)
        height, width = x.shape[1:3]
        if height % 2 or width % 2:
            raise InputError(
                f"a residual block halves {height}x{width} pixels: give images whose "
                "sides are multiples of 4"
            )
        pooled = nn.avg_pool(x, (2, 2), (2, 2))
        return y + Conv(self.features)(pooled)


class BenchNetwork(nn.Module):
    """Stem, three times N cells with residual blocks between them, mean pool, linear.

    Attributes:
        num_classes: size of the logits; 0 leaves the head out, and the pooled features
            are returned.
        architecture: the cell of a derived network; None is the supernet, whose cells
            all share one matrix of logits and whose normalisations in cells are not
            affine.
        channels: of the first cells; doubled twice.
        num_cells: N, cells between two changes of resolution.
        remat: compute the cells anew in the backward pass instead of keeping what is
            inside them: less memory for more time.
        axis_name: mapped axis over which batch statistics are synchronised, or None.

    References: Dong and Yang 2020, section 2.1, arXiv 2001.00326, and its code.
    """

    num_classes: int
    architecture: Architecture | None = None
    channels: int = 16
    num_cells: int = 5
    remat: bool = False
    axis_name: Axis = None

    @nn.compact
    def __call__(
        self,
        images: jax.Array,
        alphas: Mapping[str, jax.Array] | None = None,
        *,
        train: bool,
    ) -> jax.Array:
        """Returns class logits, `[B, num_classes]`, or features without a head.

        Args:
            images: `[B, H, W, channels]`, sides multiples of 4.
            alphas: of the supernet only, see `BenchSpace.init_alphas`; the softmax over
                operations is taken here.
            train: use batch statistics, and record them if `batch_stats` is mutable.

        Raises:
            InputError: for logits without a supernet or a supernet without, for odd
                sides, and for a size that is too small.
        """
        weights = None
        if self.architecture is None:
            BenchSpace().check_alphas(alphas)
            assert alphas is not None
            weights = jax.nn.softmax(alphas[ALPHAS_KEY], axis=-1)
        elif alphas is not None:
            raise InputError("a network of an architecture takes no alphas: drop them")
        for name, least in (("num_classes", 0), ("channels", 1), ("num_cells", 1)):
            check_at_least(name, getattr(self, name), least)
        make = nn.remat(BenchCell, static_argnums=(3,)) if self.remat else BenchCell
        x = Conv(self.channels, size=3, name="stem")(images)
        x = BatchNorm(axis_name=self.axis_name, name="stem_norm")(x, train=train)
        for stage in range(3):
            features = self.channels * 2**stage
            if stage:
                block = ResidualBlock(features, self.axis_name, name=f"reduce_{stage}")
                x = block(x, train=train)
            for i in range(self.num_cells):
                cell = make(
                    features,
                    self.architecture,
                    self.axis_name,
                    name=f"cell_{stage}_{i}",
                )
                x = run_module(cell, x, weights, train=train)
        x = BatchNorm(axis_name=self.axis_name, name="last_norm")(x, train=train)
        pooled = jnp.mean(nn.relu(x), axis=(1, 2))
        if not self.num_classes:
            return pooled
        return Dense(self.num_classes, name="head")(pooled)
