"""Batch normalisation, with a derivative of its own."""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from skillearn_jax.errors import InputError
from skillearn_jax.layers.axes import Axis, PerDevice
from skillearn_jax.subroutines import subroutine

_EPSILON = 1e-5  # added to variances, as in PyTorch


class SideBySide(nn.Module):
    """Batch normalisation of several arrays, each scaled as the caller says.

        y = scale * (x - mean) / sqrt(variance + epsilon)

    per channel of each array. With batch statistics mu and s2 over n values per channel
    (s2 biased),

        running_mean <- (1 - momentum) running_mean + momentum mu,
        running_var  <- (1 - momentum) running_var  + momentum s2 n / (n - 1).

    The running statistics, of all arrays in one, move only in training mode and only if
    the caller makes the collection `batch_stats` mutable, so a look-ahead pass can leave
    them alone.

    Attributes:
        momentum: weight of the new batch in the running statistics (PyTorch's meaning).
        axis_name: mapped axis over which the statistics are synchronised, or None. All
            its devices hold the same number of values, and n counts them all. A
            `PerDevice` axis does not synchronise: n counts the values of one device.

    References: Ioffe and Szegedy 2015, arXiv 1502.03167.
    """

    momentum: float = 0.1
    axis_name: Axis = None

    @nn.compact
    def __call__(
        self,
        arrays: Sequence[jax.Array],
        scales: Sequence[jax.Array | None],
        *,
        train: bool,
    ) -> list[jax.Array]:
        """Returns the arrays normalised, each of its dtype.

        Args:
            arrays: `[..., C_i]` each, equal in all but their channels; statistics are
                computed in float32 or wider.
            scales: `[n_i]` each, one for C_i / n_i neighbouring channels, or None for
                1.
            train: use (and record) batch statistics rather than the running ones.

        Raises:
            InputError: in training mode with a single value per channel.
            ValueError: for arrays of several sizes.
        """
        return self.normalise(arrays, scales, train)

    def normalise(
        self,
        arrays: Sequence[jax.Array],
        scales: Sequence[jax.Array | None],
        train: bool,
    ) -> list[jax.Array]:
        """Does the work of `__call__`, inside whichever compact method calls it."""
        if len({x.shape[:-1] for x in arrays}) > 1:  # one count serves all variances
            raise ValueError(
                f"arrays of the shapes {[x.shape for x in arrays]} are not normalised "
                "together: they must be equal in all but their channels"
            )
        wide = [x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in arrays]
        channels, dtype = sum(x.shape[-1] for x in wide), wide[0].dtype
        mean = self.variable("batch_stats", "mean", jnp.zeros, channels, dtype)
        var = self.variable("batch_stats", "var", jnp.ones, channels, dtype)
        if train and not self.is_initializing():
            results = [
                normalise_batch(x, scale, self._synchronised_axis)
                for x, scale in zip(wide, scales, strict=True)
            ]
            outputs = [y for y, _, _ in results]
            if self.is_mutable_collection("batch_stats"):
                new_mean = jnp.concatenate([mu for _, mu, _ in results])
                new_var = jnp.concatenate([s2 for _, _, s2 in results])
                count = _count(wide[0], self._synchronised_axis)
                new_var *= count / (count - 1)
                mean.value += self.momentum * (new_mean - mean.value)
                var.value += self.momentum * (new_var - var.value)
        else:
            cuts = np.cumsum([x.shape[-1] for x in wide])[:-1]
            factors = lax.rsqrt(var.value + _EPSILON)
            outputs = [
                (x - _row(mu, x)) * (_row(factor, x) * _spread(scale, x))
                for x, scale, mu, factor in zip(
                    wide,
                    scales,
                    jnp.split(mean.value, cuts),
                    jnp.split(factors, cuts),
                    strict=True,
                )
            ]
        return [y.astype(x.dtype) for y, x in zip(outputs, arrays, strict=True)]

    @property
    def _synchronised_axis(self) -> str | None:
        return None if isinstance(self.axis_name, PerDevice) else self.axis_name


class BatchNorm(SideBySide):
    """Batch normalisation of one array over all axes but the last.

        y = (x - mean) / sqrt(variance + epsilon) [* scale + bias]

    with the statistics of `SideBySide`, whose attributes it shares.

    Attributes:
        affine: learn a scale and a bias per channel.
    """

    affine: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:  # type: ignore[override]
        """Maps `[..., C]` to `[..., C]` of the same dtype; see `SideBySide`."""
        if not self.affine:
            return self.normalise([x], [None], train)[0]
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        y = self.normalise([x], [scale], train)[0]
        return (y + _row(bias, y)).astype(x.dtype)


_Normalised = tuple[jax.Array, jax.Array, jax.Array]


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _normalise_batch(
    x: jax.Array, scale: jax.Array | None, axis_name: str | None
) -> _Normalised:
    """Returns `scale * z` with `z = (x - mean) / sqrt(var + epsilon)`, mean and variance.

    Its derivative along `t` is written out, with m the mean per channel:

        dz = (t - m(t) - z m(z t)) / sqrt(var + epsilon),
        dmean = m(t),    dvar = 2 sqrt(var + epsilon) m(z t),

    in terms of `z` itself, so that derivatives of any order have this form: two sums per
    channel where automatic differentiation of the definition takes four.

    Args:
        x: `[..., C]`.
        scale: `[n]`, one for C / n neighbouring channels, or None for 1.
        axis_name: mapped axis over which means are taken, or None.

    Returns:
        `[..., C]`, and mean and biased variance, `[C]` each.

    Raises:
        InputError: with a single value per channel.
    """
    if _count(x, axis_name) < 2:
        raise InputError(
            "batch normalisation in training mode needs more than one value per "
            f"channel, got an input of shape {x.shape}: give larger batches or images"
        )
    if scale is not None:
        z, mean, var = _normalise_batch(x, None, axis_name)
        return z * _spread(scale, x), mean, var
    # Two passes: exact where |mean| is large.
    mean = _channel_mean(x, axis_name)
    centred = x - mean
    var = _channel_mean(centred**2, axis_name)
    return centred * lax.rsqrt(var + _EPSILON), mean.reshape(-1), var.reshape(-1)


@_normalise_batch.defjvp
def _normalise_batch_jvp(
    axis_name: str | None,
    primals: tuple[jax.Array, jax.Array | None],
    tangents: tuple[jax.Array, jax.Array | None],
) -> tuple[_Normalised, _Normalised]:
    (x, scale), (t, scale_t) = primals, tangents
    z, mean, var = _normalise_batch(x, None, axis_name)
    deviation = jnp.sqrt(_row(var, x) + _EPSILON)
    mean_t = _channel_mean(t, axis_name)
    overlap = _channel_mean(z * t, axis_name)
    stats_t = (mean_t.reshape(-1), (2 * deviation * overlap).reshape(-1))
    if scale is None:
        y_t = (t - mean_t - z * overlap) / deviation
        return (z, mean, var), (y_t, *stats_t)
    # Collected per channel: the sum over z times a cotangent then serves all of it.
    slope = _spread(scale, x) / deviation
    y_t = slope * (t - mean_t) + z * (_spread(scale_t, x) - slope * overlap)
    return (z * _spread(scale, x), mean, var), (y_t, *stats_t)


_copied = jax.jit(_normalise_batch, static_argnums=(2,))
_called = subroutine(_normalise_batch, static_argnums=(2,))


def normalise_batch(
    x: jax.Array, scale: jax.Array | None, axis_name: str | None
) -> _Normalised:
    """See `_normalise_batch`; in a subroutine where it does not talk to other devices."""
    normalise = _called if axis_name is None else _copied
    return normalise(x, scale, axis_name)


def _channel_mean(x: jax.Array, axis_name: str | None) -> jax.Array:
    mean = jnp.mean(x, tuple(range(x.ndim - 1)), keepdims=True)
    return mean if axis_name is None else lax.pmean(mean, axis_name)


def _count(x: jax.Array, axis_name: str | None) -> int:
    """Returns the number of values per channel, on all devices."""
    devices = 1 if axis_name is None else lax.axis_size(axis_name)
    return x.size // x.shape[-1] * devices


def _row(x: jax.Array, like: jax.Array) -> jax.Array:
    return x.reshape((1,) * (like.ndim - 1) + x.shape)


def _spread(scale: jax.Array | None, like: jax.Array) -> jax.Array | float:
    """Returns scales of neighbouring channels as `[1, .., 1, C]`, or 1."""
    if scale is None:
        return 1.0
    return _row(jnp.repeat(scale, like.shape[-1] // scale.size), like)
