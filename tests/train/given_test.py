"""Runs without a search: where the cells come from, what is refused, what is left."""

import json

import numpy as np
import pytest

from skillearn_jax.errors import InputError
from skillearn_jax.nas import KNOWN_GENOTYPES, Genotype, random_genotype
from skillearn_jax.nas.nasbench201 import Architecture
from skillearn_jax.parallel import Devices
from skillearn_jax.randomness import Use, generator
from skillearn_jax.train import run
from skillearn_jax.train.checks import check
from skillearn_jax.train.given import given_cells
from skillearn_jax.train.random_search import draw_candidates
from skillearn_jax.train.rivals import random_cells
from skillearn_jax.train.spaces import read_cells

pytestmark = pytest.mark.usefixtures("quick_module")


def test_a_published_name_a_seed_a_file_and_a_workdir(tiny, tmp_path):
    assert given_cells(tiny()) is None
    assert given_cells(tiny({"genotype": "DARTS_V2"})) == KNOWN_GENOTYPES["DARTS_V2"]
    config = tiny({"genotype": "random:3"})
    want = random_genotype(generator(3, Use.GIVEN_CELLS), config.space.build())
    assert given_cells(config) == want
    assert given_cells(tiny({"genotype": "random:4"})) != want
    (tmp_path / "genotype.json").write_text(json.dumps(want.to_json()))
    for place in (tmp_path, tmp_path / "genotype.json"):
        assert given_cells(tiny({"genotype": str(place)})) == want


def test_random_alone_takes_the_seed_of_the_run(tiny):
    first = given_cells(tiny({"genotype": "random", "seed": 3}))
    assert first == given_cells(tiny({"genotype": "random:3", "seed": 8}))
    assert first != given_cells(tiny({"genotype": "random", "seed": 4}))


def test_random_cells_are_not_compared_with_themselves(tiny):
    """Given ones, those of the comparison and a random search's, all of one seed."""
    config = tiny(
        {
            "genotype": "random",
            "space.num_nodes": 4,
            "evaluation.num_random": 3,
            "search.num_random": 3,
        }
    )
    given = given_cells(config)
    random = random_cells(config, given, 10, (8, 8, 1)).values()
    candidates = draw_candidates(config).values()
    assert len({given, *random, *candidates}) == 7


def test_an_architecture_of_nasbench201(tiny, tmp_path):
    text = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|avg_pool_3x3~2|"
    (tmp_path / "cell.txt").write_text(text)
    cell = Architecture.from_text(text)
    (tmp_path / "genotype.json").write_text(json.dumps(cell.to_json()))
    for name in (text, tmp_path / "cell.txt", tmp_path):
        config = tiny({"space.name": "nasbench201", "genotype": str(name)})
        assert given_cells(config) == cell


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"genotype": "NO_SUCH"}, "config.genotype: .*NO_SUCH"),
        (
            {"genotype": "x", "space.name": "nasbench201", "evaluation.drop_path": 0.0},
            "'x' is neither .* nor the text",
        ),
        ({"evaluation.stem": "imagenet", "evaluation.channels": 5}, "set an even"),
        ({"search.stem": "imagenet", "search.channels": 5}, "set an even"),
        ({"genotype": "random:"}, "seed of random cells is a whole number"),
        ({"genotype": "random:x"}, "seed of random cells is a whole number"),
        ({"genotype": "DARTS_V2", "evaluation.epochs": 0}, "neither a search nor"),
        (
            {"genotype": "DARTS_V2", "profile": "1:2"},
            "only steps of a search by gradient",
        ),
        (
            {"evaluation.weights.warmup_epochs": 2},
            "at most config.evaluation.epochs, 1",
        ),
        ({"search.weights.warmup_epochs": 3}, "at most config.search.epochs, 2"),
        ({"tester.weights.min_lr": 5.0}, "at most config.tester.weights.lr, 0.025"),
        ({"tester.weights.warmup_epochs": 9}, "at most config.search.epochs, 2"),
        ({"search.weights.min_lr": 5.0}, "at most config.search.weights.lr, 0.025"),
    ],
)
def test_nonsense_is_refused(changes, message, tiny):
    with pytest.raises(InputError, match=message):
        check(tiny(changes))


def test_a_run_evaluates_and_does_not_search(tiny_baseline, tmp_path):
    changes = {
        "genotype": "random:1",
        "evaluation.num_random": 0,
        "evaluation.num_seeds": 1,
        "evaluation.label_smoothing": 0.1,
        "evaluation.weights.schedule": "linear",
    }
    config = tiny_baseline(changes)
    result = run(config, tmp_path / "run", quiet=True)
    assert result.summary["task"] == "evaluation"
    assert result.summary["search"]["steps"] == 0
    assert not (tmp_path / "run" / "checkpoints" / "search").exists()
    left = json.loads((tmp_path / "run" / "genotype.json").read_text())
    assert Genotype.from_json(left) == given_cells(config) == result.genotype
    (row,) = result.summary["evaluation"]["rows"]
    judged = json.loads((tmp_path / "run" / "heldout.json").read_text())["derived"]["0"]
    assert row["errors"] == [judged["error"]]
    assert row["top5_error"] == judged["top5_error"] < judged["error"]
    assert row["calibration"] == judged["calibration"] > 0
    confusion = np.array(judged["confusion"])
    assert confusion.shape == (10, 10)
    wrong = 1 - np.trace(confusion) / confusion.sum()
    assert judged["error"] == pytest.approx(100 * wrong, rel=1e-12)
    page = (tmp_path / "run" / "report" / "index.html").read_text()
    assert "A given cell was trained" in page
    assert "top-5" in page


def test_cells_that_change_while_a_run_goes_on_are_refused(tiny_baseline, tmp_path):
    space = tiny_baseline().space.build()
    old, new = (random_genotype(np.random.default_rng(i), space) for i in (1, 2))
    file, folder = tmp_path / "cell.json", tmp_path / "run"
    changes = {
        "genotype": str(file),
        "evaluation.num_random": 0,
        "evaluation.num_seeds": 1,
    }
    file.write_text(json.dumps(old.to_json()))
    run(tiny_baseline(changes), folder, quiet=True)
    more = tiny_baseline({**changes, "evaluation.num_seeds": 2})
    file.write_text(json.dumps(new.to_json()))
    left = (folder / "evaluation.json").read_text()
    with pytest.raises(InputError, match=r"holds other cells now than when .* begun"):
        run(more, folder, quiet=True)
    assert read_cells(json.loads((folder / "genotype.json").read_text())) == old
    # The same of those that it is compared with.
    file.write_text(json.dumps(old.to_json()))
    noted = json.loads((folder / "cells.json").read_text())
    assert noted == {"derived": old.to_json()}
    (folder / "cells.json").write_text(json.dumps({"derived": new.to_json()}))
    with pytest.raises(InputError, match=r"the cells of 'derived' are not those"):
        run(more, folder, quiet=True)
    assert (folder / "evaluation.json").read_text() == left


def test_cells_that_nobody_has_trained_may_change(tiny_baseline, tmp_path, monkeypatch):
    """A crash before the first checkpoint leaves their names alone."""
    folder = tmp_path / "run"
    changes = {"genotype": "random:1", "evaluation.num_seeds": 1}
    with monkeypatch.context() as patch:
        patch.setattr(Devices, "compile", None)
        with pytest.raises(TypeError):
            run(tiny_baseline(changes), folder, quiet=True)
    noted = json.loads((folder / "cells.json").read_text())
    noted["random 1"] = noted["derived"]
    (folder / "cells.json").write_text(json.dumps(noted))
    run(tiny_baseline(changes), folder, quiet=True)
    assert json.loads((folder / "cells.json").read_text()) != noted
