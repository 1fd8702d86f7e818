"""What the small commands have in common: exit codes, and one line for each error."""

import argparse
import errno
import signal
import subprocess
import sys

import pytest

from skillearn_jax.commands import make_parser, run_command
from skillearn_jax.errors import InputError, Interrupted

# Prints far more than a pipe holds, or a little, through a command.
PRINTS = """
import sys
from skillearn_jax.commands import make_parser, run_command
text = "x" * int(sys.argv[1])
sys.exit(run_command(make_parser("a.b", "Prints."), lambda: print(text)))
"""
FULL = "b: cannot write (No space left on device): make room\n"


def code_of(command):
    return run_command(make_parser("skillearn_jax.some", "Does something."), command)


def test_the_code_is_that_of_the_command():
    assert code_of(lambda: None) == 0
    assert code_of(lambda: 7) == 7


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("no such\nfile"), 2, "some: no such file\n"),
        (KeyboardInterrupt(), 130, "some: interrupted\n"),
        (Interrupted("saved", signal.SIGTERM), 143, "some: saved\n"),
    ],
)
def test_an_error_is_one_line(capsys, error, code, line):
    def fails():
        raise error

    assert code_of(fails) == code
    assert capsys.readouterr().err == line


def test_a_script_is_named_without_its_ending(capsys):
    def fails():
        raise InputError("no such file")

    assert run_command(argparse.ArgumentParser("speed.py"), fails) == 2
    assert capsys.readouterr().err == "speed: no such file\n"


def test_a_mistaken_flag_is_one_line(capsys):
    parser = make_parser("skillearn_jax.some", "Does something.")
    parser.add_argument("--format", choices=("text", "json"))
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(["--format=xml"])
    assert caught.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith("some: argument --format: invalid choice: 'xml'")
    assert line.endswith("; see --help\n")
    assert line.count("\n") == 1


def test_a_flag_that_is_needed_may_not_be_empty(capsys):
    """`--images=$UNSET` would be the current folder."""
    parser = make_parser("skillearn_jax.some", "Does something.")
    parser.add_argument("--images", required=True)
    parser.add_argument("--output", default="")
    assert parser.parse_args(["--images=a"]).images == "a"
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(["--images="])
    assert caught.value.code == 2
    assert capsys.readouterr().err == "some: --images is empty; see --help\n"


@pytest.mark.parametrize(("code", "ended"), [(3, -6), (143, 143)])
def test_what_was_interrupted_ends_without_a_way_out(code, ended):
    """Here the way out ends in an abort, as JAX's may in a segmentation fault."""
    script = (
        "import atexit, os\nfrom skillearn_jax.commands import leave\n"
        f"atexit.register(os.abort)\nprint('said')\nleave({code})"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (ended, b"said\n")


def test_errors_of_other_files_keep_their_traceback():
    def fails():
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        code_of(fails)


@pytest.mark.parametrize(
    ("output", "count", "code", "line"),
    [
        ("> /dev/full", 1, 4, FULL),
        ("> /dev/full", 200_000, 4, FULL),
        ("| head -c 0", 200_000, 141, ""),  # fewer bytes a pipe takes without a reader
    ],
)
def test_an_output_that_takes_nothing(repo_root, output, count, code, line):
    shell = f'"$@" {output}; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(
        ["bash", "-c", shell, "bash", sys.executable, "-c", PRINTS, str(count)],
        capture_output=True,
        text=True,
        cwd=repo_root,
        check=False,
    )
    assert (done.returncode, done.stderr) == (code, line)


# Says why it ends where nobody listens any more: neither a pipe nor a stream is left.
UNHEARD = """
import sys
from skillearn_jax.commands import make_parser, run_command
from skillearn_jax.errors import InputError
if sys.argv[1] == "none":
    sys.stdout = sys.stderr = None
def fails():
    raise InputError("no such file")
sys.exit(run_command(make_parser("a.b", "Fails."), fails))
"""


@pytest.mark.parametrize("stream", ["closed", "none"])
def test_the_code_is_the_same_where_nobody_hears_why(stream):
    process = subprocess.Popen(
        [sys.executable, "-c", UNHEARD, stream],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    process.stderr.close()
    assert process.wait(60) == 2
