"""JPEGs to pixels on the host, without TensorFlow."""

import importlib
from typing import Any

import numpy as np
from PIL import Image

from skillearn_jax.data import pixels
from skillearn_jax.data.crops import shorter_side


def _simplejpeg() -> Any:
    try:
        return importlib.import_module("simplejpeg")
    except ImportError:
        return None


_FAST = _simplejpeg()
_FAST_COLOURS = ("Gray", "YCbCr")


def decode(content: bytes) -> np.ndarray:
    """Returns the pixels of an encoded image, `[H, W, 3] uint8`, RGB.

    Where simplejpeg is installed, it decodes grey and colour JPEGs, to the same pixels
    in less time. Pillow decides on everything else: CMYK, PNG and what is damaged.

    Args:
        content: of a JPEG or PNG file; see `pixels.decode` for what becomes RGB.

    Raises:
        UNDECODABLE: any of `pixels.UNDECODABLE`.
    """
    if _FAST is not None:
        try:
            *_, colours, _ = _FAST.decode_jpeg_header(content)
            if colours in _FAST_COLOURS:
                return _FAST.decode_jpeg(content, colorspace="RGB")
        except ValueError:
            pass
    return pixels.decode(content)


def resized_box(
    image: np.ndarray, box: tuple[int, int, int, int], shape: tuple[int, int]
) -> np.ndarray:
    """Returns a box of an image at another size: bilinear with anti-aliasing.

    Args:
        image: `[H, W, 3] uint8`.
        box: top, left, height and width, pixels.
        shape: height and width of the result, pixels.

    Returns:
        `[*shape, 3] uint8`.
    """
    top, left, height, width = box
    part = Image.fromarray(image[top : top + height, left : left + width])
    return np.asarray(part.resize(shape[::-1], Image.Resampling.BILINEAR))


def middle(image: np.ndarray, short: int, size: int) -> np.ndarray:
    """Returns the middle square of an image whose shorter side is resized before.

    Args:
        image: `[H, W, 3] uint8`.
        short: of the resized image, pixels.
        size: side of the square, pixels; at most `short`.

    Returns:
        `[size, size, 3] uint8`.
    """
    height, width, _ = image.shape
    shape = shorter_side(height, width, short)
    image = resized_box(image, (0, 0, height, width), shape)
    top, left = (shape[0] - size) // 2, (shape[1] - size) // 2
    return image[top : top + size, left : left + size]
