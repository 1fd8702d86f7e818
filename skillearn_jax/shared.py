"""Floor 0: pieces of a program that are traced, and on CPU compiled, once."""

import functools
import os
from collections.abc import Callable
from typing import Any

import jax
from jax.experimental.xla_metadata import set_xla_metadata


def shared(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    jitted = jax.jit(function, **options)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if jax.default_backend() != "cpu" or os.environ.get("INLINE"):
            return jitted(*args, **kwargs)
        with set_xla_metadata(inlineable="false"):
            return jitted(*args, **kwargs)

    return call
