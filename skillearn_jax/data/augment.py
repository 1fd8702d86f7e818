"""Augmentation on the device, inside jit, with one PRNG key per example.

A key is folded with the example's index in its data set, never with its place in the
batch: how a batch is laid out over devices changes nothing.
"""

import dataclasses

import jax
import jax.numpy as jnp

from skillearn_jax.data.colour import ColourJitter
from skillearn_jax.errors import InputError
from skillearn_jax.types import Array, Key


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """The training augmentation of DARTS; the default only normalises.

    Attributes:
        padding: pixels of zero padding for the random crop; 0 for no crop. CIFAR: 4.
        flip: whether to mirror half of the images left to right. Never for digits or
            letters, which a mirror turns into something else.
        cutout: side of the square that is set to the mean colour, pixels; 0 for none.
            CIFAR evaluation: 16.
        colours: random changes of colour, of RGB images; None for none. ImageNet:
            `ColourJitter(0.4, 0.4, 0.4, 0.2)`.

    References: DeVries and Taylor 2017, cutout, 1708.04552; DARTS, 1806.09055.
    """

    padding: int = 0
    flip: bool = False
    cutout: int = 0
    colours: ColourJitter | None = None

    def __post_init__(self) -> None:
        for name in ("padding", "cutout"):
            if getattr(self, name) < 0:
                raise InputError(
                    f"{name} {getattr(self, name)} must be 0 or more pixels: set "
                    f"--config.data.{name}"
                )

    def apply(
        self,
        images: Array,
        keys: Key,
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> Array:
        """Returns augmented images: crop, flip, colours, normalisation, cutout.

        Args:
            images: `[B, H, W, C] uint8`.
            keys: `[B]` keys, one per example (`example_keys`); consumed.
            mean: C floats, see `normalize`.
            std: C floats.

        Returns:
            `[B, H, W, C] float32`.
        """
        crop_keys, flip_keys, cutout_keys, colour_keys = jax.vmap(
            lambda key: jax.random.split(key, 4), out_axes=1
        )(keys)
        if self.padding:
            images = random_crop(images, crop_keys, self.padding)
        if self.flip:
            images = random_flip(images, flip_keys)
        if self.colours:
            scaled = jnp.asarray(images, jnp.float32) / 255.0
            images = 255.0 * self.colours.apply(scaled, colour_keys)
        normalized = normalize(images, mean, std)
        if self.cutout:
            normalized = random_cutout(normalized, cutout_keys, self.cutout)
        return normalized


def even_chances(keys: Key) -> Array:
    """Returns true or false for each key, as likely, the same with float64 enabled."""
    return jax.vmap(lambda key: jax.random.bernoulli(key, jnp.float32(0.5)))(keys)


def example_keys(key: Key, index: Array) -> Key:
    """Returns `[B]` keys, one per example: `key` folded with `index`, `[B] int32`."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, index)


def normalize(images: Array, mean: tuple[float, ...], std: tuple[float, ...]) -> Array:
    """Returns `(images / 255 - mean) / std`, per channel.

    Args:
        images: `[B, H, W, C]` pixels in 0..255, uint8 or float.
        mean: C floats, of pixels in [0, 1].
        std: C floats, likewise.

    Returns:
        `[B, H, W, C] float32`.
    """
    scaled = jnp.asarray(images, jnp.float32) / 255.0
    shift = jnp.asarray(mean, jnp.float32).reshape(1, 1, 1, -1)
    scale = jnp.asarray(std, jnp.float32).reshape(1, 1, 1, -1)
    return (scaled - shift) / scale


def random_pixels(images: Array, keys: Key) -> Array:
    """Returns a uniformly drawn pixel of each image, `[B, 2] int32`, row and column.

    Args:
        images: `[B, H, W, C]`.
        keys: `[B]`; consumed.
    """
    limits = jnp.asarray(images.shape[1:3], jnp.int32)
    return jax.vmap(lambda key: jax.random.randint(key, (2,), 0, limits, jnp.int32))(
        keys
    )


def random_crop(images: Array, keys: Key, padding: int) -> Array:
    """Returns random windows of the zero-padded images, as torchvision's RandomCrop.

    Args:
        images: `[B, H, W, C]`, not normalised: padding is black.
        keys: `[B]`; consumed.
        padding: pixels added on each side.

    Returns:
        Like `images`.
    """
    offsets = jax.vmap(
        lambda key: jax.random.randint(key, (2,), 0, 2 * padding + 1, jnp.int32)
    )(keys)
    return crop(images, offsets, padding)


def random_flip(images: Array, keys: Key) -> Array:
    """Returns the images `[B, H, W, C]`, each mirrored with probability 1/2.

    `keys`: `[B]`; consumed.
    """
    return flip(images, even_chances(keys))


def random_cutout(images: Array, keys: Key, side: int) -> Array:
    """Returns the images with a square set to zero around a uniformly drawn pixel.

    Args:
        images: `[B, H, W, C]`, normalised: zero is the mean colour.
        keys: `[B]`; consumed.
        side: of the square, pixels; what falls outside the image is cut off.

    Returns:
        Like `images`.
    """
    return cutout(images, random_pixels(images, keys), side)


def crop(images: Array, offsets: Array, padding: int) -> Array:
    """Returns windows of the zero-padded images.

    Args:
        images: `[B, H, W, C]`.
        offsets: `[B, 2] int32`, top and left in 0..2*padding; `padding` is the middle.
        padding: pixels added on each side.

    Returns:
        Like `images`.
    """
    sides = (padding, padding)
    padded = jnp.pad(images, ((0, 0), sides, sides, (0, 0)))

    def window(image: Array, offset: Array) -> Array:
        start = (offset[0], offset[1], jnp.int32(0))
        return jax.lax.dynamic_slice(image, start, images.shape[1:])

    return jax.vmap(window)(padded, offsets)


def flip(images: Array, mirrored: Array) -> Array:
    """Returns the images `[B, H, W, C]`, mirrored left to right where `[B] bool`."""
    return jnp.where(mirrored[:, None, None, None], images[:, :, ::-1], images)


def cutout(images: Array, centers: Array, side: int) -> Array:
    """Returns the images with a square of zeros each.

    Args:
        images: `[B, H, W, C]`.
        centers: `[B, 2] int32`, row and column. The square starts `side // 2` before.
        side: of the square, pixels.

    Returns:
        Like `images`.
    """

    def covered(center: Array, size: int) -> Array:
        offset = jnp.arange(size)[None, :] - center[:, None] + side // 2
        return (offset >= 0) & (offset < side)

    rows = covered(centers[:, 0], images.shape[1])[:, :, None, None]
    columns = covered(centers[:, 1], images.shape[2])[:, None, :, None]
    return jnp.where(rows & columns, 0.0, images)
