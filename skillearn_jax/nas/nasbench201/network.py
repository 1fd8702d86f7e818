"""The network that a NAS-Bench-201 cell makes, searched or derived."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from skillearn_jax.errors import InputError
from skillearn_jax.layers import BatchNorm, Conv, Dense, conv2d, torch_uniform
from skillearn_jax.nas.functional import avg_pool
from skillearn_jax.nas.nasbench201.architecture import EDGES, OPS, Architecture

_SIZES = {"nor_conv_1x1": 1, "nor_conv_3x3": 3}
_NUM_NODES = 4


class BenchCell(nn.Module):
    """Four nodes; every later one reads all earlier ones.

    The edges that leave a node read one tensor: it is rectified and pooled once, and
    the convolutions of one size run side by side, as does their normalisation.

    Attributes:
      features: channels C.
      architecture: the operation on each edge, or None for a mixture of all.
      axis_name: see `BatchNorm`.
    """

    features: int
    architecture: Architecture | None = None
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, x: jax.Array, weights: jax.Array | None, *, train: bool
    ) -> jax.Array:
        """Maps `[B, H, W, C]` to `[B, H, W, C]`.

        Args:
          x: the first node.
          weights: `[6, 5]`, of the operations on each edge; None for an architecture.
          train: see `BatchNorm`.
        """
        nodes: list[list[jax.Array]] = [[] for _ in range(_NUM_NODES)]
        nodes[0].append(x)
        for source in range(_NUM_NODES):
            parts = nodes[source]
            state = functools.reduce(jnp.add, parts) if parts else jnp.zeros_like(x)
            if source == _NUM_NODES - 1:
                return state
            self._leave(source, state, weights, nodes, train)
        raise AssertionError

    def _leave(
        self,
        source: int,
        x: jax.Array,
        weights: jax.Array | None,
        nodes: list[list[jax.Array]],
        train: bool,
    ) -> None:
        """Adds what a node gives to each later one."""
        for op in OPS:
            edges = [
                edge
                for edge, (start, _) in enumerate(EDGES)
                if start == source
                and (self.architecture is None or self.architecture.ops[edge] == op)
            ]
            if op == "none" or not edges:
                continue
            if op in _SIZES:
                y = self._convolutions(source, op, x, len(edges), train)
                outputs = jnp.split(y, len(edges), axis=-1)
            else:
                y = avg_pool(x) if op == "avg_pool_3x3" else x
                outputs = [y] * len(edges)
            for edge, y in zip(edges, outputs, strict=True):
                if weights is not None:
                    y = weights[edge, OPS.index(op)] * y
                nodes[EDGES[edge][1]].append(y)

    def _convolutions(
        self, source: int, op: str, x: jax.Array, count: int, train: bool
    ) -> jax.Array:
        """Returns ReLU, convolution, normalisation on several edges, side by side."""
        size, width = _SIZES[op], count * self.features
        fan_in = size * size * self.features
        name = f"{op}_from_{source}"
        shape = (size, size, self.features, width)
        y = conv2d(nn.relu(x), self.param(name, torch_uniform(fan_in), shape))
        # The benchmark ties the two: a normalisation without its own bias leaves one to
        # the convolution.
        affine = self.architecture is not None
        if not affine:
            bias = self.param(f"{name}_bias", torch_uniform(fan_in), (width,))
            y = y + bias[None, None, None]
        norm = BatchNorm(affine=affine, axis_name=self.axis_name, name=f"{name}_norm")
        return norm(y, train=train)


class ResidualBlock(nn.Module):
    """Two ReLU-convolution-normalisations at half resolution, and a shortcut.

    Attributes:
      features: output channels.
      axis_name: see `BatchNorm`.
    """

    features: int
    axis_name: str | None = None

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
      num_classes: size of the logits.
      architecture: the cell of a derived network; None is the supernet, whose cells all
        share one matrix of logits and whose normalisations in cells are not affine.
      channels: of the first cells; doubled twice.
      num_cells: N, cells between two changes of resolution.
      axis_name: mapped axis over which batch statistics are synchronised, or None.

    References: Dong and Yang 2020, section 2.1, arXiv 2001.00326, and its code.
    """

    num_classes: int
    architecture: Architecture | None = None
    channels: int = 16
    num_cells: int = 5
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, images: jax.Array, logits: jax.Array | None = None, *, train: bool
    ) -> jax.Array:
        """Returns class logits, `[B, num_classes]`.

        Args:
          images: `[B, H, W, channels]`, sides multiples of 4.
          logits: `[6, 5]` of the supernet, whose softmax over operations is taken here.
          train: use batch statistics, and record them if `batch_stats` is mutable.

        Raises:
          InputError: for logits without a supernet or a supernet without, and for odd
            sides.
        """
        shape = (len(EDGES), len(OPS))
        expected = shape if self.architecture is None else None
        if (None if logits is None else logits.shape) != expected:
            raise InputError(
                f"a supernet takes logits of shape {shape}, a network of an "
                f"architecture none; got {None if logits is None else logits.shape}"
            )
        weights = None if logits is None else jax.nn.softmax(logits, axis=-1)
        x = Conv(self.channels, size=3, name="stem")(images)
        x = BatchNorm(axis_name=self.axis_name, name="stem_norm")(x, train=train)
        for stage in range(3):
            features = self.channels * 2**stage
            if stage:
                block = ResidualBlock(features, self.axis_name, name=f"reduce_{stage}")
                x = block(x, train=train)
            for i in range(self.num_cells):
                cell = BenchCell(
                    features,
                    self.architecture,
                    self.axis_name,
                    name=f"cell_{stage}_{i}",
                )
                x = cell(x, weights, train=train)
        x = BatchNorm(axis_name=self.axis_name, name="last_norm")(x, train=train)
        return Dense(self.num_classes, name="head")(jnp.mean(nn.relu(x), axis=(1, 2)))
