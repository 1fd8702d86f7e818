"""Floor 4: with which other configs a run may go on."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from flax.traverse_util import flatten_dict

from skillearn_jax.train.fields import as_flag

_HARMLESS = (
    "log_every",
    "profile",
    "checkpoint",
    "logging",
    "parallel.devices",
    "parallel.backend",
    "parallel.tester_optimizer",
    "data.stream.max_damaged",
)
"""Groups and keys that change what is written, where it runs or what ends it, but not what
is computed."""

_PLACES = ("data.dir", "data.dirs", "lpt.bank_dir", "benchmark.table")
"""Keys that say where the data lie, not what they are; no table is another run."""


class Difference(NamedTuple):
    """A key with another value than the run began with.

    Attributes:
        path: as in `config.search.epochs`.
        old: value in the workdir.
        new: value given.
        more: whether there is more to compute for it.
        known: whether this version has such a key.
    """

    path: str
    old: Any
    new: Any
    more: bool = False
    known: bool = True

    def __str__(self) -> str:
        if not self.known:
            return f"{self.path} = {self.old!r}, a key that this version does not know"
        return f"{self.path} = {self.old!r}, not {self.new!r}"


def told(refused: Sequence[Difference]) -> str:
    """Returns what differs, and what to do where a workdir does not go on with it."""
    way_back = "use the version that wrote it"
    if all(other.known for other in refused):
        way_back = " ".join(as_flag(other.path, other.old) for other in refused)
    return (
        f"{'; '.join(map(str, refused))}: set --workdir to a new folder, or {way_back}"
    )


def differences(
    old: dict[str, Any],
    new: dict[str, Any],
    defaults: dict[str, Any],
    evaluated: bool,
    data_compared: bool,
) -> tuple[list[Difference], list[Difference]]:
    """Returns the differences that a run may go on with, and the others.

    Harmless is what changes no number: logging, checkpoints, and the devices (up to
    rounding). What has not begun may change: more epochs of the search, while nothing is
    evaluated, or more cells of a random one; any key of the evaluation, before it begins;
    more seeds and random cells, afterwards. With more epochs, the learning rate's schedule
    is the longer one from where the run goes on.

    Args:
        old: config of the run in the workdir, as JSON has it.
        new: config given, likewise.
        defaults: of keys that the old one, written by an earlier version, lacks.
        evaluated: whether the evaluation of that run has begun.
        data_compared: whether the data themselves, which may lie elsewhere, are compared
            with those of that run; if not, that is still to do.
    """
    accepted, refused = [], []
    old = flatten_dict(defaults, sep=".") | flatten_dict(old, sep=".")
    new = flatten_dict(new, sep=".")
    table = old["benchmark.table"] or new["benchmark.table"]
    for key in dict.fromkeys((*new, *old)):
        before, after = old.get(key), new.get(key)
        if before == after:
            continue
        if key == "benchmark.dataset" and not table:
            continue  # nothing is looked up
        found = Difference(f"config.{key}", before, after, known=key in new)
        if any(f"{key}.".startswith(f"{name}.") for name in _HARMLESS):
            accepted.append(found)
        elif key in _PLACES and (key != "benchmark.table" or (before and after)):
            accepted.append(found._replace(more=not data_compared))
        elif _is_more(key, before, after, old, evaluated):
            accepted.append(found._replace(more=True))
        else:
            refused.append(found)
    return accepted, refused


def _is_more(
    key: str, before: Any, after: Any, old: Mapping[str, Any], evaluated: bool
) -> bool:
    if key.startswith("evaluation.") and not evaluated:
        return True
    if key in ("evaluation.num_seeds", "evaluation.num_random"):
        return _grew(before, after)
    random = old["skill"] == "random"
    if key == "search.num_random":
        return random and _grew(before, after) and not evaluated
    if key == "search.epochs" and not random:  # its candidates are judged after as many
        # Stages are counted in epochs: those of a finished one cannot grow.
        counted = old["search.stage_cells"]
        return _grew(before, after) and not evaluated and not counted
    return False


def _grew(before: Any, after: Any) -> bool:
    return isinstance(before, int) and after > before
