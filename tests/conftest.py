"""Strict settings for the whole suite: set before JAX starts."""

import contextlib
import functools
import gc
import io
import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)

import jax
import numpy as np
import pytest
from jax._src import compiler  # whose options have no public name
from PIL import Image

_ROOT = pathlib.Path(__file__).resolve().parent.parent

# Tracing makes many objects that stay, through which the collector looks in vain.
gc.set_threshold(200_000, 20, 100)
# A second run of the suite compiles nothing that it compiled before.
jax.config.update("jax_compilation_cache_dir", str(_ROOT / ".jax_cache"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
# Shapes must match in full: a silently broadcast scalar is a wrong hypergradient.
jax.config.update("jax_numpy_rank_promotion", "raise")

_QUICK = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}
if jax.__version_info__ < (0, 11):  # later ones have no such option
    _QUICK["xla_cpu_use_fusion_emitters"] = False


@pytest.fixture
def x64():
    """Computes in float64 for the duration of one test."""
    with jax.enable_x64(True):
        yield


@contextlib.contextmanager
def _quick_compilation():
    """Small arrays, large graphs: unoptimised programs are ready in a third of the time.

    Where nothing is optimised, most of it goes into XLA's newer emitters of kernels. What
    does not ask for this is compiled as users compile it.
    """
    compile_options = compiler.get_compile_options

    def quick_options(*, env_options_overrides, **others):
        overrides = {**env_options_overrides, **_QUICK}
        return compile_options(env_options_overrides=overrides, **others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "get_compile_options", quick_options)
        yield


@pytest.fixture
def quick_compilation():
    """Of one test."""
    with _quick_compilation():
        yield


@pytest.fixture(scope="module")
def quick_module():
    """Of a module, whose fixtures ask for it too: bits are compared among its runs."""
    with _quick_compilation():
        yield


@pytest.fixture(scope="session")
def quickly():
    """`with quickly():` for fixtures of a session, which outlive a module."""
    return _quick_compilation


@pytest.fixture(scope="session")
def quick_flags():
    """For `XLA_FLAGS` of other processes."""
    return " ".join(f"--{name}={value}" for name, value in _QUICK.items())


@pytest.fixture(scope="session")
def repo_root() -> pathlib.Path:
    """The folder that holds pyproject.toml."""
    return _ROOT


@pytest.fixture(scope="session")
def photo():
    """`photo(seed)`: a JPEG of 40 to 80 pixels; some are grey, some CMYK."""

    @functools.cache
    def jpeg(seed):
        rng = np.random.default_rng(seed)
        low = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
        size = (int(rng.integers(50, 80)), int(rng.integers(40, 80)))
        image = Image.fromarray(low).resize(size, Image.Resampling.BICUBIC)
        stream = io.BytesIO()
        image.convert({0: "L", 1: "CMYK"}.get(seed % 7, "RGB")).save(stream, "JPEG")
        return stream.getvalue()

    return jpeg


@pytest.fixture(scope="session")
def prepare_photos(photo):
    """Prepares the TFDS data set `photos`, of images of several sizes.

    `prepare_photos(folder, file_format, counts, num_classes, damaged)`: `counts` examples
    of each split, named by split and number, in turn of each class; the files `damaged`
    are cut off. Skips where the format cannot be read.
    """
    needs = {"tfrecord": "tensorflow", "array_record": "grain"}

    def prepare(folder, file_format, counts, num_classes, damaged=()):
        pytest.importorskip(
            needs[file_format], reason=f"{needs[file_format]} is not installed"
        )
        import tensorflow_datasets as tfds

        tfds.disable_progress_bar()

        class Photos(tfds.core.GeneratorBasedBuilder, skip_registration=True):
            """Photograph-like JPEGs."""

            VERSION = tfds.core.Version("1.0.0")

            def _info(self):
                features = {
                    "image": tfds.features.Image(encoding_format="jpeg"),
                    "label": tfds.features.ClassLabel(num_classes=num_classes),
                    "file_name": tfds.features.Text(),
                }
                return tfds.core.DatasetInfo(
                    builder=self, features=tfds.features.FeaturesDict(features)
                )

            def _split_generators(self, dl_manager):
                return {split: self._generate_examples(split) for split in counts}

            def _generate_examples(self, split):
                for i in range(counts[split]):
                    name = f"{split}_{i}.JPEG"
                    content = photo(i + 1000 * (split == "train"))
                    if name in damaged:
                        content = content[: len(content) // 2]
                    yield (
                        i,
                        {
                            "image": io.BytesIO(content),
                            "label": i % num_classes,
                            "file_name": name,
                        },
                    )

        Photos(data_dir=folder, file_format=file_format).download_and_prepare(
            download_config=tfds.download.DownloadConfig(num_shards=3)
        )
        return str(folder)

    return prepare
