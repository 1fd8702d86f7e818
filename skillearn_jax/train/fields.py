"""Floor 4: fields of config dataclasses that know what they allow."""

import contextlib
import dataclasses
import difflib
import math
import operator
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, get_args, get_type_hints

from ml_collections import ConfigDict

from skillearn_jax.errors import InputError

T = TypeVar("T")

_HOLDS = {
    "above": operator.gt,
    "at least": operator.ge,
    "below": operator.lt,
    "at most": operator.le,
}
"""By the names of bounds: whether a value and a bound agree."""


def seed(default: int) -> Any:
    """Returns a dataclass field for what JAX makes a key of: it reads 32 bits."""
    return number(default, at_least=0, at_most=2**32 - 1)


def number(
    default: float | tuple[float, ...],
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
) -> Any:
    """Returns a dataclass field for a number within bounds, or a tuple of them."""
    bounds = {
        "above": above,
        "at least": at_least,
        "below": below,
        "at most": at_most,
    }
    given = {name: bound for name, bound in bounds.items() if bound is not None}
    return dataclasses.field(default=default, metadata={"bounds": given})


def choice(default: str | tuple[str, ...], options: Sequence[str]) -> Any:
    """Returns a dataclass field for one of some names, or for a tuple of them."""
    return dataclasses.field(default=default, metadata={"options": tuple(options)})


def no_key(
    path: str, name: str, known: Iterable[str], elsewhere: Sequence[str] = ()
) -> InputError:
    """Returns what to say of a key that a group does not have.

    Args:
        path: of the group.
        name: of the key.
        known: keys that the group has.
        elsewhere: paths of such keys in other groups.
    """
    close = [repr(key) for key in difflib.get_close_matches(name, known, n=1)]
    meant = " or ".join(elsewhere or close)
    hint = f"did you mean {meant}? " if meant else ""
    return InputError(
        f"{path} has no key {name!r}: {hint}known are {', '.join(sorted(known))}"
    )


def as_flag(path: str, value: Any) -> str:
    """Returns a key and a value as a flag that a shell takes: bare, lists fall apart.

    Args:
        path: of the key, as in `config.data.dirs`.
        value: that the key is to have.
    """
    text = str(value)
    if "'" in text:  # shlex would quote each by itself
        quoted = re.sub(r'(["$`\\])', r"\\\1", text)
        return f'--{path}="{quoted}"'
    return f"--{path}={shlex.quote(text)}"


def check_only(config: Any, values: Mapping[str, Any], who: str) -> None:
    """Raises `InputError` for a key that does not have the one value that is known.

    Args:
        config: a dataclass, the whole config.
        values: by key, as in `search.partial`: what it must be.
        who: knows no other value, for the message.
    """
    for key, only in values.items():
        value = operator.attrgetter(key)(config)
        if value != only:
            raise InputError(
                f"config.{key} is {value!r}; {who} knows only {only!r}: set "
                + as_flag(f"config.{key}", only)
            )


def check_unread(
    config: Any, group: str, names: Iterable[str], why: str, way_out: str
) -> None:
    """Raises `InputError` for a key that is set, though nothing reads it.

    Args:
        config: a dataclass, the whole config.
        group: of the keys, as in `search.weights`.
        names: of the keys.
        why: nothing reads them.
        way_out: the flag with which something would.
    """
    group_of = operator.attrgetter(group)
    given, defaults = group_of(config), group_of(type(config)())
    for name in names:
        value, default = getattr(given, name), getattr(defaults, name)
        if value != default:
            raise InputError(
                f"config.{group}.{name} is {value!r}, but {why}: set {way_out}, or "
                + as_flag(f"config.{group}.{name}", default)
            )


@contextlib.contextmanager
def arguments_as_flags(group: str, **others: str) -> Iterator[None]:
    """Names the flags that give arguments of the library, in what it refuses of them.

    `transfer='copy'` becomes `--config.interleaving.transfer=copy`.

    Args:
        group: of the keys, as in `interleaving`.
        **others: keys by argument, for those of another group or name.
    """

    def flag(match: re.Match[str]) -> str:
        name, word = match.groups(default="")
        return f"--config.{others.get(name, f'{group}.{name}')}={word}"

    try:
        yield
    except InputError as error:
        text = re.sub(r"(?<![\w'])([a-z_]+)=(?:'(\w+)')?", flag, str(error))
        raise InputError(text) from error


def parse(
    cls: type[T], values: Mapping[str, Any] | ConfigDict, path: str = "config"
) -> T:
    """Returns a checked dataclass built from a `ConfigDict` or from nested mappings.

    Args:
        cls: a dataclass; fields that are dataclasses themselves are parsed in turn.
        values: by field name; a missing one keeps its default.
        path: how the messages name this level, as in `config.search`.

    Raises:
        InputError: for a path or whatever else is no mapping, an unknown key, a wrong
            type or a value out of bounds; the message names the value, what is allowed
            and the flag to change.
    """
    if isinstance(values, ConfigDict):
        values = values.to_dict()
    if isinstance(values, str | os.PathLike):
        raise InputError(
            f"{path} is {os.fspath(values)!r}, a path, but a config is wanted: give what "
            "get_config() of that file returns, or start launch/run.py with "
            f"--config={os.fspath(values)}"
        )
    if not isinstance(values, Mapping):
        raise InputError(
            f"{path} is a {type(values).__name__}; it must map keys to values, as what "
            "get_config() of configs/*.py returns does"
        )
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    types = get_type_hints(cls)
    for name in values:
        if name not in fields:
            raise no_key(path, name, fields)
    parsed = {
        name: _parse_value(fields[name], types[name], value, f"{path}.{name}")
        for name, value in values.items()
    }
    return cls(**parsed)


def _parse_value(
    field: dataclasses.Field[Any], kind: type, value: Any, path: str
) -> Any:
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise InputError(f"{path} is {value!r}; it must be a group of keys")
        return parse(kind, value, path)
    if kind is float and type(value) is int:
        value = float(value)
    if kind in (bool, int, float, str):
        fits = type(value) is kind
        expected = kind.__name__
    else:  # the one other kind that a config holds: a tuple of one kind of value
        member = get_args(kind)[0]
        if member is float and isinstance(value, tuple):
            value = tuple(float(v) if type(v) is int else v for v in value)
        fits = isinstance(value, tuple) and all(type(v) is member for v in value)
        expected = f"a tuple of {member.__name__}"
    if not fits:
        raise InputError(f"{path} is {value!r}; it must be {expected}: set --{path}")
    values = value if isinstance(value, tuple) else (value,)
    allowed = _violated(field, values)
    if allowed:
        raise InputError(f"{path} is {value!r}; it must be {allowed}: set --{path}")
    if not all(math.isfinite(v) for v in values if type(v) is float):
        raise InputError(f"{path} is {value!r}; it must be finite: set --{path}")
    return value


def _violated(field: dataclasses.Field[Any], values: tuple[Any, ...]) -> str:
    """Returns what values should have been, or an empty string if they are fine."""
    options = field.metadata.get("options")
    if options is not None:
        return "" if set(values) <= set(options) else "among " + ", ".join(options)
    bounds = field.metadata.get("bounds", {})
    if all(_HOLDS[name](v, bound) for name, bound in bounds.items() for v in values):
        return ""
    return " and ".join(f"{name} {bound}" for name, bound in bounds.items())
