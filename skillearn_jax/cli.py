"""Floor 5: the command line: flags in, a run, an exit code out.

Exit codes: 0 done; 2 a mistake in what the user gave, in one line on stderr; 3 a loss
became NaN or infinite; 130 interrupted. Anything else is a bug and shows its traceback.
"""

import contextlib
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
from absl import flags
from ml_collections import config_flags

from skillearn_jax.errors import InputError, NonFiniteError
from skillearn_jax.train import run

USAGE = """\
Searches a cell with a learning skill, trains the derived network, writes a report.

  python launch/run.py --config=configs/lpt_digits.py --workdir=runs/lpt_digits
  python launch/run.py --config=configs/lpt_digits.py:smoke --workdir=/tmp/smoke
  python launch/run.py --config=FILE[:VARIANT] --workdir=DIR --config.search.epochs=5

Any key of the config is a flag: --config.GROUP.KEY=VALUE. A workdir that holds an
unfinished run of the same config is continued. Compiled programs are cached in
~/.cache/skillearn_jax, or where JAX_COMPILATION_CACHE_DIR says.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code.

    Args:
        argv: the program's name and its flags; by default the process's.
    """
    argv = list(sys.argv if argv is None else argv)
    if {"--help", "-h", "--helpfull"} & set(argv[1:]):
        print(USAGE)
        return 0
    values = flags.FlagValues()
    config_flag = config_flags.DEFINE_config_file(
        "config", None, "FILE[:VARIANT] with get_config()", flag_values=values
    )
    workdir_flag = flags.DEFINE_string(
        "workdir", None, "folder for all that the run writes", flag_values=values
    )
    try:
        _parse(values, argv)
        config, workdir = config_flag.value, workdir_flag.value
        if config is None or workdir is None:
            missing = "config" if config is None else "workdir"
            raise InputError(f"--{missing} is missing; see --help")
        _cache_compilations()
        run(config, workdir)
    except InputError as error:
        return _fail(error, 2)
    except NonFiniteError as error:
        return _fail(error, 3)
    except KeyboardInterrupt:
        return _fail("interrupted; the same command goes on from the last epoch", 130)
    return 0


def _parse(values: flags.FlagValues, argv: Sequence[str]) -> None:
    """Parses the flags; every mistake in them becomes one line."""
    try:
        # ml_collections prints hints of its own, which the one line replaces.
        with contextlib.redirect_stderr(io.StringIO()):
            rest = values(argv)
    except flags.Error as error:
        raise InputError(str(error)) from error
    except FileNotFoundError as error:
        raise InputError(f"--config: there is no file {error.filename}") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"--config: {error}") from error
    if rest[1:]:
        raise InputError(f"unexpected argument {rest[1]!r}; flags begin with --")


def _cache_compilations() -> None:
    """Keeps compiled programs between runs, unless the user has said where or no."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = Path.home() / ".cache" / "skillearn_jax"
        jax.config.update("jax_compilation_cache_dir", str(cache))


def _fail(error: Exception | str, code: int) -> int:
    text = " ".join(str(error).split())
    print(f"skillearn_jax: {text}", file=sys.stderr)
    return code
