"""The benchmarks run and print what they promise; nothing here is timed."""

import json
import subprocess
import sys

import numpy as np
import pytest


def lines(repo_root, script, *flags):
    done = subprocess.run(
        [sys.executable, f"benchmarks/{script}", *flags],
        cwd=repo_root,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


ORDERS = ("interleaved", "blocked")
SMALL = ("--cells=1", "--channels=2", "--batch=2")


@pytest.mark.parametrize("part", ["weights", "alphas"])
def test_search_step(part, repo_root):
    flags = (*SMALL, "--nodes=1", f"--part={part}", "--order=first")
    (line,) = lines(repo_root, "search_step.py", *flags)
    assert line["part"] == part
    for key in ("compile_s", "step_s", "cpu_s", "peak_bytes", "flops"):
        assert line[key] > 0, key
    assert {"device", "versions"} <= set(line)


def test_search_step_in_torch(repo_root):
    pytest.importorskip("torch", reason="torch is not installed")
    found = lines(repo_root, "search_step_torch.py", *SMALL)
    assert [line["part"] for line in found] == ["weights", "alphas"]


@pytest.mark.long
def test_retention(repo_root):
    flags = ("--seeds=1", "--rounds=2", "--updates=2")
    found = lines(repo_root, "retention.py", *flags)
    runs = [(line["order"], line["lambda"] > 0) for line in found]
    assert sorted(runs) == sorted((o, p) for o in ORDERS for p in (False, True))
    for line in found:
        assert np.shape(line["errors"]) == (6, 3)
        assert line["forgetting"] >= 0
    # The same updates, in another order.
    assert sorted(found[0]["schedule"]) == sorted(found[1]["schedule"])


@pytest.mark.long
def test_skills(repo_root, tmp_path):
    flags = ("--seeds=1", "--updates=4", "--epochs=1", "--channels=1", "--cells=1")
    found = lines(repo_root, "skills.py", f"--workdir={tmp_path}", *flags)
    kinds = {line["cells"] for line in found}
    assert {"random", "joint", "interleaving", "blocked", "lpt_digits"} <= kinds
    assert {line["task"] for line in found} == {"mnist5k", "digits"}
    assert all(0 <= error <= 100 for line in found for error in line["errors"])


@pytest.mark.parametrize(
    "flags",
    [
        ("--problem=mlp", "--width=8", "--batch=4", "--implicit"),
        ("--problem=chain", "--levels=1,2"),
    ],
    ids=["mlp", "chain"],
)
def test_hypergradient(flags, repo_root):
    found = lines(
        repo_root, "hypergradient.py", *flags, "--dtypes=float32", "--repeats=1"
    )
    by_adjoint = {line["adjoint"]: line for line in found}
    assert {"Autodiff()", "Exact()"} <= set(by_adjoint)
    assert all(line["step_s"] > 0 and "versions" in line for line in found)
    assert by_adjoint["Exact()"]["rel_error"] < 1e-5
    if "--implicit" in flags:
        assert len(found) == 6
