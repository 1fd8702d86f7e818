"""Random changes of colour on the device, inside jit."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp

from skillearn_jax.errors import InputError
from skillearn_jax.types import Array, Key


@dataclasses.dataclass(frozen=True)
class ColourJitter:
    """Random brightness, contrast, saturation and hue, as torchvision's ColorJitter.

    Every image draws its own factors and its own order of the four changes.

    Attributes:
        brightness: x: the factor is uniform in [1 - x, 1 + x]; from 0 to 1.
        contrast: likewise.
        saturation: likewise.
        hue: x: the shift is uniform in [-x, x], in turns of the colour circle; from 0
            to 0.5.

    DARTS trains on ImageNet with 0.4, 0.4, 0.4 and 0.2.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            limit = 0.5 if name == "hue" else 1.0
            if not 0 <= value <= limit:
                raise InputError(
                    f"the jitter of {name} is {value}; it must be from 0 to {limit}"
                )

    def apply(self, images: Array, keys: Key) -> Array:
        """Returns the images with their colours changed.

        Args:
            images: `[B, H, W, 3] float32`, RGB in [0, 1].
            keys: `[B]`, one per example; consumed.

        Returns:
            Like `images`.

        Raises:
            InputError: for images that are not RGB.

        Cost: six blends and one conversion to hue and back, bound by memory. On one
        core of a CPU 2 ms for an image of 224x224.
        """
        if images.shape[-1] != 3:
            raise InputError(
                f"colours can be changed in RGB images only, not with "
                f"{images.shape[-1]} channels: leave the colour jitter out"
            )
        spread = jnp.asarray(
            [self.brightness, self.contrast, self.saturation], images.dtype
        )
        uniform = partial(jax.random.uniform, dtype=images.dtype)

        def jitter(image: Array, key: Key) -> Array:
            factor_key, shift_key, order_key, turn_key = jax.random.split(key, 4)
            factors = 1 + spread * uniform(factor_key, (3,), minval=-1.0)
            shift = uniform(shift_key, (), minval=-self.hue, maxval=self.hue)
            order = jax.random.permutation(order_key, jnp.arange(3, dtype=jnp.int32))
            turn = jax.random.randint(turn_key, (), 0, 4, jnp.int32)
            return jitter_in_order(image, factors, shift, order, turn)

        return jax.vmap(jitter)(images, keys)


def jitter_in_order(
    image: Array, factors: Array, shift: Array, order: Array, turn: Array
) -> Array:
    """Returns one image after four changes of its colours.

    Args:
        image: `[H, W, 3] float32`, RGB in [0, 1].
        factors: `[3] float32`, of brightness, contrast and saturation.
        shift: `[] float32`, of the hue, turns of the colour circle.
        order: `[3] int32`, a permutation: 0 is brightness, 1 contrast, 2 saturation.
        turn: `[] int32`, how many of these three come before the hue.

    Returns:
        Like `image`.
    """

    def blend(image: Array, change: tuple[Array, Array]) -> tuple[Array, None]:
        which, factor = change
        # What an image without brightness, contrast or saturation looks like.
        grey = luma(image)
        without = jnp.where(which == 1, jnp.mean(grey), grey)
        without = jnp.where(which == 0, 0.0, without)
        return jnp.clip(without + factor * (image - without), 0.0, 1.0), None

    before = jnp.arange(3) < turn
    first = jnp.where(before, factors[order], 1.0)
    second = jnp.where(before, 1.0, factors[order])
    image, _ = jax.lax.scan(blend, image, (order, first))
    image, _ = jax.lax.scan(blend, shift_hue(image, shift), (order, second))
    return image


def luma(image: Array) -> Array:
    """Returns the grey `[..., 1]` of RGB `[..., 3]`: the luma of ITU-R BT.601."""
    red, green, blue = jnp.split(image, 3, axis=-1)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def shift_hue(image: Array, shift: Array) -> Array:
    """Returns an image whose hues are turned; value and saturation stay.

    Args:
        image: `[..., 3] float32`, RGB in [0, 1].
        shift: `[] float32`, turns: 1/3 makes red green.

    Returns:
        Like `image`.
    """
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    value = jnp.max(image, -1)
    chroma = value - jnp.min(image, -1)
    divisor = jnp.where(chroma == 0, 1.0, chroma)
    # In sixths of a turn, from red.
    hue = jnp.where(
        value == red,
        (green - blue) / divisor,
        jnp.where(
            value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor
        ),
    )
    hue = hue + 6 * shift

    def channel(offset: float) -> Array:
        turned = offset + hue
        distance = turned - 6 * jnp.floor(turned / 6)
        ramp = jnp.clip(jnp.minimum(distance, 4 - distance), 0.0, 1.0)
        return value - chroma * ramp

    return jnp.stack([channel(5.0), channel(3.0), channel(1.0)], -1)
