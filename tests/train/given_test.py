"""Runs without a search: where the cells come from, what is refused, what is left."""

import json

import numpy as np
import pytest

from skillearn_jax.errors import InputError
from skillearn_jax.nas import KNOWN_GENOTYPES, Genotype, random_genotype
from skillearn_jax.train import run
from skillearn_jax.train.experiment import check
from skillearn_jax.train.given import given_cells


def test_a_published_name_a_seed_a_file_and_a_workdir(tiny, tmp_path):
    assert given_cells(tiny()) is None
    assert given_cells(tiny({"genotype": "DARTS_V2"})) == KNOWN_GENOTYPES["DARTS_V2"]
    config = tiny({"genotype": "random:3"})
    want = random_genotype(np.random.default_rng(3), config.space.build())
    assert given_cells(config) == want
    assert given_cells(tiny({"genotype": "random:4"})) != want
    (tmp_path / "genotype.json").write_text(json.dumps(want.to_json()))
    for place in (tmp_path, tmp_path / "genotype.json"):
        assert given_cells(tiny({"genotype": str(place)})) == want


def test_random_alone_takes_the_seed_of_the_run(tiny):
    first = given_cells(tiny({"genotype": "random", "seed": 3}))
    assert first == given_cells(tiny({"genotype": "random:3", "seed": 8}))
    assert first != given_cells(tiny({"genotype": "random", "seed": 4}))


def test_an_architecture_of_nasbench201(tiny):
    text = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|avg_pool_3x3~2|"
    config = tiny({"space.name": "nasbench201", "genotype": text})
    assert given_cells(config).to_text() == text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"genotype": "NO_SUCH"}, "config.genotype: .*NO_SUCH"),
        ({"genotype": "random:"}, "seed of random cells is a whole number"),
        ({"genotype": "random:x"}, "seed of random cells is a whole number"),
        ({"genotype": "DARTS_V2", "evaluation.epochs": 0}, "neither a search nor"),
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
