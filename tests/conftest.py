"""Strict settings for the whole suite: set before JAX starts."""

import contextlib
import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)

import jax
import pytest

_ROOT = pathlib.Path(__file__).resolve().parent.parent

# A second run of the suite compiles nothing that it compiled before.
jax.config.update("jax_compilation_cache_dir", str(_ROOT / ".jax_cache"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
# Shapes must match in full: a silently broadcast scalar is a wrong hypergradient.
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def x64():
    """Computes in float64 for the duration of one test."""
    with jax.enable_x64(True):
        yield


@contextlib.contextmanager
def _quick_compilation():
    """Small arrays, large graphs: unoptimised programs are ready in half the time."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


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
def repo_root() -> pathlib.Path:
    """The folder that holds pyproject.toml."""
    return _ROOT
