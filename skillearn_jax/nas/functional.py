"""Pure functions behind the operations: separable convolutions, pools, halving."""

import functools
from collections.abc import Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from skillearn_jax.errors import check_choice
from skillearn_jax.layers import conv2d
from skillearn_jax.layers.convolution import convolve, places
from skillearn_jax.subroutines import subroutine

Form = Literal["dense", "depthwise"]
"""How a depthwise convolution followed by a pointwise one is computed."""


def separable_form() -> Form:
    """Returns the form used where a caller chooses none: `"dense"`.

    The one place that decides. In a supernet of 8 cells and 16 channels, on one CPU core,
    a gradient takes nine times as long with depthwise (`docs/performance.md`).
    """
    return "dense"


@functools.partial(subroutine, static_argnames=("stride", "dilation", "form"))
def separable_conv(
    x: jax.Array,
    depthwise: jax.Array,
    pointwise: jax.Array,
    *,
    stride: int = 1,
    dilation: int = 1,
    form: Form | None = None,
) -> jax.Array:
    """Returns `T` separable convolutions of one input, side by side on the channels.

    A depthwise convolution followed by a pointwise one with nothing between them,

        y[p, (t, d)] = sum_c pointwise[c, (t, d)] sum_k depthwise[k, c, t] x[p + k, c],

    is one convolution with the kernel `depthwise[k, c, t] * pointwise[c, (t, d)]`.

    Args:
        x: `[B, H, W, C]`; its dtype is that of the arithmetic.
        depthwise: `[k, k, C, T]`.
        pointwise: `[C, T * D]`, the `D` outputs of branch 0 first.
        stride: step between outputs, in pixels.
        dilation: step between the taps of the kernel, in pixels.
        form: `"dense"` (the merged kernel; narrow ones as `pixels_together` says),
            `"depthwise"` (a grouped convolution, then a product), equal up to rounding;
            None leaves it to `separable_form`.

    Returns:
        `[B, ceil(H / stride), ceil(W / stride), T * D]`.

    Raises:
        InputError: for another form.

    Cost: multiply-adds per output pixel: dense `k k C T D`, depthwise
      `k k C T + C T D`.
    """
    size, _, channels, branches = depthwise.shape
    form = separable_form() if form is None else form
    check_choice("form", form, get_args(Form))
    if form == "dense":
        features = pointwise.shape[-1] // branches
        kernel = jnp.repeat(depthwise, features, axis=-1) * pointwise[None, None]
        pixels = pixels_together(x.shape[2], kernel.shape[-1])
        if stride == 1 and pixels > 1:
            return conv2d_together(x, kernel.astype(x.dtype), pixels, dilation)
        return conv2d(x, kernel, stride=stride, dilation=dilation)
    kernel = depthwise.reshape(size, size, 1, channels * branches)
    y = conv2d(x, kernel, stride=stride, dilation=dilation, groups=channels)
    y = y.reshape(*y.shape[:-1], channels, branches)
    kernel = pointwise.reshape(channels, branches, -1).astype(x.dtype)
    y = jnp.einsum("bhwct,ctd->bhwtd", y, kernel)
    return y.reshape(*y.shape[:-2], -1)


def scaled(x: jax.Array, scale: jax.Array) -> jax.Array:
    """Returns `scale * x` in the dtype of `x`, multiplied in the wider one of the two.

    The derivative by the scale is a sum over all of `x`. Narrowed before, the scale would
    have it summed in that dtype: in bfloat16 a sum of positive numbers stays where it
    has reached some 256 times the next.

    Args:
        x: of any shape.
        scale: one number, of any shape with one element.
    """
    wide = jnp.promote_types(x.dtype, scale.dtype)
    return (x.astype(wide) * scale.astype(wide).reshape((1,) * x.ndim)).astype(x.dtype)


def pixels_together(width: int, features: int) -> int:
    """Returns how many pixels of a row a convolution computes together: 1 or 2.

    On CPU the rate of a convolution falls with its output channels: 8 onto 8 reach a
    quarter of the arithmetic rate of 8 onto 32. Computed two pixels at a time, by a
    kernel that is a sixth to a half zeros, up to 16 of them gain a tenth of the time of
    a search step; four at a time gain no more. On images under 8 pixels wide it loses
    several times what it gains. Accelerators have no use for it.

    Args:
        width: of the image, in pixels.
        features: output channels.
    """
    narrow = features <= 16 and width % 2 == 0 and width >= 8
    return 2 if narrow and jax.default_backend() == "cpu" else 1


def conv2d_together(
    x: jax.Array, kernel: jax.Array, pixels: int, dilation: int = 1
) -> jax.Array:
    """Returns `conv2d` at stride 1, `pixels` neighbours of a row at a time.

    The image is read as one of `W / pixels` columns with `pixels * C` channels, which is
    the same array, and the kernel holds every tap once for each of the neighbours.

    Args:
        x: `[B, H, W, C]`, W a multiple of `pixels`.
        kernel: `[k, k, C, D]`.
        pixels: computed together.
        dilation: as in `conv2d`.

    For CPU only, as `pixels_together` decides.

    Cost: `pixels * (2 b + 1) / k` times the multiply-adds of `conv2d`, where
    `b = ceil(dilation * (k - 1) / 2 / pixels)`.
    """
    batch, height, width, channels = x.shape
    rows, columns, _, features = kernel.shape
    reach = dilation * (columns - 1) // 2
    beside = -(-reach // pixels)  # columns of the wide image on either side
    window = (2 * beside + 1) * pixels
    place = places(window, pixels, columns, reach - beside * pixels, dilation=dilation)
    wide = jnp.einsum("pot,htcd->hpcod", jnp.asarray(place, kernel.dtype), kernel)
    y = convolve(
        x.reshape(batch, height, width // pixels, pixels * channels),
        wide.reshape(rows, 2 * beside + 1, pixels * channels, pixels * features),
        (1, 1),
        (dilation, 1),
        ((dilation * (rows - 1) // 2,) * 2, (beside, beside)),
    )
    return y.reshape(batch, height, width, features)


@functools.partial(subroutine, static_argnames="stride")
def max_pool(x: jax.Array, stride: int = 1) -> jax.Array:
    """Returns the maximum over 3x3 windows; outside the image is minus infinity.

    Its derivative picks the first maximum of each window, row by row, as PyTorch and
    `lax.reduce_window` do, and may be differentiated again in either mode.

    Args:
        x: `[B, H, W, C]`.
        stride: step between windows, in pixels.

    Returns:
        `[B, ceil(H / stride), ceil(W / stride), C]`.

    Cost: two passes of three slices, columns then rows: in the derivative, which asks
      of every pixel which windows it is the maximum of, five times faster than one of
      nine on CPU.
    """
    # Of equal values the first in a row wins, then the first of the rows.
    return _max_of_three(_max_of_three(x, 2, stride), 1, stride)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _max_of_three(x: jax.Array, axis: int, stride: int) -> jax.Array:
    """Returns the maximum of each pixel and its two neighbours along one axis."""
    return functools.reduce(jnp.maximum, _neighbours(x, axis, stride, -jnp.inf))


@_max_of_three.defjvp
def _max_of_three_jvp(
    axis: int, stride: int, primals: Sequence[jax.Array], tangents: Sequence[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    values = _neighbours(primals[0], axis, stride, -jnp.inf)
    slopes = _neighbours(tangents[0], axis, stride, 0.0)
    best, tangent = values[0], slopes[0]
    for value, slope in zip(values[1:], slopes[1:], strict=True):
        tangent = jnp.where(value > best, slope, tangent)
        best = jnp.maximum(value, best)
    return best, tangent


@functools.partial(subroutine, static_argnames="stride")
def avg_pool(x: jax.Array, stride: int = 1) -> jax.Array:
    """Returns the mean over 3x3 windows; pixels outside the image do not count.

    Args:
        x: `[B, H, W, C]`.
        stride: step between windows, in pixels.

    Returns:
        `[B, ceil(H / stride), ceil(W / stride), C]`.
    """
    for axis in (2, 1):
        i = np.arange(x.shape[axis])
        inside = np.minimum(i + 1, i[-1]) - np.maximum(i - 1, 0) + 1
        count = np.expand_dims(inside[::stride], [a for a in range(4) if a != axis])
        total = functools.reduce(jnp.add, _neighbours(x, axis, stride, 0.0))
        x = total / jnp.asarray(count, x.dtype)
    return x


def _neighbours(x: jax.Array, axis: int, stride: int, fill: float) -> list[jax.Array]:
    """Returns the pixels before, at and after every stride-th one along an axis."""
    widths = [(0, 0)] * x.ndim
    widths[axis] = (1, 1)
    padded = jnp.pad(x, widths, constant_values=fill)
    size = x.shape[axis]
    return [lax.slice_in_dim(padded, i, i + size, stride, axis) for i in range(3)]


def factorized_reduce(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns `T` projections of `x` at half resolution, side by side on the channels.

    The first half of each projection reads the pixels (0, 0), (0, 2), .., the second
    half the pixels (1, 1), (1, 3), ..; beyond an odd side there are zeros.

    Args:
        x: `[B, H, W, C]`.
        kernel: `[2, C, T, D / 2]`, for the even and for the odd pixels.

    Returns:
        `[B, ceil(H / 2), ceil(W / 2), T * D]`.
    """
    _, channels, branches, half = kernel.shape
    flat = kernel.reshape(2, 1, 1, channels, branches * half)
    shifted = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))[:, 1:, 1:]
    parts = [conv2d(x, flat[0], stride=2), conv2d(shifted, flat[1], stride=2)]
    split = [y.reshape(*y.shape[:-1], branches, half) for y in parts]
    y = jnp.concatenate(split, axis=-1)
    return y.reshape(*y.shape[:-2], branches * 2 * half)
