"""Floor 0: the layers that search spaces and models share, in PyTorch's convention."""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

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
      x: `[B, H, W, C]`.
      kernel: `[k, k, C / groups, D]`, `k` odd.
      stride: step between outputs, in pixels.
      dilation: step between the taps of the kernel, in pixels.
      groups: number of channel groups that do not see each other.

    Returns:
      `[B, ceil(H / stride), ceil(W / stride), D]`.
    """
    padding = [(dilation * (k - 1) // 2,) * 2 for k in kernel.shape[:2]]
    return lax.conv_general_dilated(
        x,
        kernel,
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
    """

    features: int
    size: int = 1
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, H, W, C]` to `[B, ceil(H/stride), ceil(W/stride), features]`."""
        channels = x.shape[-1]
        init = torch_uniform(self.size * self.size * channels)
        shape = (self.size, self.size, channels, self.features)
        return conv2d(x, self.param("kernel", init, shape), stride=self.stride)


class Dense(nn.Module):
    """Linear layer with bias, both drawn from `torch_uniform`.

    Attributes:
      features: output size.
    """

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, C]` to `[B, features]`."""
        init = torch_uniform(x.shape[-1])
        kernel = self.param("kernel", init, (x.shape[-1], self.features))
        bias = self.param("bias", init, (self.features,))
        return x @ kernel + bias[None]


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last.

    With batch statistics mu and s2 over n values per channel (s2 biased),

        y = (x - mu) / sqrt(s2 + epsilon) [* scale + bias],
        running_mean <- (1 - momentum) running_mean + momentum mu,
        running_var  <- (1 - momentum) running_var  + momentum s2 n / (n - 1).

    The running statistics move only in training mode and only if the caller makes the
    collection `batch_stats` mutable, so a look-ahead pass can leave them alone.

    Attributes:
      momentum: weight of the new batch in the running statistics (PyTorch's meaning).
      epsilon: added to the variance.
      affine: learn a scale and a bias per channel.
      axis_name: mapped axis over which the statistics are synchronised, or None. All
        its devices hold the same number of values, and n counts them all.

    References: Ioffe and Szegedy 2015, arXiv 1502.03167.
    """

    momentum: float = 0.1
    epsilon: float = 1e-5
    affine: bool = True
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps `[..., C]` to `[..., C]` of the same dtype.

        Args:
          x: input; statistics are computed in float32 or wider.
          train: use (and record) batch statistics rather than the running ones.

        Raises:
          ValueError: in training mode with a single value per channel.
        """
        channels = x.shape[-1]
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        row = (1,) * (x.ndim - 1) + (channels,)
        mean = self.variable("batch_stats", "mean", jnp.zeros, channels, wide.dtype)
        var = self.variable("batch_stats", "var", jnp.ones, channels, wide.dtype)
        mu, s2 = mean.value.reshape(row), var.value.reshape(row)
        if train and not self.is_initializing():
            mu, s2, unbiased = self._batch_statistics(wide)
            if self.is_mutable_collection("batch_stats"):
                mean.value += self.momentum * (mu.reshape(channels) - mean.value)
                var.value += self.momentum * (unbiased.reshape(channels) - var.value)
        y = (wide - mu) * lax.rsqrt(s2 + self.epsilon)
        if self.affine:
            scale = self.param("scale", nn.initializers.ones, (channels,))
            bias = self.param("bias", nn.initializers.zeros, (channels,))
            y = y * scale.reshape(row) + bias.reshape(row)
        return y.astype(x.dtype)

    def _batch_statistics(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns mean, biased and unbiased variance over devices, `[1, .., C]`."""
        axes = tuple(range(x.ndim - 1))
        count = x.size // x.shape[-1]
        # Two passes: exact where |mean| is large, and in a second-order program XLA
        # recognises the repeated forward pass, which it does not for E[x^2] - mean^2.
        mean = self._over_devices(jnp.mean(x, axes, keepdims=True))
        var = self._over_devices(jnp.mean((x - mean) ** 2, axes, keepdims=True))
        if self.axis_name is not None:
            count *= lax.axis_size(self.axis_name)
        if count < 2:
            raise ValueError(
                "batch normalisation in training mode needs more than one value per "
                f"channel, got an input of shape {x.shape}"
            )
        return mean, var, var * (count / (count - 1))

    def _over_devices(self, x: jax.Array) -> jax.Array:
        return x if self.axis_name is None else lax.pmean(x, self.axis_name)
