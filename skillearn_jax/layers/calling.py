"""A module within another as a subroutine."""

import functools
from typing import Any

import flax.linen as nn

from skillearn_jax.subroutines import subroutine


# Without random streams: their keys would be others than outside of `nn.jit`.
@functools.partial(subroutine, jit=nn.jit, rngs=False, static_argnames="train")
def _called(module: nn.Module, *inputs: Any, train: bool) -> Any:
    return module(*inputs, train)


def run_module(module: nn.Module, *inputs: Any, train: bool) -> Any:
    """Returns what a module makes of its inputs, in a subroutine of its own.

    For large pieces: XLA's work on one list of operations grows with the square of its
    length, so that 5 cells, each a subroutine, compile in seven eighths of the time.

    Args:
        module: within another; with an attribute `axis_name`. Where that is not None,
            so that parts may talk to other devices, and to be initialised it is copied.
        *inputs: arrays, or None.
        train: the last argument of the module.

    Raises:
        flax.errors.InvalidRngError: if a subroutine draws random numbers: hand it a
            key.
    """
    if module.axis_name is not None or module.is_initializing():
        return module(*inputs, train)
    return _called(module, *inputs, train=train)
