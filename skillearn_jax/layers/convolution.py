"""A convolution whose derivatives lie in the order of dimensions that Eigen takes.

On CPU a convolution is fast if its dimensions lie in the order `b01f_01io->b01f`. Those
of JAX's own derivatives do not; XLA reorders them, but only at the top level of a program:
in a loop or a subroutine they become plain loops, 15 to 30 times slower. Here every
derivative, of any order and in either mode, lies in that order from the start.
"""

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

Pair = tuple[int, int]
Pads = tuple[Pair, Pair]


class Geometry(NamedTuple):
    """Everything of a convolution but its numbers.

    Attributes:
        x: `(B, H, W, C)`.
        kernel: `(h, w, C, D)`.
        y: `(B, H', W', D)`.
        stride: steps between outputs, in pixels.
        dilation: steps between the taps of the kernel, in pixels.
        padding: rows of zeros above and below, columns left and right.
        models: how many convolutions of this geometry are computed, each of its own
            images and kernel, along axes in front of all arrays: one for each
            `jax.vmap`.
    """

    x: tuple[int, ...]
    kernel: tuple[int, ...]
    y: tuple[int, ...]
    stride: Pair
    dilation: Pair
    padding: Pads
    models: tuple[int, ...] = ()

    def shape(self, slot: str) -> tuple[int, ...]:
        """Returns the shape of `x`, `kernel` or `y`, all models together."""
        return (*self.models, *getattr(self, slot))

    def axes(self) -> Iterator[tuple[int, int, int, int, int, int]]:
        """Yields size, taps, outputs, stride, dilation and zeros before, by axis."""
        return zip(
            self.x[1:3],
            self.kernel[:2],
            self.y[1:3],
            self.stride,
            self.dilation,
            (before for before, _ in self.padding),
            strict=True,
        )


def convolve(
    x: jax.Array, kernel: jax.Array, stride: Pair, dilation: Pair, padding: Pads
) -> jax.Array:
    """Returns the convolution of `[B, H, W, C]` with `[h, w, C, D]`, `[B, H', W', D]`.

    It is the derivative by y of the trilinear form

        T(x, k, y) = sum_{b, p, t, c, d} x[b, s p + r t - pad, c] k[t, c, d] y[b, p, d]

    with stride s and dilation r. Its own derivatives are those by x and by k, and theirs
    again these three: one operation, that takes two of the arguments and returns the
    derivative by the third, is closed under differentiation.
    """
    sides = [
        _outputs(*axis)
        for axis in zip(
            x.shape[1:3], kernel.shape[:2], stride, dilation, padding, strict=True
        )
    ]
    y = (x.shape[0], *sides, kernel.shape[-1])
    geometry = Geometry(x.shape, kernel.shape, y, stride, dilation, padding)
    return convolution_p.bind(x, kernel, missing="y", geometry=geometry)


_SLOTS = ("x", "kernel", "y")


def _derivative(
    a: jax.Array, b: jax.Array, *, missing: str, geometry: Geometry
) -> jax.Array:
    """Returns the derivative of T by the missing argument; `a`, `b` are the others."""
    if geometry.models:
        inner = geometry._replace(models=geometry.models[1:])
        one = functools.partial(_derivative, missing=missing, geometry=inner)
        return lax.map(lambda pair: one(*pair), (a, b))
    stride, dilation = geometry.stride, geometry.dilation
    if missing == "y":
        return _conv(a, b, stride, geometry.padding, dilation)
    if missing == "x" and stride != (1, 1):
        return _by_blocks(a, b, geometry)
    sides = [
        # Size, extent of the taps and of the outputs, and zeros before, in pixels.
        (size, (taps - 1) * r + 1, (outputs - 1) * s + 1, before)
        for size, taps, outputs, s, r, before in geometry.axes()
    ]
    if missing == "x":
        padding = [
            (taps - 1 - before, size + before - outputs)
            for size, taps, outputs, before in sides
        ]
        flipped = lax.rev(a, (0, 1)).transpose(0, 1, 3, 2)
        return _conv(b, flipped, (1, 1), padding, dilation)
    padding = [
        (before, taps - 1 + outputs - size - before)
        for size, taps, outputs, before in sides
    ]
    images, cotangents = a.transpose(3, 1, 2, 0), b.transpose(1, 2, 0, 3)
    y = _conv(images, cotangents, dilation, padding, stride)
    return y.transpose(1, 2, 0, 3)


def _by_blocks(kernel: jax.Array, y: jax.Array, geometry: Geometry) -> jax.Array:
    """Returns the derivative of T by x at a stride s > 1, `[B, H, W, C]`.

    Pixel `s q + i` of block q is read by output o with tap t if `s (q - o) + i` is
    `r t - pad`: a convolution over the outputs, whose channels are the pixels of a
    block. The usual one, over outputs with gaps between them, multiplies `s s` times as
    many numbers as it needs, the others zeros; at stride 2 a kernel of 5x5 has 31 % of
    zeros here, one of 3x3 has 44 %.
    """
    reads, padding = [], []
    for size, taps, outputs, s, r, before in geometry.axes():
        # The blocks that an output reads, counted from its own.
        first, last = -before // s, (r * (taps - 1) - before) // s
        window = last - first + 1
        read = places(window * s, 1, taps, before + first * s, dilation=r)
        reads.append(read.reshape(window, s, taps)[::-1])
        padding.append((last, -(-size // s) - outputs - first))
    rows, columns = (jnp.asarray(read, kernel.dtype) for read in reads)
    blocks = jnp.einsum("hit,wju,tucd->hwdijc", rows, columns, kernel)
    pixels = blocks.shape[3:]
    x = _conv(y, blocks.reshape(*blocks.shape[:3], -1), (1, 1), padding, (1, 1))
    batch, height, width, _ = x.shape
    x = x.reshape(batch, height, width, *pixels).transpose(0, 1, 3, 2, 4, 5)
    x = x.reshape(batch, height * pixels[0], width * pixels[1], -1)
    return x[:, : geometry.x[1], : geometry.x[2]]


def _conv(
    x: jax.Array,
    kernel: jax.Array,
    stride: Pair,
    padding: Sequence[Pair],
    dilation: Pair,
) -> jax.Array:
    if math.prod(kernel.shape[:2]) > math.prod(x.shape[1:3]):
        # XLA would exchange the two, and get a plain loop. The product with a matrix from
        # all pixels to all takes no more multiply-adds than the convolution.
        axes = zip(
            x.shape[1:3], kernel.shape[:2], stride, dilation, padding, strict=True
        )
        rows, columns = (
            places(size, _outputs(size, taps, s, r, pad), taps, pad[0], s, r)
            for size, taps, s, r, pad in axes
        )
        matrix = jnp.einsum(
            "hit,wju,tucd->hwcijd",
            jnp.asarray(rows, kernel.dtype),
            jnp.asarray(columns, kernel.dtype),
            kernel,
        )
        return jnp.einsum("bhwc,hwcijd->bijd", x, matrix)
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=stride,
        padding=padding,
        rhs_dilation=dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _outputs(size: int, taps: int, stride: int, dilation: int, padding: Pair) -> int:
    """Returns the number of outputs along an axis; see `places`."""
    return (size + sum(padding) - dilation * (taps - 1) - 1) // stride + 1


def places(
    size: int,
    outputs: int,
    taps: int,
    before: int,
    stride: int = 1,
    dilation: int = 1,
) -> np.ndarray:
    """Returns which pixel along an axis each output of a convolution reads by each tap.

    Args:
        size: the number of pixels along the axis.
        outputs: the number of outputs along it.
        taps: the number of taps of the kernel along it.
        before: the number of zeros before the first pixel; negative where the first
            pixels are not read.
        stride: the number of pixels from one output to the next.
        dilation: the number of pixels from one tap to the next.

    Returns:
        `[size, outputs, taps]` bool: entry `[i, p, t]` says whether output p reads
        pixel i by tap t.
    """
    read = stride * np.arange(outputs)[:, None] + dilation * np.arange(taps) - before
    return np.arange(size)[:, None, None] == read


def _transpose(
    position: int, cotangent: Any, *operands: Any, missing: str, geometry: Geometry
) -> Any:
    """Returns the cotangent of an operand, whose slot is then the missing one."""
    present = [slot for slot in _SLOTS if slot != missing]
    wanted, other = present[position], present[1 - position]
    values = {missing: cotangent, other: operands[1 - position]}
    arguments = [values[slot] for slot in _SLOTS if slot != wanted]
    return convolution_p.bind(*arguments, missing=wanted, geometry=geometry)


def _batch(
    operands: Any, axes: Any, missing: str, geometry: Geometry
) -> tuple[jax.Array, int]:
    """Maps over several models one after the other: grouped, XLA's are plain loops."""
    if None in axes:
        one = functools.partial(_derivative, missing=missing, geometry=geometry)
        return jax.vmap(one, axes)(*operands), 0
    a, b = (jnp.moveaxis(x, axis, 0) for x, axis in zip(operands, axes, strict=True))
    geometry = geometry._replace(models=(a.shape[0], *geometry.models))
    return convolution_p.bind(a, b, missing=missing, geometry=geometry), 0


convolution_p = Primitive("convolution_in_order")
"""`(a, b) -> derivative of T by the missing argument`; params `missing`, `geometry`."""

convolution_p.def_impl(jax.jit(_derivative, static_argnames=("missing", "geometry")))
convolution_p.def_abstract_eval(
    lambda a, _, missing, geometry: a.update(shape=geometry.shape(missing))
)
ad.defbilinear(
    convolution_p,
    functools.partial(_transpose, 0),
    functools.partial(_transpose, 1),
)
batching.primitive_batchers[convolution_p] = _batch
mlir.register_lowering(
    convolution_p, mlir.lower_fun(_derivative, multiple_results=False)
)
