"""Floor 5: the command line: flags in, a run, an exit code out.

Exit codes: 0 done; 2 a mistake in what the user gave, in one line on stderr; 3 a loss
became NaN or infinite; 4 the disk is full or not writable; 5 another process of the run
did not come or is lost; 129 interrupted by SIGHUP, 130 by SIGINT and 143 by SIGTERM.
Anything else is a bug and shows its traceback.
"""

import contextlib
import dataclasses
import io
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from absl import flags
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict, config_flags

from skillearn_jax.commands import complain, drop_output
from skillearn_jax.errors import GOES_ON, InputError, Interrupted, UserError
from skillearn_jax.parallel import Processes, end_all, lost
from skillearn_jax.paths import user_path
from skillearn_jax.train import run, run_comparison
from skillearn_jax.train.fields import no_key

USAGE = """\
Searches a cell with a learning skill, trains the derived network, writes a report.

  python launch/run.py --config=configs/lpt_digits.py --workdir=runs/lpt_digits
  python launch/run.py --config=configs/lpt_digits.py:smoke --workdir=/tmp/smoke
  python launch/run.py --config=configs/compare_hypergradients.py --workdir=runs/compare
  python launch/run.py --config=FILE[:VARIANT] --workdir=DIR --config.search.epochs=5

Any key of the config is a flag: --config.GROUP.KEY=VALUE, several values in brackets, as
in --config.data.per_class='(500,250)'. A workdir that holds an unfinished run of the same
config is continued. Compiled programs are cached in
~/.cache/skillearn_jax, or where JAX_COMPILATION_CACHE_DIR says.

On several machines, the same command on each, with a workdir that all see, and

  --coordinator=HOST:PORT --num_processes=N --process_id=I

or, on Slurm and TPU pods, --distributed, which is not needed under srun and on GKE
(--nodistributed: each process is a run of its own). On one machine: launch/local.sh N,
with the flags of the command. See docs/scaling.md. Processes wait --start_timeout
seconds (300) for each other, and --heartbeat_timeout (60) for one that is silent.

All keys, with meaning and default: skillearn_jax/train/config/*.py. Exit codes: 0 done;
2 a mistake in what was given; 3 a loss is not finite; 4 the disk is full or not writable;
5 a process did not come or is lost; 129, 130 and 143 ended by a closed terminal, Ctrl-C
or SIGTERM, saved.
"""

_OVERRIDE = re.compile(r"--?(no)?config\.(?P<path>[\w.]+)")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code.

    Args:
        argv: the program's name and its flags; by default the process's.
    """
    argv = list(sys.argv if argv is None else argv)
    if {"--help", "-h", "--helpfull"} & set(argv[1:]):
        try:
            print(USAGE, flush=True)
        except BrokenPipeError:
            drop_output(sys.stdout)
        return 0
    going_on = GOES_ON
    try:
        command = parse_command(argv)
        _cache_compilations()
        _quiet_libraries()
        command.processes.start()
        _check_devices()
        if "problem" in command.config:
            going_on = "starts again, but for the searches in it"
            run_comparison(command.config, command.workdir)
        else:
            run(command.config, command.workdir)
    except (UserError, Interrupted) as error:
        # What its searches say of themselves does not hold for a comparison.
        return _fail(str(error).replace(GOES_ON, going_on), error.exit_code)
    except KeyboardInterrupt:
        return _fail(f"interrupted; the same command {going_on}", 130)
    except Exception as error:
        known = lost(error) or _without_devices(error)
        if known is not None:
            return _fail(known, known.exit_code)
        if jax.distributed.is_initialized():
            traceback.print_exc()
            end_all(1, f"{type(error).__name__}, see its traceback")
        raise
    return 0


class Command(NamedTuple):
    """What a command line says.

    Attributes:
        config: with its overrides.
        workdir: of the run.
        processes: how this process finds those that it runs with.
    """

    config: ConfigDict
    workdir: str
    processes: Processes


def parse_command(argv: Sequence[str]) -> Command:
    """Returns what a command line says.

    Args:
        argv: the program's name and its flags.

    Raises:
        InputError: for whatever is wrong with the flags or the config file.
    """
    argv = _last_of_each([_at_home(arg) for arg in argv])
    overrides = [arg for arg in argv if _OVERRIDE.match(arg)]
    plain = [arg for arg in argv if arg not in overrides]
    # Once without overrides: their keys are checked against the file's own.
    config = _parse(plain).config
    for override in overrides:
        _check_key(config, override)
    command = _parse(argv)
    if not command.workdir:
        raise InputError("--workdir is missing; see --help")
    return command


def _last_of_each(argv: Sequence[str]) -> list[str]:
    """Returns the arguments without those of keys that are given again further on.

    Of several values, absl would append the later ones to the earlier.
    """
    last: dict[str | int, int] = {}
    for position, arg in enumerate(argv):
        match = _OVERRIDE.match(arg)
        last[match["path"] if match else position] = position
    return [argv[position] for position in sorted(last.values())]


def _at_home(arg: str) -> str:
    """Returns an argument in which a `~` that begins the config's path is a folder."""
    flag, equals, path = arg.partition("=")
    is_config = flag.lstrip("-") == "config" and path.startswith("~")
    return f"{flag}{equals}{user_path(path)}" if is_config else arg


def _parse(argv: Sequence[str]) -> Command:
    values = flags.FlagValues()
    config = config_flags.DEFINE_config_file(
        "config", flag_values=values, sys_argv=list(argv)
    )
    workdir = flags.DEFINE_string("workdir", "", "", flag_values=values)
    processes = _define_processes(values)
    try:
        # ml_collections prints hints of its own, which the one line replaces.
        with contextlib.redirect_stderr(io.StringIO()):
            rest = values(list(argv))
            if config.value is not None:
                config.value.to_dict()  # a file that failed to load says so only now
    except flags.Error as error:
        # Errors inside a config file arrive with their traceback: the last line says it.
        last = str(error).strip().splitlines()[-1].strip()
        raise InputError(re.sub(r"^ValueError: ", "--config: ", last)) from error
    except Exception as error:  # whatever a config file, which is code, may raise
        raise _of_config_file(error) from error
    if config.value is None:
        raise InputError("--config is missing; see --help")
    if rest[1:]:
        raise InputError(f"unexpected argument {rest[1]!r}; flags are --name=value")
    found = {name: holder.value for name, holder in processes.items()}
    return Command(config.value, workdir.value, Processes(**found))


def _of_config_file(error: Exception) -> InputError:
    """Returns what is said of an error inside a config file, or of one that is none."""
    if isinstance(error, AttributeError) and error.name == "get_config":
        # Of the module, which is not loaded under the name of its file.
        file = getattr(error.obj, "__file__", "the file")
        return InputError(
            f"--config: {file} has no get_config(), which a config file must define: "
            "name another file"
        )
    # A `ValueError` is what a config file says itself, of its variant above all.
    kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
    lines = str(error).strip().splitlines()
    return InputError(f"--config: {kind}{lines[-1] if lines else ''}")


def _define_processes(values: flags.FlagValues) -> dict[str, flags.FlagHolder[Any]]:
    """Defines the flags that become `Processes`, by its fields."""
    defines: dict[type, Any] = {str: flags.DEFINE_string, int: flags.DEFINE_integer}
    return {
        # The one without a default of its kind is a switch that nobody has set.
        name: defines.get(type(default), flags.DEFINE_boolean)(
            name.removesuffix("_s"), default, "", flag_values=values
        )
        for name, default in dataclasses.asdict(Processes()).items()
    }


def _check_key(config: ConfigDict, override: str) -> None:
    """Raises `InputError` unless an override names a key of the config."""
    match = _OVERRIDE.match(override)
    assert match is not None
    group, path = config, "config"
    for name in match["path"].split("."):
        if not isinstance(group, ConfigDict):
            raise InputError(f"{path} is a value and has no keys: {override}")
        if name not in group:
            paths = [p for p in flatten_dict(config.to_dict()) if p[-1] == name]
            elsewhere = [".".join(("config", *p)) for p in paths]
            raise no_key(path, name, group, elsewhere)
        group, path = group[name], f"{path}.{name}"


def _check_devices() -> None:
    """Raises `InputError` where JAX goes on upon the CPU, though told to take others.

    A `cuda` that it is told to take it leaves out, without a word, where it sees no GPU.
    """
    platforms = os.environ.get("JAX_PLATFORMS", "")
    wanted = platforms.split(",")[0]
    if wanted in ("", "cpu"):
        return
    try:
        found = jax.default_backend()
    except AssertionError:  # JAX's own: it has left out all that it was told to take
        found = "cpu"
    if found == "cpu":
        raise InputError(
            f"JAX_PLATFORMS is {platforms!r}, but JAX finds no {wanted} device here: mend "
            "its driver, or set JAX_PLATFORMS=cpu"
        )


def _without_devices(error: Exception) -> InputError | None:
    """Returns what to say of an error that a device's start was, if it was one."""
    # Behind the reason comes JAX's own advice, for other programs than this.
    reason = re.split(r"\n| \((?:set|you may) ", str(error))[0]
    if not reason.startswith("Unable to initialize backend"):
        return None
    return InputError(
        f"JAX finds no devices ({reason}): mend their driver, or set JAX_PLATFORMS=cpu"
    )


def _cache_compilations() -> None:
    """Keeps compiled programs between runs, unless the user has said where or no."""
    home = user_path("~")
    # Some accounts of containers have none.
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ and home.is_absolute():
        cache = home / ".cache" / "skillearn_jax"
        jax.config.update("jax_compilation_cache_dir", str(cache))


def _quiet_libraries() -> None:
    """Leaves errors to the one line that says them.

    Where a checkpoint is damaged or a disk full, Orbax logs through absl, and the tasks
    that it drops complain through asyncio, as warnings and, when they end after all, of
    a loop that is gone.
    """
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    warnings.formatwarning = _without_code
    if not isinstance(sys.unraisablehook, _ButClosedLoops):
        sys.unraisablehook = _ButClosedLoops(sys.unraisablehook)


_with_code = warnings.formatwarning


def _without_code(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    """Returns a warning as one line, if it is this package's: it is about what was given."""
    if Path(__file__).parent in Path(filename).parents:
        return f"skillearn_jax: {' '.join(str(message).split())}\n"
    return _with_code(message, category, filename, lineno, line)


@dataclasses.dataclass(frozen=True)
class _ButClosedLoops:
    """A hook for exceptions that nobody can catch.

    Without those of closed loops, and of signals: these are answered at the next step.
    """

    hook: Callable[..., None]

    def __call__(self, unraisable: Any) -> None:
        error = unraisable.exc_value
        if str(error) != "Event loop is closed" and not isinstance(error, Interrupted):
            self.hook(unraisable)


def _fail(error: BaseException | str, code: int) -> int:
    """Says why a run ends; with other processes it ends here, and so do they."""
    complain("skillearn_jax", str(error))
    end_all(code, str(error))
    return code
