import sys
import types

import pytest

from skillearn_jax.data.tf import tensorflow
from skillearn_jax.errors import InputError


class Config:
    """Of a TensorFlow that sees a GPU; `started` is one that already runs on it."""

    def __init__(self, started):
        self.gpus, self.started = ["GPU:0"], started

    def get_visible_devices(self, kind):
        assert kind == "GPU"
        return self.gpus

    def set_visible_devices(self, devices, kind):
        if self.started:
            raise RuntimeError("cannot be modified after being initialized")
        assert kind == "GPU"
        self.gpus = devices


def install(monkeypatch, started=False):
    module = types.SimpleNamespace(config=Config(started))
    monkeypatch.setitem(sys.modules, "tensorflow", module)
    return module


def test_no_gpu_is_left_to_it(monkeypatch):
    module = install(monkeypatch)
    for _ in range(2):
        assert tensorflow("to read") is module
        assert module.config.gpus == []


def test_one_that_runs_on_a_gpu_is_refused(monkeypatch):
    install(monkeypatch, started=True)
    with pytest.raises(InputError, match="already runs on a GPU"):
        tensorflow("to read")


def test_absent(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(InputError, match=r'needed to read: pip install -e "\.\[tf\]"'):
        tensorflow("to read")
