"""The page on the ready-made skills in code does what it says."""

import re

import jax
import numpy as np
import pytest

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture
def page(repo_root):
    return (repo_root / "docs" / "skills_in_code.md").read_text(encoding="utf-8")


def test_the_code_runs(page, capsys):
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 8
    names = {}
    with jax.numpy_rank_promotion("allow"):  # as a reader has it
        for i, block in enumerate(blocks):
            exec(compile(block, f"docs/skills_in_code.md, block {i}", "exec"), names)
    out = capsys.readouterr().out
    assert "('train', 'own_train', 'own_bank', 'bank', 'val')" in out
    assert f"{jax.device_count()} devices, difference: " in out
    assert np.all(np.asarray(names["exam_loss"]) < 1.2)
    assert np.all(names["exam_size"][:, 2] < 0.5 * names["exam_size"][:, 0])
    # One task after the other forgets the first; turns do not.
    forgotten, kept = names["kept"].retention
    assert forgotten < 0.9
    assert kept == 1
    assert names["turns"][-1, 0] < 0.5 * names["blocks"][-1, 0]
    for after, before in (
        (names["after_linen"], names["made"]["batch_stats"]),
        (names["after_nnx"], names["statistics"]),
    ):
        moved = jax.tree.map(np.not_equal, after.model_state["net"], before)
        assert all(map(np.any, jax.tree.leaves(moved)))
        assert np.any(after.params["gates"] != 0)
    assert names["difference"].shape == (64,)
    assert abs(names["difference"]).max() < 1e-6
