"""The notebooks run from beginning to end, use the public API only, and are paired."""

import json
import re
import subprocess
import sys

import pytest

NOTEBOOKS = ("01_one_step", "02_compose_a_skill", "03_compare_estimators")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs(name, repo_root, tmp_path, quick_flags):
    """Its assertions are its own; here it only has to get through, in 90 seconds."""
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "error::DeprecationWarning",
            repo_root / f"notebooks/{name}.py",
        ],
        cwd=tmp_path,
        env={
            "PATH": "/usr/bin:/bin",
            "MPLBACKEND": "agg",
            "HOME": str(tmp_path),
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": quick_flags,
            "JAX_COMPILATION_CACHE_DIR": str(repo_root / ".jax_cache"),
        },
        capture_output=True,
        text=True,
        timeout=240,  # of a busy machine; a quiet one needs a tenth
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_uses_the_public_api_only(name, repo_root):
    text = (repo_root / f"notebooks/{name}.py").read_text()
    for module in re.findall(r"(?:from|import) (skillearn_jax[\w.]*)", text):
        assert module.count(".") <= 1, module
    assert not re.search(r"skillearn_jax[\w.]* import .*\b_\w", text)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_pair_holds_the_same_cells_and_no_output(name, repo_root):
    """`jupytext --sync notebooks/*.py` keeps the two in step."""
    text = (repo_root / f"notebooks/{name}.py").read_text()
    paired = json.loads((repo_root / f"notebooks/{name}.ipynb").read_text())
    # The header of the script is the notebook's metadata.
    _, _, body = text.partition("# %%")
    parts = re.split(r"^# %%(?: \[markdown\])?\n", "# %%" + body, flags=re.MULTILINE)
    want = [part.strip("\n") for part in parts if part.strip()]
    got = []
    for cell in paired["cells"]:
        source = "".join(cell["source"])
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
        if cell["cell_type"] == "markdown":
            source = "\n".join(f"# {line}".rstrip() for line in source.split("\n"))
        got.append(source.strip("\n"))
    assert got == want
