"""Fields that know what they allow, and say so in one line."""

import dataclasses
import subprocess

import pytest

from skillearn_jax.errors import InputError
from skillearn_jax.train.fields import as_flag, choice, number, parse, seed


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: float = number(0.5, above=0, below=1)


@dataclasses.dataclass(frozen=True)
class Outer:
    size: int = number(3, at_least=1, at_most=9)
    flag: bool = False
    name: str = choice("a", ("a", "b"))
    names: tuple[str, ...] = choice(("a",), ("a", "b"))
    free: str = ""
    inner: Inner = Inner()
    key: int = seed(1)


@pytest.mark.parametrize(
    "value",
    [(), (20, 7), ("a", "b c"), "", "a $b", 0.5, False, ("a$b", "c`d"), ("Tom's", "e")],
)
def test_a_flag_can_be_pasted_into_a_shell(value):
    command = ["sh", "-c", f"printf '<%s>' {as_flag('config.x', value)}"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said == f"<--config.x={value}>"


def test_what_is_missing_keeps_its_default():
    assert parse(Outer, {}) == Outer()
    parsed = parse(Outer, {"size": 9, "inner": {"rate": 0.25}, "names": ("b", "a")})
    assert parsed == Outer(size=9, inner=Inner(0.25), names=("b", "a"))


def test_an_int_serves_as_a_float_and_becomes_one():
    @dataclasses.dataclass(frozen=True)
    class Rate:
        lr: float = number(0.5, above=0)

    assert type(parse(Rate, {"lr": 1}).lr) is float


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"sise": 3},
            "config has no key 'sise': did you mean 'size'? known are flag, free, inner, key, "
            "name, names, size",
        ),
        ({"inner": {"x": 1}}, "config.inner has no key 'x': known are rate"),
        ({"inner": 3}, "config.inner is 3; it must be a group of keys"),
        ({"size": "3"}, "config.size is '3'; it must be int: set --config.size"),
        ({"size": 3.0}, "config.size is 3.0; it must be int: set --config.size"),
        ({"size": True}, "config.size is True; it must be int: set --config.size"),
        ({"flag": 1}, "config.flag is 1; it must be bool: set --config.flag"),
        ({"free": None}, "config.free is None; it must be str: set --config.free"),
        (
            {"size": 0},
            "config.size is 0; it must be at least 1 and at most 9: set --config.size",
        ),
        (
            {"size": 10},
            "config.size is 10; it must be at least 1 and at most 9: set --config.size",
        ),
        (
            {"inner": {"rate": 0}},
            "config.inner.rate is 0.0; it must be above 0 and below 1: "
            "set --config.inner.rate",
        ),
        (
            {"inner": {"rate": 1.0}},
            "config.inner.rate is 1.0; it must be above 0 and below 1: "
            "set --config.inner.rate",
        ),
        (
            {"inner": {"rate": float("nan")}},
            "config.inner.rate is nan; it must be above 0 and below 1: "
            "set --config.inner.rate",
        ),
        (
            {"key": 2**32},
            "config.key is 4294967296; it must be at least 0 and at most 4294967295: "
            "set --config.key",
        ),
        ({"name": "c"}, "config.name is 'c'; it must be among a, b: set --config.name"),
        (
            {"names": ("a", "c")},
            "config.names is ('a', 'c'); it must be among a, b: set --config.names",
        ),
        (
            {"names": ["a"]},
            "config.names is ['a']; it must be a tuple of str: set --config.names",
        ),
        (
            {"names": (1,)},
            "config.names is (1,); it must be a tuple of str: set --config.names",
        ),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(values, message):
    with pytest.raises(InputError) as caught:
        parse(Outer, values)
    assert str(caught.value) == message


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), (0.5, float("nan"))])
def test_numbers_are_finite(value):
    @dataclasses.dataclass(frozen=True)
    class Free:
        rate: float = 0.5
        rates: tuple[float, ...] = ()

    name = "rates" if isinstance(value, tuple) else "rate"
    with pytest.raises(InputError, match=f"it must be finite: set --config.{name}"):
        parse(Free, {name: value})
