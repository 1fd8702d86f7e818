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
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
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


@pytest.mark.parametrize("depth", [10, 90, 500, 900, 3000])
@pytest.mark.parametrize("pattern", ["-", "(", "[", "not "])
def test_deep_nesting_is_refused(pattern, depth):
    close = {"(": ")", "[": "]"}.get(pattern, "")
    deep = pattern * depth + "1" + close * depth
    text = f"Genotype(normal={deep}, normal_concat=[2], reduce=[], reduce_concat=[2])"
    with pytest.raises(InputError):
        Genotype.from_text(text)
