"""Single operations of a derived network, and the layers that all cells share."""

import functools
from collections.abc import Callable
from typing import Literal, get_args

import flax.linen as nn
import jax

from skillearn_jax.errors import InputError, check_choice
from skillearn_jax.layers import Axis, BatchNorm, Conv, Draw, torch_uniform
from skillearn_jax.nas.functional import (
    avg_pool,
    factorized_reduce,
    max_pool,
    separable_conv,
)

STEM_MULTIPLIER = 3
"""Channels of the stem, in those of the first cells; not of the derived ImageNet network."""

POOLS: dict[str, Callable[..., jax.Array]] = {
    "max_pool_3x3": max_pool,
    "avg_pool_3x3": avg_pool,
}
"""Operations without parameters, `(x, stride) -> y`."""

KERNEL_SIZES = {
    "sep_conv_3x3": 3,
    "sep_conv_5x5": 5,
    "dil_conv_3x3": 3,
    "dil_conv_5x5": 5,
}
"""Sides of the kernels of the separable operations."""


def dilation_of(op: str) -> int:
    """Returns the step between the taps of a separable operation, in pixels."""
    return 2 if op.startswith("dil") else 1


def depth_of(op: str) -> int:
    """Returns how many separable convolutions follow each other in an operation."""
    return 2 if op.startswith("sep") else 1


class ReluConvBN(nn.Module):
    """ReLU, 1x1 convolution, batch normalisation.

    Attributes:
        features: output channels.
        affine: learn a scale and a bias in the normalisation.
        axis_name: see `BatchNorm`.
        draw: initialiser by fan-in.
    """

    features: int
    affine: bool = True
    axis_name: Axis = None
    draw: Draw = torch_uniform

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps `[B, H, W, C]` to `[B, H, W, features]`."""
        y = Conv(self.features, draw=self.draw)(nn.relu(x))
        return BatchNorm(affine=self.affine, axis_name=self.axis_name)(y, train=train)


class FactorizedReduce(nn.Module):
    """ReLU, projection to half the resolution, batch normalisation.

    Attributes:
        features: output channels, even; see `factorized_reduce`.
        affine: learn a scale and a bias in the normalisation.
        axis_name: see `BatchNorm`.
        draw: initialiser by fan-in.
    """

    features: int
    affine: bool = True
    axis_name: Axis = None
    draw: Draw = torch_uniform

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps `[B, H, W, C]` to `[B, ceil(H / 2), ceil(W / 2), features]`."""
        channels = x.shape[-1]
        shape = (2, channels, 1, self.features // 2)
        kernel = self.param("kernel", self.draw(channels), shape)
        y = factorized_reduce(nn.relu(x), kernel)
        return BatchNorm(affine=self.affine, axis_name=self.axis_name)(y, train=train)


class SeparableOp(nn.Module):
    """`sep_conv` or `dil_conv`: ReLU, depthwise, pointwise, batch normalisation.

    `sep_conv` holds that sequence twice, the second at stride 1; `dil_conv` once.

    Attributes:
        op: key of `KERNEL_SIZES`.
        features: output channels.
        stride: step between outputs, in pixels.
        axis_name: see `BatchNorm`.
    """

    op: str
    features: int
    stride: int = 1
    axis_name: Axis = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps `[B, H, W, C]` to `[B, ceil(H/stride), ceil(W/stride), features]`."""
        k = KERNEL_SIZES[self.op]
        for i in range(depth_of(self.op)):
            c = x.shape[-1]
            features = self.features if i + 1 == depth_of(self.op) else c
            x = separable_conv(
                nn.relu(x),
                self.param(f"depthwise_{i}", torch_uniform(k * k), (k, k, c, 1)),
                self.param(f"pointwise_{i}", torch_uniform(c), (c, features)),
                stride=self.stride if i == 0 else 1,
                dilation=dilation_of(self.op),
            )
            x = BatchNorm(axis_name=self.axis_name)(x, train=train)
        return x


class CellInputs(nn.Module):
    """Brings the two inputs of a cell to its channels and to one resolution.

    Attributes:
        features: channels C of the cell.
        reduced_before: the cell before this one halved the resolution, so that the
            older input has twice that of the newer one.
        affine: learn a scale and a bias in the normalisation.
        axis_name: see `BatchNorm`.
        draw: initialiser by fan-in.
    """

    features: int
    reduced_before: bool
    affine: bool
    axis_name: Axis = None
    draw: Draw = torch_uniform

    @nn.compact
    def __call__(
        self, older: jax.Array, newer: jax.Array, *, train: bool
    ) -> tuple[jax.Array, jax.Array]:
        """Maps two arrays `[B, .., .., ..]` to two arrays `[B, H, W, C]`."""
        options = (self.features, self.affine, self.axis_name, self.draw)
        adapt_older = FactorizedReduce if self.reduced_before else ReluConvBN
        adapt_newer = ReluConvBN
        return (
            adapt_older(*options, name="older")(older, train=train),
            adapt_newer(*options, name="newer")(newer, train=train),
        )


class Stem(nn.Module):
    """3x3 convolution and affine batch normalisation.

    Attributes:
        channels: of what it returns.
        axis_name: see `BatchNorm`.
        draw: initialiser by fan-in.
    """

    channels: int
    axis_name: Axis = None
    draw: Draw = torch_uniform

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Maps `[B, H, W, image channels]` to `[B, H, W, channels]`."""
        y = Conv(self.channels, size=3, draw=self.draw)(images)
        return BatchNorm(axis_name=self.axis_name)(y, train=train)


class ImageNetStem(nn.Module):
    """Three 3x3 convolutions of stride 2, each with affine batch normalisation.

    Attributes:
        channels: C of what it returns, even; the first convolution has half.
        axis_name: see `BatchNorm`.
        draw: initialiser by fan-in.
    """

    channels: int
    axis_name: Axis = None
    draw: Draw = torch_uniform

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool
    ) -> tuple[jax.Array, jax.Array]:
        """Maps `[B, H, W, image channels]` to `[B, H/4, W/4, C]` and `[B, H/8, W/8, C]`.

        Sides are rounded up at each halving.

        Raises:
            InputError: for an odd number of channels.
        """
        if self.channels % 2:
            raise InputError(
                f"{self.channels} channels are odd: the ImageNet stem halves them"
            )

        def halve(x: jax.Array, features: int) -> jax.Array:
            y = Conv(features, size=3, stride=2, draw=self.draw)(x)
            return BatchNorm(axis_name=self.axis_name)(y, train=train)

        older = halve(nn.relu(halve(images, self.channels // 2)), self.channels)
        return older, halve(nn.relu(older), self.channels)


StemName = Literal["cifar", "imagenet"]
"""One convolution at full resolution, or three that halve it."""


def apply_stem(
    name: StemName,
    channels: int,
    images: jax.Array,
    *,
    train: bool,
    axis_name: Axis,
    draw: Draw = torch_uniform,
) -> tuple[jax.Array, jax.Array]:
    """Returns the two inputs of the first cell, older and newer.

    To be called inside a compact method, which then owns the module `stem`.

    Args:
        name: which stem.
        channels: of what it returns.
        images: `[B, H, W, image channels]`.
        train: see `BatchNorm`.
        axis_name: likewise.
        draw: initialiser by fan-in.

    Raises:
        InputError: for another name, or an odd number of channels with the ImageNet
            stem.
    """
    check_choice("stem", name, get_args(StemName))
    if name == "imagenet":
        halving = ImageNetStem(channels, axis_name, draw, name="stem")
        return halving(images, train=train)
    features = Stem(channels, axis_name, draw, name="stem")(images, train=train)
    return features, features


def operation(
    op: str,
    features: int,
    *,
    stride: int,
    train: bool,
    axis_name: Axis = None,
) -> Callable[[jax.Array], jax.Array]:
    """Returns operation `op` of a derived network as a function of `[B, H, W, C]`.

    To be called inside a compact method, which then owns the parameters.

    Args:
        op: one of `DARTS_OPS`, not `none`.
        features: channels C.
        stride: 1, or 2 to halve the resolution.
        train: see `BatchNorm`.
        axis_name: see `BatchNorm`.
    """
    if op in POOLS:
        return functools.partial(POOLS[op], stride=stride)
    if op in KERNEL_SIZES:
        module = SeparableOp(op, features, stride, axis_name)
        return functools.partial(module, train=train)
    if op != "skip_connect":
        raise ValueError(f"{op!r} is no operation of a derived network")
    if stride == 1:
        return lambda x: x
    reduce = FactorizedReduce(features, axis_name=axis_name)
    return functools.partial(reduce, train=train)
