"""Convolutions, linear layers and how they are drawn."""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from skillearn_jax.errors import InputError
from skillearn_jax.layers.convolution import convolve

Initializer = Callable[..., jax.Array]
"""`(key, shape, dtype) -> array`."""


def torch_uniform(fan_in: int) -> Initializer:
    """Returns the initialiser `U(-1/sqrt(fan_in), 1/sqrt(fan_in))`.

    PyTorch's default for the weights and the biases of convolutions and linear layers.

    Args:
        fan_in: inputs that one output reads (`k * k * C / groups` for a convolution).
    """
    bound = 1 / math.sqrt(fan_in)

    def init(
        key: jax.Array, shape: tuple[int, ...], dtype: jax.typing.DTypeLike = float
    ) -> jax.Array:
        # Drawn flat: the same numbers, and XLA compiles them 15 times faster on CPU.
        draws = jax.random.uniform(key, (math.prod(shape),), dtype, -bound, bound)
        return draws.reshape(shape)

    return init


def lecun_normal(fan_in: int) -> Initializer:
    """Returns the initialiser of Flax's layers: a truncated normal, variance `1/fan_in`.

    Args:
        fan_in: inputs that one output reads (`k * k * C / groups` for a convolution).
    """
    # A normal cut at two standard deviations keeps 0.8796 of its deviation.
    deviation = 1 / (math.sqrt(fan_in) * 0.87962566103423978)

    def init(
        key: jax.Array, shape: tuple[int, ...], dtype: jax.typing.DTypeLike = float
    ) -> jax.Array:
        draws = jax.random.truncated_normal(key, -2, 2, (math.prod(shape),), dtype)
        return (deviation * draws).reshape(shape)

    return init


Draw = Callable[[int], Initializer]
"""`fan_in -> initialiser`: `torch_uniform` or `lecun_normal`."""


def conv2d(
    x: jax.Array,
    kernel: jax.Array,
    *,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
) -> jax.Array:
    """Returns the convolution of `x` with `kernel`, padded alike on both sides.

    The padding is `dilation * (k - 1) // 2` on every side, as PyTorch models write it.
    XLA's "SAME" differs from it at stride 2, where it pads the far side first.

    Args:
        x: `[B, H, W, C]`; its dtype is that of the arithmetic.
        kernel: `[k, k, C / groups, D]`, `k` odd.
        stride: step between outputs, in pixels.
        dilation: step between the taps of the kernel, in pixels.
        groups: number of channel groups that do not see each other.

    Returns:
        `[B, ceil(H / stride), ceil(W / stride), D]`.

    Raises:
        InputError: for images of integers, in whose dtype a kernel is nothing but
            zeros, and for arrays that are no batch of images.
    """
    if x.ndim != 4 or not jnp.issubdtype(x.dtype, jnp.floating):
        raise InputError(
            f"images are {x.dtype}{list(x.shape)}; they must be floats [B, H, W, C]"
        )
    if stride > 1 and (dilation == stride or kernel.shape[:2] == (1, 1)):
        # It reads every stride-th pixel only: XLA need not know, in the derivative
        # above all, where it would fill the gaps with zeros and multiply them.
        x = x[:, ::stride, ::stride]
        stride = dilation = 1
    rows, columns = (dilation * (k - 1) // 2 for k in kernel.shape[:2])
    padding = ((rows, rows), (columns, columns))
    if groups == 1 and jax.default_backend() == "cpu":
        kernel = kernel.astype(x.dtype)
        return convolve(x, kernel, (stride, stride), (dilation, dilation), padding)
    return lax.conv_general_dilated(
        x,
        kernel.astype(x.dtype),
        window_strides=(stride, stride),
        padding=padding,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


class Conv(nn.Module):
    """Convolution without bias, see `conv2d`.

    Attributes:
        features: output channels.
        size: side of the kernel, odd.
        stride: step between outputs, in pixels.
        draw: initialiser by fan-in.
    """

    features: int
    size: int = 1
    stride: int = 1
    draw: Draw = torch_uniform

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, H, W, C]` to `[B, ceil(H/stride), ceil(W/stride), features]`."""
        channels = x.shape[-1]
        init = self.draw(self.size * self.size * channels)
        shape = (self.size, self.size, channels, self.features)
        return conv2d(x, self.param("kernel", init, shape), stride=self.stride)


class Dense(nn.Module):
    """Linear layer with bias.

    Attributes:
        features: output size.
        draw: initialiser of the kernel by fan-in.
        draw_bias: that of the bias, by the same fan-in.
    """

    features: int
    draw: Draw = torch_uniform
    draw_bias: Draw = torch_uniform

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, C]` to `[B, features]`, in the dtype of the parameters."""
        fan_in = x.shape[-1]
        kernel = self.param("kernel", self.draw(fan_in), (fan_in, self.features))
        bias = self.param("bias", self.draw_bias(fan_in), (self.features,))
        return x.astype(kernel.dtype) @ kernel + bias[None]
