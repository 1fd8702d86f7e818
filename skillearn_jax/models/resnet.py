"""Encoders of the tester: images in, globally pooled features out."""

from typing import Any, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp

from skillearn_jax.errors import InputError, check_choice
from skillearn_jax.layers import Axis, BatchNorm, conv2d
from skillearn_jax.types import Array

Block = Literal["basic", "bottleneck"]
Stem = Literal["imagenet", "cifar"]

_kaiming_fan_out = jax.nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class ConvNorm(nn.Module):
    """Convolution without bias, then batch normalisation.

    The kernel is Kaiming-normal with fan-out, as torchvision initialises its ResNets.

    Attributes:
        features: output channels.
        size: side of the kernel, odd.
        stride: step between outputs, pixels.
        axis_name: mapped axis over which batch statistics are synchronised.

    References: He et al. 2015, 1502.01852 (equation 14).
    """

    features: int
    size: int = 3
    stride: int = 1
    axis_name: Axis = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Maps `[B, H, W, C]` to `[B, ceil(H/stride), ceil(W/stride), features]`."""
        shape = (self.size, self.size, x.shape[-1], self.features)
        x = conv2d(x, self.param("kernel", _kaiming_fan_out, shape), stride=self.stride)
        return BatchNorm(axis_name=self.axis_name)(x, train=train)


class ResidualBlock(nn.Module):
    """Residual block of a ResNet, with a projection where the shape changes.

    `basic` is 3x3, 3x3 to `width` channels; `bottleneck` is 1x1, 3x3, 1x1 to
    `4 * width` channels, strided in its 3x3 convolution (torchvision's "v1.5").

    Attributes:
        kind: which of the two.
        width: channels inside the block.
        stride: of the block, pixels.
        axis_name: see `ConvNorm`.
    """

    kind: Block
    width: int
    stride: int = 1
    axis_name: Axis = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Maps `[B, H, W, C]` to `[B, ceil(H/stride), ceil(W/stride), D]`."""
        width, stride = self.width, self.stride
        layers = {  # features, size, stride
            "basic": ((width, 3, stride), (width, 3, 1)),
            "bottleneck": ((width, 1, 1), (width, 3, stride), (4 * width, 1, 1)),
        }[self.kind]
        y = x
        for i, (features, size, step) in enumerate(layers):
            y = nn.relu(y) if i else y
            y = ConvNorm(features, size, step, self.axis_name)(y, train=train)
        if x.shape != y.shape:
            x = ConvNorm(y.shape[-1], 1, stride, self.axis_name)(x, train=train)
        return nn.relu(x + y)


class ResNetEncoder(nn.Module):
    """ResNet without its classifier: the tester's data encoder E.

    Attributes:
        stage_sizes: blocks per stage; every stage after the first halves the
            resolution and doubles the width.
        block: `"basic"` or `"bottleneck"`.
        width: channels inside the blocks of the first stage.
        stem: `"imagenet"` is 7x7 stride 2 and 3x3 max-pooling stride 2, which the
            authors of learning by passing tests keep even for 32x32 images; `"cifar"`
            is 3x3 stride 1 without pooling.
        axis_name: see `ConvNorm`.

    References: He et al. 2016, 1512.03385.
    """

    stage_sizes: tuple[int, ...]
    block: Block = "basic"
    width: int = 64
    stem: Stem = "imagenet"
    axis_name: Axis = None

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> Array:
        """Returns the features of `images`.

        Args:
            images: `[B, H, W, C]`, normalised.
            train: use and record batch statistics.

        Returns:
            `[B, F]` with `F = width * 2^(stages - 1)`, four times that with
            bottlenecks: 512 for ResNet-18 and 34, 2048 for ResNet-50 and 101.

        Raises:
            InputError: for another block or stem.
        """
        check_choice("block", self.block, get_args(Block))
        check_choice("stem", self.stem, get_args(Stem))
        size, stride = {"imagenet": (7, 2), "cifar": (3, 1)}[self.stem]
        x = ConvNorm(self.width, size, stride, self.axis_name)(images, train=train)
        x = nn.relu(x)
        if self.stem == "imagenet":
            x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for i, blocks in enumerate(self.stage_sizes):
            for j in range(blocks):
                stride = 2 if i > 0 and j == 0 else 1
                x = ResidualBlock(
                    self.block, self.width * 2**i, stride, self.axis_name
                )(x, train=train)
        return jnp.mean(x, axis=(1, 2))


class SmallEncoder(nn.Module):
    """A few 3x3 convolutions for images of 8 to 32 pixels.

    Attributes:
        widths: channels of each layer; all layers but the first have stride 2.
        axis_name: see `ConvNorm`.
    """

    widths: tuple[int, ...] = (16, 32)
    axis_name: Axis = None

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> Array:
        """Maps images `[B, H, W, C]` to features `[B, widths[-1]]`."""
        x = images
        for i, width in enumerate(self.widths):
            stride = 2 if i else 1
            x = ConvNorm(width, 3, stride, self.axis_name)(x, train=train)
            x = nn.relu(x)
        return jnp.mean(x, axis=(1, 2))


_DEPTHS: dict[int, tuple[tuple[int, ...], Block]] = {
    18: ((2, 2, 2, 2), "basic"),
    34: ((3, 4, 6, 3), "basic"),
    50: ((3, 4, 6, 3), "bottleneck"),
    101: ((3, 4, 23, 3), "bottleneck"),
}


def resnet_encoder(depth: int, **options: Any) -> ResNetEncoder:
    """Returns the encoder of a ResNet of the given depth.

    Args:
        depth: 18, 34, 50 or 101 layers.
        **options: `width`, `stem` and `axis_name` of `ResNetEncoder`.

    Raises:
        InputError: for another depth.
    """
    if depth not in _DEPTHS:
        raise InputError(
            f"unknown ResNet depth {depth}: choose one of "
            + ", ".join(map(str, _DEPTHS))
        )
    stage_sizes, block = _DEPTHS[depth]
    return ResNetEncoder(stage_sizes, block, **options)
