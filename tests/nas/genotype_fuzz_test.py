"""Hostile, truncated and inconsistent genotypes: one line, or a genotype that is sound."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skillearn_jax.errors import InputError
from skillearn_jax.nas import Genotype
from skillearn_jax.nas.known import find_genotype

TEXT = find_genotype("DARTS_V2").to_text()
JSON = find_genotype("DARTS_V2").to_json()
scraps = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.just("a" * 10_000),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


def read(reader, value):
    """Reads; a refusal is one line, and what is accepted survives a round trip."""
    try:
        genotype = reader(value)
    except InputError as error:
        message = str(error)
    else:
        message = ""
        assert Genotype.from_text(genotype.to_text()) == genotype
        assert Genotype.from_json(genotype.to_json()) == genotype
    assert "\n" not in message
    assert len(message) < 600


@settings(deadline=None)
@given(st.text(max_size=80))
def test_any_text(text):
    read(Genotype.from_text, text)


@settings(deadline=None)
@given(st.integers(0, len(TEXT)), st.integers(0, 12), st.text(max_size=6))
def test_text_with_a_wound(start, length, patch):
    read(Genotype.from_text, TEXT[:start] + patch + TEXT[start + length :])


@settings(deadline=None)
@given(scraps)
def test_any_json(value):
    read(Genotype.from_json, value)


@settings(deadline=None)
@given(st.sampled_from(sorted(JSON)), scraps)
def test_json_with_one_field_replaced(name, value):
    read(Genotype.from_json, {**JSON, name: value})


HEX = "0x" + "f" * 9000
"""A number that Python reads and does not write."""


@pytest.mark.parametrize(
    "change",
    [
        ("'sep_conv_3x3', 0", f"'sep_conv_3x3', {HEX}"),
        ("'sep_conv_3x3', 0", f"{HEX}, 0"),
        ("range(2, 6)", f"range(2, {HEX})"),
        ("range(2, 6)", f"[2, {HEX}]"),
        ("range(2, 6)", HEX),
        ("'sep_conv_3x3', 0", f"'{'a' * 9000}', 0"),
        ("Genotype(", "Genotype(" + "".join(f"f{i}=1, " for i in range(900))),
    ],
)
def test_what_is_too_long_to_be_shown_is_refused(change):
    text = TEXT.replace(*change, 1)
    assert text != TEXT
    with pytest.raises(InputError) as error:
        Genotype.from_text(text)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize("kind", ["deep", "number"])
def test_json_that_cannot_be_shown_is_refused(kind):
    value = 10**5000
    if kind == "deep":
        value = []
        for _ in range(5000):
            value = [value]
    for data in (value, {**JSON, "normal": value}, {**JSON, "normal_concat": [value]}):
        with pytest.raises(InputError):
            Genotype.from_json(data)


@pytest.mark.parametrize("depth", [10, 90, 500, 900, 3000])
@pytest.mark.parametrize("pattern", ["-", "(", "[", "not "])
def test_deep_nesting_is_refused(pattern, depth):
    close = {"(": ")", "[": "]"}.get(pattern, "")
    deep = pattern * depth + "1" + close * depth
    text = f"Genotype(normal={deep}, normal_concat=[2], reduce=[], reduce_concat=[2])"
    with pytest.raises(InputError):
        Genotype.from_text(text)
