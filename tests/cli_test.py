"""The command line: each mistake is one line on stderr and an exit code."""

import os
import pwd
import re
import shutil
import subprocess
import sys
import types
import warnings

import jax
import numpy as np
import pytest

from skillearn_jax import cli
from skillearn_jax.cli import main, parse_command
from skillearn_jax.data import folder
from skillearn_jax.errors import InputError, Interrupted, StorageError

# Of ml_collections, where it loads a config file.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

TINY = (
    "--config.skill=baseline",
    "--config.hypergrad.adjoint=first_order",
    "--config.data.batch_size=256",
    "--config.space.ops=('none','max_pool_3x3','skip_connect','dil_conv_3x3')",
    "--config.space.num_nodes=1",
    "--config.search.cells=1",
    "--config.search.channels=2",
    "--config.search.epochs=3",
    "--config.search.warmup_epochs=1",
    "--config.evaluation.epochs=0",
    "--config.parallel.devices=1",
)


@pytest.fixture(autouse=True)
def caches(repo_root, monkeypatch):
    """Compiled programs go where the rest of the suite has them."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(repo_root / ".jax_cache"))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
    # Each config file is loaded under this one name, into what is there already.
    monkeypatch.delitem(sys.modules, "config_config", raising=False)


@pytest.fixture
def digits(repo_root):
    return f"--config={repo_root}/configs/lpt_digits.py"


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def call(capfd, *args):
    """Returns the exit code and the one line on stderr, without its prefix."""
    capfd.readouterr()
    code = main(["launch/run.py", *map(str, args)])
    return code, one_line(*capfd.readouterr())


def one_line(out, err):
    assert "Traceback" not in out
    assert err.count("\n") == 1, err
    assert err.startswith("skillearn_jax: ")
    return err.removeprefix("skillearn_jax: ").strip()


def launch(repo_root, *args):
    """Runs the launcher as a user would; returns the exit code, stdout and stderr."""
    done = subprocess.run(
        [sys.executable, str(repo_root / "launch" / "run.py"), *map(str, args)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "XLA_FLAGS": ""},
    )
    return done.returncode, done.stdout, done.stderr


# Mistakes in flags.


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        (
            "--config.serch.epochs=3",
            "config has no key 'serch': did you mean 'search'?",
        ),
        (
            "--config.search.epoch=3",
            "config.search has no key 'epoch': did you mean 'epochs'?",
        ),
        ("--config.search.zzz=3", "config.search has no key 'zzz': known are alphas,"),
        (
            "--config.epochs=3",
            "config has no key 'epochs': did you mean config.evaluation.epochs or "
            "config.search.epochs? known are benchmark,",
        ),
        (
            "--config.search.num_nodes=2",
            "config.search has no key 'num_nodes': did you mean config.space.num_nodes?",
        ),
        ("--config.seed.x=3", "config.seed is a value and has no keys"),
        ("--config.search.epochs=many", "config.search.epochs"),
        ("--config.search.epochs=1.5", "config.search.epochs"),
        ("--config.data.flip=perhaps", "config.data.flip"),
        ("--config.search=3", "config.search"),
        ("--config.seed", "config.seed"),
        ("--config.space.ops=('none',3)", "config.space.ops is ('none', 3)"),
        ("--config.space.ops=('conv',)", "config.space.ops is ('conv',)"),
        ("--config.skill=lpd", "config.skill is 'lpd'; it must be among baseline, lpt"),
        (
            "--config.search.weights.lr=-1",
            "config.search.weights.lr is -1.0; it must be",
        ),
        ("--config.search.weights.lr=nan", "config.search.weights.lr is nan"),
        ("--config.parallel.devices=99", "config.parallel.devices is 99, but this"),
        ("--config.parallel.devices=-1", "config.parallel.devices is -1; it must be"),
        ("--config.data.name=imagnet", "unknown data set 'imagnet'"),
        ("--config.data.name=npz", "needs a file: set --config.data.dir"),
        (
            "--config.search.warmup_epochs=20",
            "config.search.warmup_epochs is 20; it must be below",
        ),
        ("digits", "unexpected argument 'digits'"),
        ("--wrkdir=x", "Unknown command line flag 'wrkdir'"),
    ],
)
def test_a_mistake_in_a_flag_is_one_line(tmp_path, digits, capfd, flag, message):
    code, line = call(capfd, digits, f"--workdir={tmp_path}/run", flag)
    assert code == 2
    assert message in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.data.batch_size=9999", "batch_size is 9999; it must be at most"),
        ("--config.data.train_fraction=0.0001", "--config.data.train_fraction"),
        ("--config.space.ops=('none',)", "ops must hold one"),
    ],
)
def test_a_mistake_that_only_the_data_show_is_one_line(
    tmp_path, digits, capfd, flag, message
):
    flags = (f"--workdir={tmp_path}/run", "--config.parallel.devices=1", flag)
    code, line = call(capfd, digits, *flags)
    assert code == 2
    assert message in line
    assert not (tmp_path / "run").exists() or contents(tmp_path / "run") == {}


def test_what_is_missing_is_named(tmp_path, digits, capfd):
    assert call(capfd) == (2, "--config is missing; see --help")
    assert call(capfd, f"--workdir={tmp_path}/x")[1].startswith("--config is missing")
    assert call(capfd, digits) == (2, "--workdir is missing; see --help")
    assert call(capfd, digits, "--workdir=") == (2, "--workdir is missing; see --help")
    for flag in ("--config", "--workdir"):
        code, line = call(capfd, flag)
        assert code == 2
        assert flag in line
    assert list(tmp_path.iterdir()) == []


# Mistakes in a config file.


@pytest.mark.parametrize(
    ("source", "message"),
    [
        pytest.param(
            "def get_config(:\n",
            "invalid syntax",
        ),
        pytest.param(
            "def get_config():\n    return undefined\n",
            "undefined",
        ),
        pytest.param(
            "import no_such_module\n",
            "no_such_module",
        ),
        pytest.param(
            "def get_config():\n    return {}['lost']\n",
            "lost",
        ),
        (
            "def get_config():\n    raise ValueError('no such thing')\n",
            "--config: no such thing",
        ),
        ("def get_config():\n    return 3\n", "--config"),
        ("x = 1\n", "function_config.py has no get_config(), which a config file must"),
        ("def get_config():\n    return max.x\n", "has no attribute 'x'"),
        (
            "from ml_collections import ConfigDict\n"
            "def get_config():\n    return ConfigDict({'skil': 'lpt'})\n",
            "config has no key 'skil'",
        ),
    ],
    ids=[
        "syntax",
        "name",
        "import",
        "key",
        "value",
        "type",
        "function",
        "attribute",
        "content",
    ],
)
def test_a_mistake_in_a_config_file_is_one_line(
    tmp_path, capfd, request, source, message
):
    file = tmp_path / f"{request.node.callspec.id}_config.py"
    file.write_text(source)
    code, line = call(capfd, f"--config={file}", f"--workdir={tmp_path}/run")
    assert code == 2
    assert message in line
    assert not (tmp_path / "run").exists()


def test_a_missing_config_file_is_named(tmp_path, capfd):
    code, line = call(
        capfd, f"--config={tmp_path}/none.py", f"--workdir={tmp_path}/run"
    )
    assert code == 2
    assert "none.py" in line


def test_an_unknown_variant_is_named_with_the_known(tmp_path, digits, capfd):
    code, line = call(capfd, f"{digits}:fast", f"--workdir={tmp_path}/run")
    assert code == 2
    assert "unknown variant 'fast'" in line
    assert "'smoke'" in line


# Mistakes in data.


def arrays(**changes):
    images = np.random.default_rng(0).integers(0, 256, (8, 4, 4, 1), dtype=np.uint8)
    good = {"train_images": images, "test_images": images}
    good |= {"train_labels": np.arange(8) % 2, "test_labels": np.arange(8) % 2}
    return {name: a for name, a in {**good, **changes}.items() if a is not None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_labels": None}, "lacks test_labels"),
        ({"train_images": np.zeros((8, 4), np.uint8)}, "train images must be [N, H, W"),
        ({"train_images": np.zeros((8, 4, 4, 1))}, "float64"),
        ({"train_labels": np.arange(7)}, "train labels must be [8] integers"),
        ({"test_labels": np.full(8, 5)}, "heldout label 5 is out of range"),
        ({"test_labels": np.array([None] * 8)}, "damaged, or holds Python objects"),
    ],
)
def test_wrong_arrays_are_one_line(tmp_path, digits, capfd, changes, message):
    file = tmp_path / "mine.npz"
    np.savez(file, **arrays(**changes))
    flags = ("--config.data.name=npz", f"--config.data.dir={file}")
    code, line = call(capfd, digits, f"--workdir={tmp_path}/run", *flags)
    assert code == 2
    assert message in line
    assert "mine.npz" in line
    assert not (tmp_path / "run").exists()


# Mistakes in the workdir.


def test_a_path_below_a_file_is_no_workdir(tmp_path, digits, capfd):
    code, line = call(capfd, digits, "--workdir=/dev/null/x")
    assert code == 2
    assert "cannot write the workdir /dev/null/x" in line


def test_a_foreign_folder_is_left_alone(tmp_path, digits, capfd):
    (tmp_path / "thesis.tex").write_text("years of work")
    (tmp_path / ".lock").touch()  # of a run that was refused here once
    code, line = call(capfd, digits, f"--workdir={tmp_path}")
    assert code == 2
    assert "is not empty and holds no run (thesis.tex, ...)" in line
    assert contents(tmp_path) == {"thesis.tex": b"years of work", ".lock": b""}


@pytest.fixture(scope="module")
def done(tmp_path_factory, repo_root, quick_flags):
    """A finished run, made by the launcher itself."""
    workdir = tmp_path_factory.mktemp("cli") / "run"
    config = f"--config={repo_root}/configs/lpt_digits.py:smoke"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(repo_root / ".jax_cache"))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
        patch.setenv("XLA_FLAGS", f"{os.environ['XLA_FLAGS']} {quick_flags}")
        outcome = launch(repo_root, config, f"--workdir={workdir}", *TINY)
    return workdir, outcome


@pytest.fixture
def copy(done, tmp_path):
    """A copy of the finished run, to damage."""
    return shutil.copytree(done[0], tmp_path / "run")


def test_the_launcher_runs_to_the_end(done):
    workdir, (code, out, err) = done
    assert (code, err) == (0, "")
    assert "baseline on digits" in out
    assert "search  6/6 100 %" in out
    assert f"report: {workdir}/report/index.html" in out.replace("\n", "")
    assert (workdir / "report" / "index.html").exists()


def test_another_config_in_the_same_workdir_is_refused(copy, digits, capfd):
    before = contents(copy)
    args = (f"{digits}:smoke", f"--workdir={copy}", *TINY)
    code, line = call(capfd, *args, "--config.seed=7")
    assert code == 2
    assert "holds a run with config.seed = 2, not 7" in line
    assert contents(copy) == before


def test_a_finished_run_again_says_the_same(copy, digits, capfd):
    before = (copy / "metrics.jsonl").read_bytes()
    assert main(["x", f"{digits}:smoke", f"--workdir={copy}", *TINY]) == 0
    assert capfd.readouterr().err == ""
    assert (copy / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff\xfe", b"[]"])
def test_a_damaged_config_json_is_one_line(copy, digits, capfd, damage):
    (copy / "config.json").write_bytes(damage)
    before = contents(copy)
    code, line = call(capfd, f"{digits}:smoke", f"--workdir={copy}", *TINY)
    assert code == 2
    assert str(copy) in line
    assert contents(copy) == before


@pytest.mark.parametrize(
    "pattern",
    [
        "_METADATA",
        "manifest.ocdbt",
        "*",
    ],
)
def test_a_damaged_checkpoint_is_one_line_and_nothing_is_lost(
    copy, digits, repo_root, pattern
):
    files = [f for f in (copy / "checkpoints").rglob(pattern) if f.is_file()]
    assert files
    (copy / "summary.json").unlink(missing_ok=True)  # of a run that has ended
    for file in files:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    before = contents(copy)
    flags = (f"{digits}:smoke", f"--workdir={copy}", *TINY)
    code, out, err = launch(repo_root, *flags)
    assert code == 2, err
    line = one_line(out, err)
    assert f"the checkpoint {copy}/checkpoints/" in line
    assert "cannot be read" in line
    # Who tried is noted in the lock.
    assert contents(copy) | {".lock": before[".lock"]} == before


# As a process of its own.


def test_a_mistake_in_a_process_of_its_own(tmp_path, digits, repo_root):
    code, out, err = launch(
        repo_root, digits, f"--workdir={tmp_path}/run", "--config.serch.epochs=3"
    )
    assert code == 2
    assert out == ""
    assert one_line(out, err).startswith("config has no key 'serch': did you mean")
    assert list(tmp_path.iterdir()) == []


def test_help_in_a_process_of_its_own(repo_root):
    code, out, err = launch(repo_root, "--help")
    assert (code, err) == (0, "")
    assert out == cli.USAGE + "\n"


# Other exits.


def test_help_that_nobody_reads(repo_root):
    command = f"{sys.executable} launch/run.py --help | head -c 0"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=repo_root,
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("flag", ["--help", "-h", "--helpfull"])
def test_help(capfd, flag):
    assert main(["launch/run.py", flag]) == 0
    assert "python launch/run.py --config=" in capfd.readouterr().out


def test_the_commands_in_the_help_parse(repo_root, monkeypatch):
    monkeypatch.chdir(repo_root)
    commands = re.findall(r"^  python (launch/run\.py --.+)$", cli.USAGE, re.MULTILINE)
    assert len(commands) == 4
    for command in commands:
        command = command.replace("FILE[:VARIANT]", "configs/lpt_digits.py")
        config, workdir, _ = parse_command(command.split())
        assert workdir
    assert config.search.epochs == 5


def test_overrides_reach_the_config(digits):
    config, workdir, _ = parse_command(
        [
            "run.py",
            f"{digits}:full",
            "--workdir=w",
            "--config.search.weights.lr=1",
            "--config.space.ops=('none', 'skip_connect')",
            "--config.data.flip",
            "--noconfig.data.stratified",
        ]
    )
    assert workdir == "w"
    assert config.evaluation.num_seeds == 3
    assert config.search.weights.lr == 1.0
    assert config.space.ops == ("none", "skip_connect")
    assert config.data.flip is True
    assert config.data.stratified is False


def test_a_file_may_stand_apart_from_its_flag_and_a_value_may_not(digits):
    argv = ["run.py", "--config", digits.removeprefix("--config="), "--workdir", "w"]
    assert parse_command(argv)[1] == "w"
    with pytest.raises(InputError, match="unexpected argument '5'"):
        parse_command([*argv, "--config.seed", "5"])


def test_parsing_leaves_no_flags_behind(digits):
    for seed in (3, 4):
        config, *_ = parse_command(
            ["x", digits, "--workdir=w", f"--config.seed={seed}"]
        )
        assert config.seed == seed
    assert parse_command(["x", digits, "--workdir=w"])[0].seed == 2


def test_of_a_key_that_is_given_again_the_last_value_holds(digits):
    """Of several values too, which absl would join."""
    flags = (
        "--config.space.ops=('none','skip_connect')",
        "--config.search.epochs=3",
        "--config.data.flip",
        "--config.space.ops=('max_pool_3x3','sep_conv_3x3')",
        "--noconfig.data.flip",
        "--config.search.epochs=4",
        "--config.data.per_class=(5,5)",
        "--config.data.per_class=(5,5)",
    )
    config = parse_command(["launch/run.py", digits, "--workdir=x", *flags]).config
    assert config.space.ops == ("max_pool_3x3", "sep_conv_3x3")
    assert (config.search.epochs, config.data.flip) == (4, False)
    assert config.data.per_class == (5, 5)


def test_a_loss_that_explodes_exits_with_3(tmp_path, digits, capfd):
    flags = ("--config.search.weights.lr=1e30", "--config.search.weights.clip=0")
    code, line = call(
        capfd, f"{digits}:smoke", f"--workdir={tmp_path}/run", *TINY, *flags
    )
    assert code == 3
    assert re.match(r"learner/\w+ became (nan|inf) at step 2: lower the", line)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (StorageError("cannot write x (No space left on device)"), 4),
        (Interrupted("interrupted by SIGTERM, saved at step 3", 15), 143),
        (Interrupted("interrupted by SIGINT, saved at step 3", 2), 130),
    ],
)
def test_ends_that_the_next_run_goes_on_from(
    tmp_path, digits, capfd, monkeypatch, error, code
):
    def ends(config, workdir):
        raise error

    monkeypatch.setattr(cli, "run", ends)
    outcome = call(capfd, digits, f"--workdir={tmp_path}/run")
    assert outcome == (code, str(error))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (StorageError("cannot write x; the same command {}"), 4),
        (Interrupted("ended by SIGTERM, saved; the same command {}", 15), 143),
    ],
)
def test_a_comparison_is_not_said_to_go_on_in_the_middle(
    tmp_path, repo_root, capfd, monkeypatch, error, code
):
    """As what ends one of its searches says."""
    error.args = (str(error).format("goes on from the last checkpoint"),)

    def ends(config, workdir):
        raise error

    monkeypatch.setattr(cli, "run_comparison", ends)
    config = f"--config={repo_root}/configs/compare_hypergradients.py:smoke"
    said = str(error).replace(
        "goes on from the last checkpoint", "starts again, but for the searches in it"
    )
    assert call(capfd, config, f"--workdir={tmp_path}/run") == (code, said)


def test_an_interruption_exits_with_130(tmp_path, digits, capfd, monkeypatch):
    def interrupted(config, workdir):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run", interrupted)
    code, line = call(capfd, digits, f"--workdir={tmp_path}/run")
    assert code == 130
    assert "the same command goes on" in line


@pytest.mark.parametrize(("platforms", "name"), [("cuda,cpu", "cuda"), ("tpu", "tpu")])
def test_told_to_take_a_gpu_it_does_not_go_on_without(
    tmp_path, digits, capfd, monkeypatch, platforms, name
):
    """JAX itself leaves out a platform that it sees no device of, and says nothing."""
    monkeypatch.setattr(cli, "run", lambda config, workdir: None)
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    code, line = call(capfd, digits, f"--workdir={tmp_path}/run")
    assert code == 2
    assert f"JAX_PLATFORMS is '{platforms}', but JAX finds no {name} device" in line


@pytest.mark.parametrize("more", ["\nof libtpu", " (set JAX_PLATFORMS='' to choose)"])
def test_a_device_that_does_not_start_is_one_line(
    tmp_path, digits, capfd, monkeypatch, more
):
    def broken(config, workdir):
        raise RuntimeError(f"Unable to initialize backend 'tpu': no lock (13){more}")

    monkeypatch.setattr(cli, "run", broken)
    code, line = call(capfd, digits, f"--workdir={tmp_path}/run")
    assert code == 2
    assert "(Unable to initialize backend 'tpu': no lock (13)): mend" in line


def test_a_bug_shows_its_traceback(tmp_path, digits, monkeypatch):
    def broken(config, workdir):
        raise RuntimeError("a bug")

    monkeypatch.setattr(cli, "run", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["launch/run.py", digits, f"--workdir={tmp_path}/run"])


def test_without_a_home_they_are_not_kept(tmp_path, digits, monkeypatch):
    monkeypatch.setattr(cli, "run", lambda config, workdir: None)
    for name in ("HOME", "JAX_COMPILATION_CACHE_DIR"):
        monkeypatch.delenv(name)
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)  # KeyError, as of no account
    before = jax.config.jax_compilation_cache_dir
    assert main(["launch/run.py", digits, f"--workdir={tmp_path}/run"]) == 0
    assert jax.config.jax_compilation_cache_dir == before


def test_a_config_may_lie_at_home(tmp_path, repo_root, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copy(repo_root / "configs" / "lpt_digits.py", tmp_path / "mine.py")
    command = parse_command(["run.py", "--config=~/mine.py:smoke", "--workdir=~/run"])
    assert command.config.data.name == "digits"


def test_compiled_programs_are_kept_unless_the_user_says_where(
    tmp_path, digits, monkeypatch
):
    monkeypatch.setattr(cli, "run", lambda config, workdir: None)
    before = jax.config.jax_compilation_cache_dir
    args = ["launch/run.py", digits, f"--workdir={tmp_path}/run"]
    assert main(args) == 0
    assert jax.config.jax_compilation_cache_dir == before
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    try:
        assert main(args) == 0
        kept = jax.config.jax_compilation_cache_dir
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    assert kept == str(tmp_path / ".cache" / "skillearn_jax")


def test_a_config_error_is_an_input_error(digits):
    with pytest.raises(InputError):
        parse_command(["run.py", digits])


def test_of_dropped_saves_nothing_is_heard_and_of_other_threads_all(
    tmp_path, digits, monkeypatch
):
    """On a full disk each of Orbax's tasks ends in a loop that is gone: by the dozen."""
    heard = []
    monkeypatch.setattr(sys, "unraisablehook", lambda u: heard.append(u.exc_value))
    monkeypatch.setattr(cli, "run", lambda config, workdir: None)
    for _ in range(2):
        assert main(["launch/run.py", digits, f"--workdir={tmp_path}/run"]) == 0
    bug = RuntimeError("a bug")
    asked = Interrupted("interrupted by SIGTERM", 15)  # is answered at the next step
    for error in (RuntimeError("Event loop is closed"), asked, bug):
        sys.unraisablehook(types.SimpleNamespace(exc_value=error))
    assert heard == [bug]


def test_a_warning_about_what_was_given_shows_no_code(tmp_path, digits, monkeypatch):
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    monkeypatch.setattr(cli, "run", lambda config, workdir: None)
    assert main(["launch/run.py", digits, f"--workdir={tmp_path}/run"]) == 0
    warning = UserWarning("2 files\nare left out")
    given = (warning, UserWarning, folder.__file__, 60)
    assert warnings.formatwarning(*given) == "skillearn_jax: 2 files are left out\n"
    foreign = (warning, UserWarning, warnings.__file__, 7)
    assert f"{warnings.__file__}:7: UserWarning" in warnings.formatwarning(*foreign)
