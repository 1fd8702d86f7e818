import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from skillearn_jax.data.pixels import UNDECODABLE, decode


def encode(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def plain(mode, colour, side=4):
    return Image.new(mode, (side, side), colour)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (plain("RGB", (10, 20, 30)), (10, 20, 30)),
        (plain("L", 77), (77, 77, 77)),
        (plain("1", 1), (255, 255, 255)),
        (plain("RGBA", (10, 20, 30, 255)), (10, 20, 30)),
        (plain("RGBA", (10, 20, 30, 0)), (255, 255, 255)),
        (plain("LA", (0, 0)), (255, 255, 255)),
        (plain("RGB", (9, 8, 7)).quantize(2), (9, 8, 7)),
        (Image.fromarray(np.full((4, 4), 0x4D12, np.uint16)), (0x4D, 0x4D, 0x4D)),
    ],
    ids=["rgb", "grey", "bits", "opaque", "clear", "grey-alpha", "palette", "16-bit"],
)
def test_every_kind_becomes_rgb(image, expected):
    pixels = decode(encode(image))
    assert (pixels.shape, pixels.dtype) == ((4, 4, 3), np.uint8)
    np.testing.assert_array_equal(pixels, np.broadcast_to(expected, (4, 4, 3)))


def test_a_transparent_colour_of_a_palette_becomes_white():
    content = encode(plain("RGB", (9, 8, 7)).quantize(2), transparency=0)
    np.testing.assert_array_equal(decode(content), 255)


def png(bits, colour_type, sample, transparent):
    """A PNG of one pixel, of a kind that Pillow writes not, with a transparent colour."""

    def chunk(name, content):
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    header = struct.pack(">IIBBBBB", 1, 1, bits, colour_type, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"tRNS", transparent)
    chunks += chunk(b"IDAT", zlib.compress(b"\0" + sample)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize(
    ("bits", "sample", "expected"),
    [
        (1, b"\x00", 255),
        (2, b"\x40", 85),
        (4, b"\x50", 85),
        (8, b"\x55", 255),
        (16, b"\x55\x01", 85),
    ],
)
def test_a_transparent_colour_becomes_white_as_documented(bits, sample, expected):
    value = int.from_bytes(sample, "big") >> max(0, 8 - bits)
    grey = png(bits, 0, sample, struct.pack(">H", value))
    np.testing.assert_array_equal(decode(grey), expected)
    if bits >= 8:
        rgb = png(bits, 2, 3 * sample, 3 * struct.pack(">H", value))
        np.testing.assert_array_equal(decode(rgb), expected)


def test_cmyk_becomes_rgb():
    pixels = decode(encode(plain("CMYK", (0, 255, 255, 0), 16), "JPEG", quality=95))
    assert np.abs(pixels.astype(int) - (255, 0, 0)).max() < 8


def test_one_channel():
    np.testing.assert_array_equal(decode(encode(plain("L", 7)), channels=1), 7)
    red = decode(encode(plain("RGB", (255, 0, 0))), channels=1)
    assert red.shape == (4, 4, 1)
    assert red[0, 0, 0] == 76


def test_files_and_sizes(tmp_path):
    ramp = np.tile(np.arange(0, 240, 10, dtype=np.uint8)[None, :, None], (12, 1, 3))
    (tmp_path / "ramp.png").write_bytes(encode(Image.fromarray(ramp)))
    np.testing.assert_array_equal(decode(tmp_path / "ramp.png"), ramp)
    np.testing.assert_array_equal(decode(tmp_path / "ramp.png", size=(12, 24)), ramp)
    small = decode(tmp_path / "ramp.png", size=(3, 12))
    assert small.shape == (3, 12, 3)
    # Anti-aliased: an inner pixel is the mean of the two it covers, and some beside.
    np.testing.assert_allclose(small[:, 1:-1], ramp[:3, 2:-2:2][:, :10] + 5.0, atol=1)


def test_what_is_no_png_or_jpeg_is_not_decoded():
    good = encode(plain("RGB", (1, 2, 3), 64))
    gif = encode(plain("RGB", (1, 2, 3)), "GIF")
    broken = bytearray(good)
    broken[40:60] = bytes(20)
    for content in (b"", b"text", gif, good[:40], good[:-30], bytes(broken)):
        with pytest.raises(UNDECODABLE):
            decode(content)
