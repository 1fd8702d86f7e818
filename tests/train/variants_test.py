"""Every config, shortened, from the first batch to the report."""

import importlib.util
import json

import numpy as np
import pytest

from skillearn_jax.train import run

SHORT = {
    "search": {"epochs": 1, "warmup_epochs": 0},
    "evaluation": {"epochs": 1, "num_random": 1, "num_seeds": 1},
    "parallel": {"devices": 1},
}


@pytest.mark.long
@pytest.mark.parametrize("data", ["digits", "mnist5k"])
@pytest.mark.parametrize("variant", ["", "full", "smoke"])
def test_lpt_digits(repo_root, tmp_path, variant, data):
    path = repo_root / "configs" / "lpt_digits.py"
    spec = importlib.util.spec_from_file_location("lpt_digits", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config(variant)
    config.data.name = data
    config.update(SHORT)
    result = run(config, tmp_path / "run", quiet=True)
    rows = result.summary["evaluation"]["rows"]
    assert [row["name"] for row in rows] == ["derived", "random 1"]
    judged = json.loads((tmp_path / "run" / "heldout.json").read_text())
    for row in rows:
        confusion = np.asarray(judged[row["name"]]["0"]["confusion"])
        assert confusion.sum() == result.summary["num_heldout"]
        right = np.trace(confusion) / confusion.sum()
        assert row["errors"] == [pytest.approx(100 * (1 - right))]
    assert result.report.exists()
