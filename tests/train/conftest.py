"""A run so small that it can be repeated, and one of it that is shared."""

import collections
import json
from types import SimpleNamespace

import pytest

from skillearn_jax.framework import Program
from skillearn_jax.train import Config, default_config, report_figures, run

TINY = {
    "data.batch_size": 256,
    "data.stratified": True,
    "space.num_nodes": 1,
    "space.ops": ("none", "max_pool_3x3", "skip_connect", "dil_conv_3x3"),
    "search.epochs": 2,
    "search.warmup_epochs": 1,
    "search.cells": 1,
    "search.channels": 2,
    "tester.encoder": "small",
    "evaluation.epochs": 1,
    "evaluation.batch_size": 256,
    "evaluation.cells": 1,
    "evaluation.channels": 2,
    "evaluation.auxiliary_weight": 0.0,
    "evaluation.num_random": 1,
    "evaluation.num_seeds": 2,
    "parallel.devices": 1,
}
FIRST_ORDER = {"skill": "baseline", "hypergrad.adjoint": "first_order"}


def make_config(changes):
    values = default_config()
    values.update_from_flattened_dict({**TINY, **changes})
    return Config.parse(values)


@pytest.fixture(scope="session")
def tiny():
    """`tiny({"search.epochs": 3})`: learning by passing tests; seconds."""
    return lambda changes=(): make_config(dict(changes))


@pytest.fixture(scope="session")
def tiny_baseline():
    """The cheapest search that there is: no tester, no second derivative."""
    return lambda changes=(): make_config({**FIRST_ORDER, **dict(changes)})


@pytest.fixture(scope="session")
def read_rows():
    """`read_rows(workdir)`: the rows of metrics.jsonl, every line of it readable."""
    return lambda workdir: [
        json.loads(line)
        for line in (workdir / "metrics.jsonl").read_text().splitlines()
    ]


@pytest.fixture
def undrawn(monkeypatch):
    """The curves of reports are laid out and not written as SVG: a tenth of a short run.

    For runs that are compared with others; those of whole modules are drawn in full.
    """
    monkeypatch.setattr(report_figures, "svg", lambda figure, title: "<svg></svg>")


@pytest.fixture
def count_traces(monkeypatch):
    """How often a program's step is traced, by the names of its stages."""
    return _count_traces(monkeypatch)


def _count_traces(monkeypatch):
    counts = collections.Counter()
    step = Program.step

    def counted(self, state, batches):
        counts[tuple(stage.name for stage in self.stages)] += 1
        return step(self, state, batches)

    monkeypatch.setattr(Program, "step", counted)
    return counts


@pytest.fixture(scope="session")
def finished(tmp_path_factory, quickly):
    """A finished run of `tiny()`: to be read, or copied, and not to be written.

    What goes on with a copy, to the same bits, is compiled quickly as well.
    """
    config = make_config({})
    workdir = tmp_path_factory.mktemp("finished") / "run"
    with quickly(), pytest.MonkeyPatch.context() as patch:
        traces = _count_traces(patch)
        result = run(config, workdir, quiet=True)
    return SimpleNamespace(
        config=config, workdir=workdir, result=result, traces=dict(traces)
    )
