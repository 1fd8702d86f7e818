"""Floor 0: the layers that search spaces and models share, in PyTorch's convention."""

import math
from collections.abc import Callable, Sequence

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
    """
    if stride > 1 and (dilation == stride or kernel.shape[:2] == (1, 1)):
        # It reads every stride-th pixel only: XLA need not know, in the derivative
        # above all, where it would fill the gaps with zeros and multiply them.
        x = x[:, ::stride, ::stride]
        stride = dilation = 1
    padding = [(dilation * (k - 1) // 2,) * 2 for k in kernel.shape[:2]]
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
    """Linear layer with bias, both drawn alike.

    Attributes:
      features: output size.
      draw: initialiser by fan-in.
    """

    features: int
    draw: Draw = torch_uniform

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, C]` to `[B, features]`, in the dtype of the parameters."""
        init = self.draw(x.shape[-1])
        kernel = self.param("kernel", init, (x.shape[-1], self.features))
        bias = self.param("bias", init, (self.features,))
        return x.astype(kernel.dtype) @ kernel + bias[None]


class PerDevice(str):
    """The name of a device axis whose batch statistics each device keeps to itself.

    Given in place of the name, it tells `BatchMoments` not to synchronise; whatever else
    reads the name, such as masks keyed by the example, finds the axis as ever.
    """

    __slots__ = ()


class BatchMoments(nn.Module):
    """Mean and deviation per channel, of several arrays side by side.

    What `BatchNorm` normalises with, for callers that fold the normalisation into
    arithmetic of their own:

        y = (x - mean) * inverse,    inverse = 1 / sqrt(variance + epsilon).

    With batch statistics mu and s2 over n values per channel (s2 biased),

        running_mean <- (1 - momentum) running_mean + momentum mu,
        running_var  <- (1 - momentum) running_var  + momentum s2 n / (n - 1).

    The running statistics move only in training mode and only if the caller makes the
    collection `batch_stats` mutable, so a look-ahead pass can leave them alone.

    Attributes:
      momentum: weight of the new batch in the running statistics (PyTorch's meaning).
      epsilon: added to the variance.
      axis_name: mapped axis over which the statistics are synchronised, or None. All
        its devices hold the same number of values, and n counts them all. A `PerDevice`
        name does not synchronise: n counts the values of one device.

    References: Ioffe and Szegedy 2015, arXiv 1502.03167.
    """

    momentum: float = 0.1
    epsilon: float = 1e-5
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, arrays: Sequence[jax.Array], *, train: bool
    ) -> tuple[jax.Array, jax.Array]:
        """Returns `(mean, inverse)`, each `[1, .., 1, channels of all arrays]`.

        Args:
          arrays: `[..., C_i]` each, of one shape but for the channels; statistics are
            computed in float32 or wider.
          train: use (and record) batch statistics rather than the running ones.

        Raises:
          ValueError: in training mode with a single value per channel.
        """
        return self.moments(arrays, train)

    def moments(
        self, arrays: Sequence[jax.Array], train: bool
    ) -> tuple[jax.Array, jax.Array]:
        """Does the work of `__call__`, inside whichever compact method calls it."""
        wide = [x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in arrays]
        channels, dtype = sum(x.shape[-1] for x in wide), wide[0].dtype
        row = (1,) * (wide[0].ndim - 1) + (channels,)
        mean = self.variable("batch_stats", "mean", jnp.zeros, channels, dtype)
        var = self.variable("batch_stats", "var", jnp.ones, channels, dtype)
        mu, s2 = mean.value.reshape(row), var.value.reshape(row)
        if train and not self.is_initializing():
            statistics = [self._batch_statistics(x) for x in wide]
            mu, s2, unbiased = (
                jnp.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]
                for parts in zip(*statistics, strict=True)
            )
            if self.is_mutable_collection("batch_stats"):
                mean.value += self.momentum * (mu.reshape(channels) - mean.value)
                var.value += self.momentum * (unbiased.reshape(channels) - var.value)
        return mu, lax.rsqrt(s2 + self.epsilon)

    def _batch_statistics(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns mean, biased and unbiased variance over devices, `[1, .., C]`."""
        axes = tuple(range(x.ndim - 1))
        count = x.size // x.shape[-1]
        # Two passes: exact where |mean| is large, and in a second-order program XLA
        # recognises the repeated forward pass, which it does not for E[x^2] - mean^2.
        mean = self._over_devices(jnp.mean(x, axes, keepdims=True))
        var = self._over_devices(jnp.mean((x - mean) ** 2, axes, keepdims=True))
        if self._synchronised:
            count *= lax.axis_size(self.axis_name)
        if count < 2:
            raise ValueError(
                "batch normalisation in training mode needs more than one value per "
                f"channel, got an input of shape {x.shape}"
            )
        return mean, var, var * (count / (count - 1))

    def _over_devices(self, x: jax.Array) -> jax.Array:
        return lax.pmean(x, self.axis_name) if self._synchronised else x

    @property
    def _synchronised(self) -> bool:
        return self.axis_name is not None and not isinstance(self.axis_name, PerDevice)


class BatchNorm(BatchMoments):
    """Batch normalisation over all axes but the last.

        y = (x - mean) / sqrt(variance + epsilon) [* scale + bias]

    with the statistics of `BatchMoments`, whose attributes it shares.

    Attributes:
      affine: learn a scale and a bias per channel.
    """

    affine: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:  # type: ignore[override]
        """Maps `[..., C]` to `[..., C]` of the same dtype; see `BatchMoments`."""
        mean, inverse = self.moments([x], train)
        y = (x.astype(mean.dtype) - mean) * inverse
        if self.affine:
            channels = x.shape[-1]
            scale = self.param("scale", nn.initializers.ones, (channels,))
            bias = self.param("bias", nn.initializers.zeros, (channels,))
            y = y * scale.reshape(mean.shape) + bias.reshape(mean.shape)
        return y.astype(x.dtype)
