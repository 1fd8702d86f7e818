"""A convolution whose derivatives are convolutions in the order of dimensions of Eigen.

XLA on CPU hands a convolution to Eigen only if its dimensions lie in the order
`b01f_01io->b01f`. Those of JAX's own derivatives do not; XLA rewrites them, but only at
the top level of a program: in a loop, or in a computation that is called several times,
they become plain loops, 20 to 50 times slower. Here every derivative, of any order and
in either mode, is such a convolution from the start.
"""

import functools
from typing import Any, NamedTuple

import jax
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

Pads = tuple[tuple[int, int], tuple[int, int]]
Pair = tuple[int, int]


class Geometry(NamedTuple):
    """Everything of a convolution but its numbers.

    Attributes:
      x: `(B, H, W, C)`.
      kernel: `(h, w, C, D)`.
      y: `(B, H', W', D)`.
      stride: steps between outputs, in pixels.
      dilation: steps between the taps of the kernel, in pixels.
      padding: rows above and below, columns left and right.
    """

    x: tuple[int, int, int, int]
    kernel: tuple[int, int, int, int]
    y: tuple[int, int, int, int]
    stride: Pair
    dilation: Pair
    padding: Pads


def convolve(
    x: jax.Array, kernel: jax.Array, stride: Pair, dilation: Pair, padding: Pads
) -> jax.Array:
    """Returns the convolution of `[B, H, W, C]` with `[h, w, C, D]`, `[B, H', W', D]`.

    It is the derivative by y of the trilinear form

        T(x, kernel, y) = sum_{p, t} x[stride p + dilation t - padding] kernel[t] y[p],

    its derivatives are those by x and by the kernel, theirs again these three: each
    takes two of the three arguments and returns the place of the third.
    """
    sides = [
        (n + sum(pad) - d * (k - 1) - 1) // s + 1
        for n, k, s, d, pad in zip(
            x.shape[1:3], kernel.shape[:2], stride, dilation, padding, strict=True
        )
    ]
    y = (x.shape[0], *sides, kernel.shape[-1])
    geometry = Geometry(x.shape, kernel.shape, y, stride, dilation, padding)
    return _convolution_p.bind(x, kernel, missing="y", geometry=geometry)


_SLOTS = ("x", "kernel", "y")


def _compute(
    a: jax.Array, b: jax.Array, *, missing: str, geometry: Geometry
) -> jax.Array:
    """Returns the derivative of T by the missing argument, given the two others."""
    if missing == "y":
        return _conv(a, b, geometry.stride, geometry.padding, (1, 1), geometry.dilation)
    extents = [
        (n, (k - 1) * d + 1, (m - 1) * s + 1, before)
        for n, k, m, s, d, (before, _) in zip(
            geometry.x[1:3],
            geometry.kernel[:2],
            geometry.y[1:3],
            geometry.stride,
            geometry.dilation,
            geometry.padding,
            strict=True,
        )
    ]
    if missing == "x":
        padding = [
            (taps - 1 - before, n + before - outputs)
            for n, taps, outputs, before in extents
        ]
        kernel = lax.rev(a, (0, 1)).transpose(0, 1, 3, 2)
        return _conv(b, kernel, (1, 1), padding, geometry.stride, geometry.dilation)
    padding = [
        (before, taps - 1 + outputs - n - before)
        for n, taps, outputs, before in extents
    ]
    images, cotangents = a.transpose(3, 1, 2, 0), b.transpose(1, 2, 0, 3)
    y = _conv(
        images, cotangents, geometry.dilation, padding, (1, 1), geometry.stride
    )
    return y.transpose(1, 2, 0, 3)


def _conv(x: jax.Array, kernel: jax.Array, stride: Any, padding: Any, spread: Any, dilation: Any) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=stride,
        padding=padding,
        lhs_dilation=spread,
        rhs_dilation=dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _transpose(position: int, cotangent: Any, a: Any, b: Any, *, missing: str, geometry: Geometry) -> Any:
    """Returns the cotangent of argument 0 or 1, whose slot is then the missing one."""
    present = [slot for slot in _SLOTS if slot != missing]
    wanted = present[position]
    values = {missing: cotangent, present[1 - position]: (a, b)[1 - position]}
    operands = [values[slot] for slot in _SLOTS if slot != wanted]
    return _convolution_p.bind(*operands, missing=wanted, geometry=geometry)


def _batch(args: Any, dims: Any, **params: Any) -> Any:
    return jax.vmap(functools.partial(_compute, **params), dims)(*args), 0


_convolution_p = Primitive("skillearn_convolution")
_convolution_p.def_impl(jax.jit(_compute, static_argnames=("missing", "geometry")))
_convolution_p.def_abstract_eval(
    lambda a, b, missing, geometry: jax.core.ShapedArray(
        getattr(geometry, missing), a.dtype
    )
)
ad.defbilinear(
    _convolution_p,
    functools.partial(_transpose, 0),
    functools.partial(_transpose, 1),
)
batching.primitive_batchers[_convolution_p] = _batch
mlir.register_lowering(
    _convolution_p, mlir.lower_fun(_compute, multiple_results=False)
)
