"""The auxiliary head: a second classifier on an inner cell, for training only."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from skillearn_jax.errors import InputError
from skillearn_jax.layers import Axis, BatchNorm, Conv, Dense, torch_uniform

_POOL = 5
_FEATURES = (128, 768)


@dataclasses.dataclass(frozen=True)
class Auxiliary:
    """What differs between the auxiliary heads of the papers.

    Attributes:
        pool_stride: step between the 5x5 windows of its pool, in pixels.
        second_norm: normalise after its second convolution too.
    """

    pool_stride: int = 3
    second_norm: bool = True

    @property
    def min_side(self) -> int:
        """The smallest side of a feature map that it can read, in pixels."""
        return _POOL + self.pool_stride


CIFAR_AUXILIARY = Auxiliary()
"""Of DARTS on CIFAR."""

IMAGENET_AUXILIARY = Auxiliary(pool_stride=2, second_norm=False)
"""Of DARTS on ImageNet, whose code leaves the second normalisation out."""


class AuxiliaryHead(nn.Module):
    """ReLU, 5x5 mean pool, 1x1 convolution, 2x2 convolution, linear.

    Each convolution is followed by normalisation (the second if asked) and ReLU. On
    the feature maps of the papers the 2x2 convolution leaves one pixel; where it leaves
    more, their mean is classified.

    Attributes:
        num_classes: size of the logits.
        spec: strides and normalisation.
        axis_name: see `BatchNorm`.

    References: Liu et al. 2019, arXiv 1806.09055, and its code.
    """

    num_classes: int
    spec: Auxiliary = CIFAR_AUXILIARY
    axis_name: Axis = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps `[B, H, W, C]` to logits `[B, num_classes]`.

        Raises:
            InputError: if the feature map is too small.
        """
        if min(x.shape[1:3]) < self.spec.min_side:
            raise InputError(
                f"the auxiliary head reads a feature map of {x.shape[1]}x{x.shape[2]}; "
                f"it needs {self.spec.min_side}x{self.spec.min_side}: give larger images "
                "or leave the auxiliary head out"
            )
        stride = self.spec.pool_stride
        x = nn.avg_pool(nn.relu(x), (_POOL, _POOL), (stride, stride))
        x = Conv(_FEATURES[0])(x)
        x = nn.relu(BatchNorm(axis_name=self.axis_name)(x, train=train))
        fan_in = 4 * _FEATURES[0]
        kernel = self.param("kernel", torch_uniform(fan_in), (2, 2, *_FEATURES))
        x = lax.conv_general_dilated(
            x,
            kernel.astype(x.dtype),
            (1, 1),
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        if self.spec.second_norm:
            x = BatchNorm(axis_name=self.axis_name)(x, train=train)
        return Dense(self.num_classes)(jnp.mean(nn.relu(x), axis=(1, 2)))
