"""Partial channel connections: what passes a cell's operations by (PC-DARTS)."""

import functools

import jax
import jax.numpy as jnp


def bypass(x: jax.Array, stride: int) -> jax.Array:
    """Returns the channels that no operation touches, at the resolution of the others.

    Args:
        x: `[B, H, W, C]`.
        stride: 1 keeps them, 2 takes the maximum over 2x2 windows; beyond an odd side
            is minus infinity.

    Returns:
        `[B, ceil(H / stride), ceil(W / stride), C]`.

    References: Xu et al. 2020, section 3.1, arXiv 1907.05737.
    """
    if stride == 1:
        return x
    height, width = x.shape[1:3]
    padding = ((0, 0), (0, height % 2), (0, width % 2), (0, 0))
    padded = jnp.pad(x, padding, constant_values=-jnp.inf)
    corners = [padded[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
    return functools.reduce(_first_maximum, corners)


def shuffle_channels(x: jax.Array, groups: int) -> jax.Array:
    """Returns `x` with channel `g * C / groups + i` moved to `i * groups + g`.

    Args:
        x: `[B, H, W, C]`.
        groups: number of groups, a divisor of C.

    References: Zhang et al. 2018 (ShuffleNet), arXiv 1707.01083.
    """
    y = x.reshape(*x.shape[:-1], groups, -1)
    return jnp.swapaxes(y, -1, -2).reshape(x.shape)


def _first_maximum(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns the maximum; the gradient of a tie goes to the first, as in PyTorch."""
    return jnp.where(b > a, b, a)
