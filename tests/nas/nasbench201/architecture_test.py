import json
import re

import jax
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from skillearn_jax.errors import InputError
from skillearn_jax.nas.nasbench201 import (
    NUM_ARCHITECTURES,
    OPS,
    Architecture,
    BenchSpace,
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


@pytest.mark.parametrize(
    ("ops", "message"),
    [
        (None, "ops must list 6 operations, got None"),
        ("none", "ops must list 6 operations, got 'none'"),
        (("none",) * 5, "ops must list 6 operations, got ("),
        (("none",) * 5 + (3,), "ops[5] is 3; it must be one of"),
        (["x" * 1000] * 6, "ops[0] is 'xxx"),
        (np.zeros((6, 5)), "ops must list 6 operations, got array"),
    ],
)
def test_what_is_no_cell_is_refused(ops, message):
    with pytest.raises(InputError, match=re.escape(message)) as error:
        Architecture(ops)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 200


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.floats()
    | st.text(max_size=9)
    | st.sampled_from(OPS),
    lambda inner: (
        st.lists(inner, max_size=7) | st.dictionaries(st.text(max_size=3), inner)
    ),
    max_leaves=9,
)


@given(json_values | json_values.map(lambda value: {"ops": value}))
@example([{str(i): {str(j): 1e16 / 3 for j in range(7)} for i in range(7)}] * 7)
def test_any_other_json_is_refused_in_one_line(data):
    message = ""
    try:
        assert Architecture.from_json(data).to_json() == data
    except InputError as error:
        message = str(error)
    assert "\n" not in message
    assert len(message) < 300


@pytest.mark.parametrize("index", [-1, NUM_ARCHITECTURES, 1.0, True])
def test_what_is_no_number_of_a_cell_is_refused(index):
    with pytest.raises(InputError, match="from 0 to 15624"):
        Architecture.from_index(index)


def test_derivation_takes_the_largest_with_or_without_none():
    logits = np.full((6, 5), -3.0)
    logits[:, 0], logits[:, 2] = -1, -2
    logits[4, 4] = 0
    derived = BenchSpace().derive({"cell": logits})
    assert derived.ops == ("none",) * 4 + ("avg_pool_3x3", "none")
    derived = BenchSpace(allow_none=False).derive({"cell": logits})
    assert derived.ops == ("nor_conv_1x1",) * 4 + ("avg_pool_3x3", "nor_conv_1x1")
    assert logits[0, 0] == -1, "the caller's logits stay as they are"
    assert BenchSpace().derive({"cell": np.zeros((6, 5))}).index == 0


@pytest.mark.parametrize(
    ("alphas", "message"),
    [
        ({"cell": np.zeros((5, 5))}, "must have shape (6, 5), got (5, 5)"),
        ({"normal": np.zeros((6, 5))}, "must have shape (6, 5), got nothing"),
        ({"cell": [[0], [0, 0]]}, "must have shape (6, 5), got no array"),
        (np.zeros((6, 5)), "must have shape (6, 5), got nothing"),
        ({"cell": np.full((6, 5), np.nan)}, "must be finite"),
    ],
)
def test_logits_that_do_not_fit_are_refused(alphas, message):
    with pytest.raises(InputError, match=re.escape(f"alphas['cell'] {message}")):
        BenchSpace().derive(alphas)


def test_fresh_logits_are_small_and_fit():
    alphas = BenchSpace().init_alphas(jax.random.key(0))
    assert set(alphas) == {"cell"}
    assert 0.5e-3 < np.std(alphas["cell"]) < 2e-3
    BenchSpace().derive(alphas)


@pytest.mark.parametrize(("allow_none", "ops"), [(True, OPS), (False, OPS[1:])])
def test_random_cells_hold_every_operation_that_is_allowed(allow_none, ops):
    rng = np.random.default_rng(0)
    drawn = [BenchSpace(allow_none).random(rng) for _ in range(50)]
    for edge in range(6):
        assert {architecture.ops[edge] for architecture in drawn} == set(ops)
