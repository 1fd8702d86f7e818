"""What a run prints of its evaluation, and how it counts things."""

import io
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from skillearn_jax.data import load, sample
from skillearn_jax.nas import find_genotype
from skillearn_jax.nas.space import cell_places
from skillearn_jax.train.build import build_search
from skillearn_jax.train.console import Console
from skillearn_jax.train.search_streams import search_streams
from skillearn_jax.train.summary import caveats, print_evaluation, summary_of
from skillearn_jax.train.wording import counted

ROW = {"params": 5962, "macs": 142336, "mean": 3.06, "std": None}


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 epochs"), (1, "1 epoch"), (2, "2 epochs"), (1200, "1,200 epochs")],
)
def test_one_is_the_only_singular(number, text):
    assert counted(number, "epoch") == text


def test_a_search_on_a_part_says_of_how_many_images(tiny):
    data, cells = load("digits"), find_genotype("DARTS_V2")
    assert "num_searched" not in summary_of(tiny(), [data], cells)
    part = {"data.per_class": (20, 7)}
    assert summary_of(tiny(part), [data], cells)["num_searched"] == 10 * 27
    given = tiny({**part, "genotype": "random:1"})
    assert "num_searched" not in summary_of(given, [data], cells)


def test_a_summary_of_several_sets_has_the_images_of_all(tiny):
    cells = find_genotype("DARTS_V2")
    sets = [
        SimpleNamespace(name=name, num_train=train, num_heldout=heldout, num_classes=2)
        for name, train, heldout in (("a", 30, 4), ("b", 500, 60))
    ]
    assert summary_of(tiny({"seed": 7}), sets, cells) == {
        "task": "lpt",
        "dataset": "a and b",
        "seed": 7,
        "num_train": 530,
        "num_heldout": 64,
        "genotype": cells.to_json(),
        "caveats": caveats(tiny()),
    }


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"search.cells": 2}, {"search.cells": "2"}),
        ({"search.cells": 2, "skill": "random"}, {"search.cells": "2"}),
        ({"search.stage_cells": (2, 5, 8)}, {"search.stage_cells": "2, 5, 8"}),
        ({"evaluation.cells": 1}, {"evaluation.cells": "1"}),
        ({"evaluation.cells": 1, "evaluation.epochs": 0}, {}),
        ({"search.cells": 1, "genotype": "DARTS_V2"}, {}),
        ({"search.cells": 1, "evaluation.cells": 1, "space.name": "nasbench201"}, {}),
        ({}, {}),
    ],
)
def test_a_network_without_a_normal_cell_tells_nothing_of_it(changes, told, tiny):
    """A search of two cells derived one, and stopped by its skips: noise, in silence."""
    found = caveats(tiny({"search.cells": 3, "evaluation.cells": 3, **changes}))
    assert [text.partition(":")[0] for text in found] == [
        f"config.{name} is {value}" for name, value in told.items()
    ]
    for cells in range(1, 5):
        kinds = {place.kind for place in cell_places(cells, channels=2)}
        assert ("normal" in kinds) == (cells >= 3)


@pytest.mark.usefixtures("quick_compilation")
def test_no_loss_reads_the_normal_cell_of_a_search_of_two(tiny_baseline):
    data = load("digits").training
    config = tiny_baseline({"search.cells": 2})
    setup = build_search(config, data, jax.random.key(0), steps_per_epoch=1)
    program, key = setup.phases[-1].program, jax.random.key(1)
    state = program.init(setup.params, key, setup.model_state)
    batches = sample(search_streams(config, data), key, state.step)
    grads, _ = jax.jit(program.hypergrad)(state, batches)
    assert not np.any(grads["alphas"]["normal"])
    assert np.any(grads["alphas"]["reduction"])


@pytest.mark.parametrize(("kept", "words"), [(True, "within"), (False, "ABOVE")])
def test_the_mobile_limit_is_told_of_every_network(kept, words):
    pipe = io.StringIO()
    mobile = {"macs": 574e6, "limit": 600e6, "kept": kept}
    row = {**ROW, "name": "derived", "mobile": mobile}
    print_evaluation(Console(file=pipe), {"epochs": 1, "num_seeds": 1, "rows": [row]})
    assert pipe.getvalue().splitlines()[-1] == (
        f"derived: 574M multiply-adds at 224x224, {words} the mobile limit of 600M"
    )


@pytest.mark.parametrize(
    ("count", "budget", "random"),
    [
        (1, "1 epoch, 1 seed", "(1 cell x 1 seed)"),
        (3, "3 epochs, 3 seeds", "(3 cells x 3 seeds)"),
    ],
)
def test_what_is_printed_of_an_evaluation(count, budget, random):
    pipe = io.StringIO()
    evaluation = {
        "epochs": count,
        "num_seeds": count,
        "rows": [{**ROW, "name": "derived"}, {**ROW, "name": "random 1"}],
        "random": {"mean": 2.94, "std": None, "count": count},
        "verdict": "So it is.",
    }
    print_evaluation(Console(file=pipe), evaluation)
    first, *_ = lines = [line.rstrip() for line in pipe.getvalue().splitlines()]
    assert first == f"error on held-out images, {budget}"
    assert lines[-2:] == [f"random cells: 2.94 % {random}", "So it is."]
