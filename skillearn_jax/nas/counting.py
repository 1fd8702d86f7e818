"""Sizes of networks: parameters and multiply-adds, counted without running."""

import math
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend import core

from skillearn_jax.layers.convolution import convolution_p
from skillearn_jax.nas.functional import separable_conv

MOBILE_LIMIT = 600_000_000
"""Multiply-adds below which a network for images of 224x224 counts as mobile."""


def num_params(variables: Any) -> int:
    """Returns how many parameters a network has.

    Args:
        variables: variables of a Linen module, or a pytree of parameters; arrays or
            shapes (`jax.eval_shape`). If there is a collection `params`, only it
            counts.
    """
    if isinstance(variables, dict) and "params" in variables:
        variables = variables["params"]
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables))


def count_params(network: nn.Module, image_shape: tuple[int, ...]) -> int:
    """Returns how many parameters a network has, see `num_params`; computes none.

    Args:
        network: called as `network(images, train=False)`.
        image_shape: `(H, W, channels)`.
    """
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    init = partial(network.init, train=False)
    return num_params(jax.eval_shape(init, jax.random.key(0), images))


def count_macs(
    network: nn.Module, image_shape: tuple[int, ...], *args: Any, **kwargs: Any
) -> int:
    """Returns the multiply-adds of one forward pass on one image.

    Convention: convolutions and linear layers only; a tap on the padding counts like
    any other; a separable convolution counts as the depthwise and the pointwise one
    that it stands for, `k k C + C D` per output pixel, however it is computed. Published
    counts are 3 to 8 percent higher where the tool also counted normalisation and pools.

    Args:
        network: called as `network(images, *args, train=False, **kwargs)`; one with an
            attribute `auxiliary` is counted without that head, which is for training
            only.
        image_shape: `(H, W, channels)`.
        *args: further positional arguments, such as `alphas`.
        **kwargs: further keyword arguments.

    Cost: one trace; nothing is compiled.
    """
    # `init`, which is counted, makes the auxiliary head whatever `train` says.
    if hasattr(network, "auxiliary"):
        network = network.clone(auxiliary=None)

    def forward(images: jax.Array) -> Any:
        key = jax.random.key(0)
        return network.init_with_output(key, images, *args, train=False, **kwargs)[0]

    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    return _jaxpr_macs(jax.make_jaxpr(forward)(images).jaxpr)


def mobile_setting(network: nn.Module, image_channels: int = 3) -> dict[str, Any]:
    """Returns whether a network keeps the limit of ImageNet's mobile setting.

    Args:
        network: see `count_macs`, whose convention counts less than the papers'.
        image_channels: of its images.

    Returns:
        `macs`, of an image of 224x224, `limit` and `kept`.

    References: Liu et al. 2019, arXiv 1806.09055, section 3.3.
    """
    macs = count_macs(network, (224, 224, image_channels))
    return {"macs": macs, "limit": MOBILE_LIMIT, "kept": macs < MOBILE_LIMIT}


def _jaxpr_macs(jaxpr: core.Jaxpr) -> int:
    """Returns the multiply-adds of a forward pass, of all the jaxprs it calls too."""
    total = 0
    for eqn in jaxpr.eqns:
        output = _shape(eqn.outvars[0])
        size = math.prod(output)
        if eqn.params.get("name") == separable_conv.__name__:  # whatever is inside
            kernels = sum(math.prod(_shape(kernel)) for kernel in eqn.invars[1:])
            total += size // output[-1] * kernels
            continue
        if eqn.primitive.name == "conv_general_dilated":
            kernel = _shape(eqn.invars[1])
            out_features = eqn.params["dimension_numbers"].rhs_spec[0]
            total += size * (math.prod(kernel) // kernel[out_features])
        elif eqn.primitive is convolution_p:
            total += size * math.prod(_shape(eqn.invars[1])[:3])
        elif eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            shape = _shape(eqn.invars[0])
            total += size * math.prod(shape[axis] for axis in contracted)
        total += sum(map(_jaxpr_macs, core.jaxprs_in_params(eqn.params)))
    return total


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape
