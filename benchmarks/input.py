"""Rates of the input pipelines, one JSON line each, on this machine.

    python benchmarks/input.py [--seconds=5] [--only=device,tf.data,grain]

The device streams hold CIFAR-size sets of noise and augment as CIFAR's evaluation does.
The others read synthetic JPEGs of 500x375 pixels, 79 KB each, from TFDS files made on
the fly, decode them, take a random-resized-crop of 224x224 and put the bytes on the
device. What comes then, flip and colours, is measured by itself as `colours`.

CPU seconds are of the whole process and tell more than the rate where other processes
share the cores.
"""

import argparse
import contextlib
import io
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from machine import machine
from PIL import Image

from skillearn_jax.data import Augmentation, Examples, Stream, example_keys
from skillearn_jax.data.records import Reading
from skillearn_jax.data.streaming import IMAGENET_AUGMENTATION, open_streaming

_LIBRARIES = ("jax", "numpy", "tensorflow-cpu", "grain", "simplejpeg", "pillow")
_JPEGS = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="per pipeline")
    parser.add_argument("--only", default="", help="names to run, with commas")
    args = parser.parse_args()
    benchmarks: dict[str, Callable[[float], Iterator[dict[str, Any]]]] = {
        "device": device_streams,
        "colours": colours,
        "tf.data": lambda seconds: jpegs("tf.data", "tfrecord", seconds),
        "grain": lambda seconds: jpegs("grain", "array_record", seconds),
    }
    for name in filter(None, args.only.split(",")) if args.only else benchmarks:
        for line in benchmarks[name](args.seconds):
            print(json.dumps({**line, **machine(_LIBRARIES)}), flush=True)


def device_streams(seconds: float) -> Iterator[dict[str, Any]]:
    """Yields rates of batches that are drawn and augmented in one jitted call."""
    rng = np.random.default_rng(0)
    key = jax.random.key(0)
    draw = jax.jit(Stream.draw)
    augmentation = Augmentation(padding=4, flip=True, cutout=16)
    for size, batch_size in itertools.product((25_000, 50_000), (64, 256)):
        image = rng.integers(0, 256, (size, 32, 32, 3), dtype=np.uint8)
        examples = Examples(image, np.zeros(size, np.int32))
        stream = Stream(
            examples, batch_size, (0.5,) * 3, (0.25,) * 3, augmentation=augmentation
        )
        start = time.perf_counter()
        compiled = draw.lower(stream, key, jnp.int32(0)).compile()
        compile_s = time.perf_counter() - start

        def batches(compiled: Any = compiled, stream: Stream = stream) -> Iterator[Any]:
            for step in itertools.count():
                yield compiled(stream, key, jnp.int32(step))

        yield {
            "name": f"device stream of {size}",
            **rate(batches(), batch_size, seconds),
            "compile_s": round(compile_s, 2),
            "image_size": 32,
        }


def colours(seconds: float) -> Iterator[dict[str, Any]]:
    """Yields the rate of flip, colour jitter and normalisation on the device."""
    image = np.random.default_rng(0).integers(0, 256, (64, 224, 224, 3), np.uint8)
    keys = example_keys(jax.random.key(0), jnp.arange(64))
    apply = jax.jit(
        lambda x, k: IMAGENET_AUGMENTATION.apply(x, k, (0.5,) * 3, (0.25,) * 3)
    )
    placed = jax.device_put(image)
    batches = (apply(placed, keys) for _ in itertools.count())
    yield {"name": "colours", **rate(batches, 64, seconds), "image_size": 224}


def jpegs(name: str, file_format: str, seconds: float) -> Iterator[dict[str, Any]]:
    """Yields the rate of decoded, cropped training images that reach the device."""
    with tempfile.TemporaryDirectory() as folder:
        mean_bytes = prepare(folder, file_format)
        reading = Reading(
            "synthetic_photos", folder, batch_size=64, heldout_split="train"
        )
        data = open_streaming(reading)
        batches = (jax.device_put(batch.image) for batch in data.reader.train(0))
        yield {
            "name": name,
            **rate(batches, reading.batch_size, seconds),
            "image_size": reading.image_size,
            "jpeg_bytes": mean_bytes,
        }
        batches.close()


def rate(batches: Iterator[Any], batch_size: int, seconds: float) -> dict[str, Any]:
    """Returns the rate over some seconds, after the first few batches."""
    for _ in range(4):
        jax.block_until_ready(next(batches))
    count, start, start_cpu = 0, time.perf_counter(), time.process_time()
    while (wall := time.perf_counter() - start) < seconds:
        jax.block_until_ready(next(batches))
        count += batch_size
    cpu = time.process_time() - start_cpu
    return {
        "images_per_s": round(count / wall),
        "cpu_s_per_1000_images": round(1000 * cpu / count, 4),
        "batch": batch_size,
    }


def prepare(folder: str, file_format: str) -> int:
    """Writes the synthetic data set and returns the mean size of its JPEGs, bytes."""
    import tensorflow_datasets as tfds

    contents = [photo(seed) for seed in range(_JPEGS)]

    tfds.disable_progress_bar()

    class SyntheticPhotos(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """Noise that compresses as photographs do."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self) -> Any:
            image = tfds.features.Image(encoding_format="jpeg")
            label = tfds.features.ClassLabel(num_classes=1000)
            features = tfds.features.FeaturesDict({"image": image, "label": label})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager: Any) -> Any:
            return {"train": self._generate_examples()}

        def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
            for i, content in enumerate(contents):
                yield i, {"image": io.BytesIO(content), "label": i}

    builder = SyntheticPhotos(data_dir=folder, file_format=file_format)
    with contextlib.redirect_stdout(sys.stderr):  # TFDS prints what it does
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(num_shards=8)
        )
    return round(np.mean([len(content) for content in contents]))


def photo(seed: int) -> bytes:
    """Returns a JPEG of 500x375 pixels: soft colours under fine grain."""
    rng = np.random.default_rng(seed)
    soft = Image.fromarray(rng.integers(0, 256, (47, 63, 3), dtype=np.uint8))
    soft = np.asarray(soft.resize((500, 375), Image.Resampling.BICUBIC))
    grain = rng.normal(0, 13.5, soft.shape)
    pixels = np.clip(soft + grain, 0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=85)
    return stream.getvalue()


if __name__ == "__main__":
    main()
