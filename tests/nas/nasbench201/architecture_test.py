import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skillearn_jax.errors import InputError
from skillearn_jax.nas.nasbench201 import (
    NUM_ARCHITECTURES,
    OPS,
    Architecture,
    derive_architecture,
    random_architecture,
)

TEXT = (
    "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|"
    "+|skip_connect~0|nor_conv_3x3~1|none~2|"
)


def test_the_text_of_the_benchmark_is_read_and_written():
    architecture = Architecture.from_text(TEXT)
    assert architecture.ops == (
        "nor_conv_3x3",
        "nor_conv_3x3",
        "avg_pool_3x3",
        "skip_connect",
        "nor_conv_3x3",
        "none",
    )
    assert architecture.to_text() == TEXT


@given(st.integers(0, NUM_ARCHITECTURES - 1))
def test_numbers_texts_and_json_go_round(index):
    architecture = Architecture.from_index(index)
    assert architecture.index == index
    assert Architecture.from_text(architecture.to_text()) == architecture
    data = json.loads(json.dumps(architecture.to_json()))
    assert Architecture.from_json(data) == architecture


@given(
    st.one_of(
        st.text(max_size=80),
        st.text(alphabet="|+~012nore_skipconet", max_size=80),
        st.tuples(st.integers(0, len(TEXT)), st.text(max_size=3)).map(
            lambda cut: TEXT[: cut[0]] + cut[1] + TEXT[cut[0] + 1 :]
        ),
    )
)
def test_any_other_text_is_refused_in_one_line(text):
    message = ""
    try:
        assert Architecture.from_text(text).to_text() == text.strip()
    except InputError as error:
        message = str(error)
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TEXT.replace("none~2", "none~1"), "node 3: edge 2 must be OP~2"),
        (TEXT.replace("avg_pool_3x3", "avg_pool"), "node 2: edge 1 must be OP~1"),
        (TEXT.replace("|none~2", ""), "node 3 must be 3 operations"),
        ("|none~0|", "3 nodes joined by"),
        ("x" * 10_000, "a text of six operations"),
    ],
)
def test_the_place_is_named(text, message):
    with pytest.raises(InputError, match=re.escape(message)):
        Architecture.from_text(text)


@pytest.mark.parametrize("ops", [None, "none", ("none",) * 5, ("none",) * 5 + (3,)])
def test_what_is_no_cell_is_refused(ops):
    with pytest.raises(InputError):
        Architecture(ops)


@pytest.mark.parametrize("index", [-1, NUM_ARCHITECTURES, 1.0, True])
def test_what_is_no_number_of_a_cell_is_refused(index):
    with pytest.raises(InputError, match="from 0 to 15624"):
        Architecture.from_index(index)


def test_derivation_takes_the_largest_with_or_without_none():
    logits = np.zeros((6, 5))
    logits[:, 0], logits[:, 2] = 2, 1
    assert derive_architecture(logits).ops == ("none",) * 6
    assert derive_architecture(logits, allow_none=False).ops == ("nor_conv_1x1",) * 6
    with pytest.raises(InputError, match=r"finite of shape \(6, 5\)"):
        derive_architecture(logits[:5])


def test_random_cells_hold_every_operation():
    rng = np.random.default_rng(0)
    drawn = [random_architecture(rng) for _ in range(50)]
    for edge in range(6):
        assert {architecture.ops[edge] for architecture in drawn} == set(OPS)
