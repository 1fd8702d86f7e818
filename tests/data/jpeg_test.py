import importlib.util
import io

import numpy as np
import pytest
from PIL import Image

from skillearn_jax.data import jpeg
from skillearn_jax.data.pixels import UNDECODABLE

CHANNELS = {"RGB": 3, "L": 1, "CMYK": 4}


def encoded(mode, **options):
    shape = (5, 6, CHANNELS[mode])
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    image = Image.fromarray(array.squeeze()).resize((60, 50))
    assert image.mode in (mode, "RGBA")
    stream = io.BytesIO()
    image = image if image.mode == mode else Image.merge("CMYK", image.split())
    image.save(stream, "JPEG", **options)
    return stream.getvalue()


@pytest.fixture(params=["simplejpeg", "pillow"])
def decode(request, monkeypatch):
    if request.param == "pillow":
        monkeypatch.setattr(jpeg, "_FAST", None)
    elif importlib.util.find_spec("simplejpeg") is None:
        pytest.skip("simplejpeg is not installed")
    return jpeg.decode


@pytest.mark.parametrize("mode", CHANNELS)
@pytest.mark.parametrize("subsampling", [0, 2])
def test_every_jpeg_becomes_the_rgb_of_pillow(decode, mode, subsampling):
    content = encoded(mode, subsampling=subsampling)
    image = decode(content)
    assert image.shape == (50, 60, 3)
    expected = Image.open(io.BytesIO(content)).convert("RGB")
    np.testing.assert_array_equal(image, np.asarray(expected))
    assert (image.std((0, 1)) > 10).all()


@pytest.mark.parametrize("damage", [lambda x: x[:-50], lambda x: x[:30], lambda x: b""])
def test_damage_is_an_error(decode, damage):
    with pytest.raises(UNDECODABLE):
        decode(damage(encoded("RGB")))
