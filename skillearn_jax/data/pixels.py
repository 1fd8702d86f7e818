"""Encoded images to arrays, by Pillow alone: the same bytes give the same pixels."""

import io
import os
import pathlib
import struct

import numpy as np
from PIL import Image

from skillearn_jax.errors import InputError

UNDECODABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
)
"""What Pillow raises for a file that is truncated, damaged or no image."""

# Others are not even tried: some decoders of Pillow call other programs.
_FORMATS = ("PNG", "JPEG")


def decode(
    source: pathlib.Path | bytes,
    *,
    channels: int = 3,
    size: tuple[int, int] | None = None,
) -> np.ndarray:
    """Returns a PNG or JPEG image as an array.

    | stored | becomes |
    |---|---|
    | grey, black and white, palette, CMYK | RGB |
    | 16-bit grey | the upper 8 bits, then RGB |
    | alpha or a transparent colour | laid over white |

    A transparent colour of 16 bits, or of grey of 2 or 4, stays as it is: Pillow notes
    it otherwise than the pixels. With one channel, colours become grey by ITU-R 601-2
    luma. Orientation tags of cameras are not applied.

    Args:
        source: a file, or the content of one.
        channels: 3 for RGB, 1 for grey.
        size: `(height, width)`, pixels, to resize to if it differs: bilinear with
            anti-aliasing; proportions are not kept.

    Returns:
        `[H, W, channels] uint8`.

    Raises:
        UNDECODABLE: any of these.
    """
    stream = io.BytesIO(source) if isinstance(source, bytes) else source
    with Image.open(stream, formats=_FORMATS) as opened:
        image = _flatten(opened).convert("RGB" if channels == 3 else "L")
    if size is not None and image.size != size[::-1]:
        image = image.resize(size[::-1], Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(image.height, image.width, channels)


def check_memory(count: int, height: int, width: int, channels: int) -> None:
    """Raises `InputError` for more images than the machine has memory for."""
    needed = count * height * width * channels
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        raise InputError(
            f"{count} images of {height}x{width} pixels take {needed / 1e9:.0f} GB, and "
            f"this machine has {memory / 1e9:.0f}: set a smaller --config.data.image_size"
        )


def _flatten(image: Image.Image) -> Image.Image:
    """Returns an image of 8 bits per channel without transparency."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image)
    return image
