"""The worked examples outside the package: short, and doing what they say."""

import re
import subprocess
import sys

import pytest

from skillearn_jax.nas import find_genotype


def test_learning_by_teaching_finds_the_right_labels(repo_root, tmp_path):
    script = repo_root / "examples" / "learning_by_teaching.py"
    code = [line for line in script.read_text().splitlines() if line.strip()]
    assert len(code) <= 70
    done = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,  # it needs nothing but the installed package
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "trust -> teacher -> student -> objective" in done.stdout
    found = re.findall(r"(\w+): student right (\S+), .* labels (\S+)", done.stdout)
    (before, right, trust), (after, more_right, more_trust) = found
    assert (before, after) == ("before", "after")
    assert float(more_right) > float(right) + 0.05
    assert float(more_trust) > float(trust) + 0.2


@pytest.mark.usefixtures("quick_compilation")
def test_a_skill_of_ones_own_searches_a_cell(repo_root, tmp_path, monkeypatch, capsys):
    page = (repo_root / "docs" / "your_own_skill.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(block, "docs/your_own_skill.md", "exec"), names)
    out = capsys.readouterr().out
    assert "alphas -> teacher -> student -> objective" in out
    assert find_genotype("cell.json") == names["found"]
    assert names["metrics"]["validation/student"] > 0.2
