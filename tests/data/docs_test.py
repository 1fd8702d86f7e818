import re

import pytest

from skillearn_jax.data import SOURCES, Examples
from skillearn_jax.data.folder import UNREADABLE_LIMIT


@pytest.fixture
def page(repo_root):
    return (repo_root / "docs" / "data.md").read_text(encoding="utf-8")


def test_the_code_runs(page, tmp_path, monkeypatch, capsys):
    (block,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(block.splitlines()) <= 20
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(block, "docs/data.md", "exec"), names)
    assert capsys.readouterr().out == "3 (12, 12, 3) 500 100\n"
    assert names["data"].name == "mine"
    assert isinstance(names["data"].train, Examples)


def test_every_source_is_there(page):
    table = page.split("## ")[0]
    assert {name for name in SOURCES if not re.search(rf"`{name}[`:]", table)} == set()


def test_the_limit_is_that_of_the_code(page):
    assert f"with more than {UNREADABLE_LIMIT} of them" in page
