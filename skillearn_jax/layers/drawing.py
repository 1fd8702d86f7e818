"""Initial variables, drawn array by array."""

from typing import Any

import flax.linen as nn
import jax
from jax.extend import core
from jax.interpreters.partial_eval import dce_jaxpr

from skillearn_jax.types import Key, PyTree


def draw_variables(
    module: nn.Module, key: Key, *inputs: Any, **options: Any
) -> dict[str, PyTree]:
    """Returns `module.init(key, *inputs, **options)`, each array drawn by itself.

    The whole of `init` as one program takes minutes to compile, and Flax's `lazy_init`
    computes beside the draws whatever follows from drawn arrays alone, such as kernels that
    are merged. Here `init` is traced, and of its operations those are carried out, one by
    one, that a variable depends on: the draws, to the same bits as by `lazy_init`.

    Args:
        module: whose variables do not depend on what is in the inputs.
        key: PRNG key; consumed.
        *inputs: of the module, arrays or `jax.ShapeDtypeStruct`.
        **options: of the module, static.

    Cost: one trace of the module, and a small compilation for each shape of a draw.
    """

    def init(key: Key, inputs: tuple[Any, ...]) -> PyTree:
        return module.init(key, *inputs, **options)

    closed, variables = jax.make_jaxpr(init, return_shape=True)(key, inputs)
    draws, read = dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
    given = jax.tree.leaves((key, inputs))
    given = [leaf for leaf, is_read in zip(given, read, strict=True) if is_read]
    drawn = core.jaxpr_as_fun(core.ClosedJaxpr(draws, closed.consts))(*given)
    return jax.tree.unflatten(jax.tree.structure(variables), drawn)
