"""The launch scripts, with stand-ins for what they start."""

import os
import signal
import subprocess

import pytest


@pytest.fixture
def script(repo_root, tmp_path):
    """`script(name, *args, **env)`: (code, stdout, stderr)."""

    def call(name, *args, **env):
        done = subprocess.run(
            [repo_root / "launch" / name, *args],
            cwd=repo_root,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "RESTART_PAUSE": "0", **env},
        )
        return done.returncode, done.stdout, done.stderr

    return call


@pytest.fixture
def stand_in(tmp_path):
    """`stand_in(name, *codes)`: a program that says its arguments and ends so in turn."""

    def make(name, *codes):
        path, count = tmp_path / name, tmp_path / f"{name}_calls"
        path.write_text(
            "#!/usr/bin/env bash\n"
            f'echo called >> {count}\nprintf "%s\\n" "$@"\n'
            f"codes=({' '.join(map(str, codes))})\n"
            f"exit ${{codes[$(($(wc -l < {count}) - 1))]}}\n"
        )
        path.chmod(0o755)
        return path

    return make


@pytest.mark.parametrize("code", [0, 2, 3, 4, 126, 127, 129, 130, 143])
def test_again_leaves_what_another_start_cannot_mend(script, stand_in, code):
    program = stand_in("program", code)
    assert script("again.sh", program, "--x=a b") == (code, "--x=a b\n", "")


def test_again_starts_what_was_killed_anew(script, stand_in):
    code, out, err = script("again.sh", stand_in("program", 137, 134, 1, 0), "x")
    assert (code, out) == (0, "x\n" * 4)
    assert err.splitlines() == [
        f"again.sh: exit code {code}; restart {i} of 10"
        for i, code in enumerate((137, 134, 1), start=1)
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_again_does_not_start_anew_what_it_was_asked_to_end(
    repo_root, tmp_path, number
):
    """However that ends: here as if by a fault."""
    program = tmp_path / "program"
    program.write_text(
        "#!/usr/bin/env bash\n"
        "trap 'exit 139' TERM\necho here\nwhile true; do sleep 0.1; done\n"
    )
    program.chmod(0o755)
    # What this process ignores, as in the background of a script, its children do too.
    before = signal.signal(number, signal.SIG_DFL)
    try:
        again = subprocess.Popen(
            [repo_root / "launch" / "again.sh", program],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "RESTART_PAUSE": "0"},
        )
    finally:
        signal.signal(number, before)
    assert again.stdout.readline() == b"here\n"
    again.send_signal(number)
    out, err = again.communicate(timeout=20)
    assert (again.returncode, out, err) == (139, b"", b"")


def test_again_gives_up(script, stand_in):
    program = stand_in("program", 5, 5, 5, 5)
    code, out, err = script("again.sh", program, "x", RESTARTS="2")
    assert (code, out) == (5, "x\n" * 3)
    assert "exit code 5, and 2 restarts are used up: set RESTARTS" in err


@pytest.mark.parametrize("restarts", ["many", "1.5", "08", "-1"])
@pytest.mark.parametrize("name", ["again.sh", "local.sh"])
def test_a_number_of_restarts_that_is_none_is_refused(script, stand_in, name, restarts):
    """Else it would be compared in vain, and there were no end of them."""
    program = stand_in("program", 137, 0)
    command = (program,) if name == "again.sh" else ("1", "--config=c")
    code, out, err = script(name, *command, RESTARTS=restarts, PYTHON=program)
    assert (code, out) == (2, "")
    assert err == f"{name}: RESTARTS is {restarts}; it must be a whole number\n"


def test_local_does_not_start_again_what_cannot_be_started(script, tmp_path):
    code, _, err = script("local.sh", "1", PYTHON=str(tmp_path / "none"), PORT="1")
    assert code == 127
    assert "restart" not in err


def test_gpu_host_passes_its_flags_on(script, stand_in, repo_root):
    python = stand_in("python", 137, 0)
    code, out, _ = script("gpu_host.sh", "--config=c", "--workdir=a b", PYTHON=python)
    assert code == 0
    run = f"{repo_root}/launch/run.py"
    assert out.splitlines() == [run, "--config=c", "--workdir=a b"] * 2


@pytest.mark.parametrize("command", [("gpu_host.sh",), ("local.sh", "1")])
def test_paths_are_those_of_where_it_is_called(command, repo_root, tmp_path):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\npwd -P\necho "$1" "$2"\n')
    python.chmod(0o755)
    name, *args = command
    out = subprocess.check_output(
        [repo_root / "launch" / name, *args, "--workdir=run"],
        cwd=tmp_path,
        text=True,
        env={**os.environ, "PYTHON": str(python), "PORT": "1"},
    )
    run = f"{repo_root}/launch/run.py --workdir=run"
    assert out.splitlines() == [str(tmp_path.resolve()), run]


def test_tpu_pod_runs_the_command_on_all_workers(script, stand_in):
    gcloud = stand_in("gcloud", 0)
    env = {"TPU": "pod", "ZONE": "z", "GCLOUD": gcloud}
    code, out, err = script("tpu_pod.sh", "--config=c:full", "--workdir=/a b", **env)
    assert (code, err) == (0, "")
    *head, command = out.splitlines()
    assert head == [
        "compute",
        "tpus",
        "tpu-vm",
        "ssh",
        "pod",
        "--zone=z",
        "--worker=all",
    ]
    assert command == (
        "--command=cd skillearn_jax && JAX_PLATFORMS=tpu,cpu RESTARTS=10 "
        "launch/again.sh .venv/bin/python launch/run.py --distributed --config=c:full --workdir=/a\\ b"
    )


def test_the_hosts_of_a_pod_are_told_how_exact_products_are(script, stand_in):
    """The guide sets it before the command, whose environment they do not see."""
    env = {"TPU": "pod", "ZONE": "z", "GCLOUD": stand_in("gcloud", 0)}
    env["JAX_DEFAULT_MATMUL_PRECISION"] = "highest"
    *_, command = script("tpu_pod.sh", "--config=c", **env)[1].splitlines()
    assert " JAX_DEFAULT_MATMUL_PRECISION=highest launch/again.sh " in command


@pytest.mark.parametrize("folder", ["my runs/code", "~/my runs/code"])
def test_the_folder_on_the_hosts_may_have_spaces(script, stand_in, folder):
    env = {"TPU": "pod", "ZONE": "z", "GCLOUD": stand_in("gcloud", 0), "DIR": folder}
    *_, command = script("tpu_pod.sh", "--config=c", **env)[1].splitlines()
    assert command.startswith("--command=cd my\\ runs/code && JAX_PLATFORMS=tpu,cpu ")


def test_slurm_names_the_first_node(script, stand_in, tmp_path):
    (tmp_path / "scontrol").write_text("#!/bin/sh\nprintf 'node7\\nnode8\\n'\n")
    (tmp_path / "scontrol").chmod(0o755)
    stand_in("srun", 0)
    code, out, err = script(
        "slurm.sbatch",
        "--config=c",
        PATH=f"{tmp_path}:{os.environ['PATH']}",
        SLURM_JOB_NODELIST="node[7-8]",
        SLURM_JOB_ID="41234",
        SLURM_NTASKS="2",
    )
    assert (code, err) == (0, "")
    assert "--process_id=" in out
    assert out.splitlines()[-3:] == [
        "--coordinator=node7:21234",
        "--num_processes=2",
        "--config=c",
    ]


@pytest.mark.parametrize(
    "name", ["again.sh", "gpu_host.sh", "tpu_pod.sh", "slurm.sbatch"]
)
def test_without_flags_the_usage_is_said(script, name):
    code, out, err = script(name, TPU="pod", ZONE="z", GCLOUD="false")
    assert (code, out) == (2, "")
    assert err.startswith("usage: ")


def test_tpu_pod_wants_a_name(script):
    code, _, err = script("tpu_pod.sh", "--config=c", TPU="", ZONE="z")
    assert code != 0
    assert "usage: TPU=NAME" in err
