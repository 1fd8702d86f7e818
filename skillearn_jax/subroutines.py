"""Floor 0: pieces of a program that are traced, and on CPU compiled, once for all uses."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax.experimental.xla_metadata import set_xla_metadata

_Function = TypeVar("_Function", bound=Callable[..., Any])


def subroutine(
    function: _Function, jit: Callable[..., Any] = jax.jit, **options: Any
) -> _Function:
    """Returns the function as one that programs call instead of containing a copy.

    `jax.jit` inside a traced program is traced, differentiated and lowered once for each
    shape, but XLA then puts a copy in wherever it is called, compiles every copy, and
    fuses across the seams: long elementwise chains are computed anew by each of their
    readers. On CPU this forbids the copies. Equal kernels are compiled once, each
    result is computed once and kept, and what is live is live for shorter: a search step
    of 3 cells compiles in six tenths of the CPU time, takes seven tenths of it to run,
    and a third of the memory (`docs/performance.md`). Loading it from a compilation
    cache takes longer, for large programs on some machines as long as to compile it.

    XLA brings convolutions into the order of dimensions that is fast on CPU only outside
    of subroutines: inside, use `layers.conv2d`, whose derivatives need no such help.

    A subroutine holds no collectives: with gathers over devices in one, XLA's CPU runtime
    ended in a segmentation fault.

    On accelerators it is `jit` alone: copies are what their fusion wants.

    Args:
        function: pure; to be called while tracing or eagerly.
        jit: `jax.jit`, or that of Flax for a function of a module.
        **options: of `jit`, such as `static_argnames`.
    """

    @functools.wraps(function)
    def body(*args: Any, **kwargs: Any) -> Any:
        # What JAX itself calls inside is put in, for fusion within the piece.
        with _on_cpu(inlineable="true"):
            return function(*args, **kwargs)

    jitted = jit(body, **options)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with _on_cpu(inlineable="false"):
            return jitted(*args, **kwargs)

    return call  # type: ignore[return-value]


def _on_cpu(**metadata: str) -> contextlib.AbstractContextManager[Any]:
    """Returns a context that marks what is traced in it, where the CPU is to run it."""
    if jax.default_backend() != "cpu":
        return contextlib.nullcontext()
    return set_xla_metadata(**metadata)
