import os
import re
from pathlib import Path

import numpy as np
import pytest

from skillearn_jax.errors import InputError
from skillearn_jax.nas.nasbench201 import NUM_ARCHITECTURES, Architecture, load_table

HEADER = (
    "arch_str,cifar10_val,cifar10_test,cifar100_val,cifar100_test,in16_val,in16_test"
)


@pytest.fixture(scope="module")
def lines():
    """A table in which the accuracies are the digits of the numbers of the cells."""
    rows = [
        f"{Architecture.from_index(i).to_text()},{i % 97},{i % 10},1,2,3,4"
        for i in range(NUM_ARCHITECTURES)
    ]
    return [HEADER, *reversed(rows)]


def write(folder, lines):
    path = folder / "table.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_accuracies_and_ranks_are_found(lines, tmp_path):
    table = load_table(write(tmp_path, lines))
    cell = Architecture.from_index(97 + 95)
    assert table.accuracy(cell, "cifar10", "val") == 95
    assert table.accuracy(cell, "imagenet16", "test") == 4
    above = sum(i % 97 == 96 for i in range(NUM_ARCHITECTURES))
    assert table.rank(cell, "cifar10", "val") == 1 + above
    assert table.rank(cell, "cifar100", "test") == 1  # all are equal
    assert table.best("cifar10", "val").index == 96
    with pytest.raises(InputError, match="got 'mnist' and 'test'"):
        table.accuracy(cell, "mnist", "test")


def test_further_columns_and_a_byte_order_mark_are_no_mistake(lines, tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("\n".join(f"{line},x" for line in lines), encoding="utf-8-sig")
    assert (
        load_table(path).accuracy(Architecture.from_index(13), "cifar10", "val") == 13
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:-2], r"lacks 2 architectures, \|none~0\|\+.* first"),
        (lambda rows: [*rows, rows[1]], "line 15627: .* for the second time"),
        (
            lambda rows: [rows[0].replace("in16_val", "x"), *rows[1:]],
            "must have one column 'in16_val', and has 0",
        ),
        (
            lambda rows: [f"{rows[0]},in16_val", *(f"{row},1" for row in rows[1:])],
            "must have one column 'in16_val', and has 2",
        ),
        (lambda rows: [rows[0], "|none~0|,1,2,3,4,5,6"], "line 2: .* has 3 nodes"),
        (
            lambda rows: [rows[0], rows[1].rsplit(",", 1)[0] + ",101"],
            "line 2: in16_test is '101'; it must be a percentage",
        ),
        (
            lambda rows: [rows[0], rows[1].rsplit(",", 1)[0]],
            "line 2 has another number of fields than the first line",
        ),
        (
            lambda rows: [rows[0], rows[1] + ",1"],
            "line 2 has another number of fields than the first line",
        ),
        *(
            (lambda rows, word=word: [rows[0], rows[1][:-1] + word], "in16_test is '")
            for word in ("nan", "-1", "1_0", "1e1", " 1", "\u0663", "x" * 10_000)
        ),
        (lambda rows: [], "must have one column 'arch_str', and has 0"),
    ],
)
def test_a_file_that_is_no_table_is_refused(change, message, lines, tmp_path):
    path = write(tmp_path, change(lines))
    with pytest.raises(InputError, match=message) as error:
        load_table(path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300 + len(str(path))


def test_files_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        load_table(tmp_path / "absent.csv")
    with pytest.raises(InputError, match="cannot be read"):
        load_table("a\0b")
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="cannot be read"):
        load_table(tmp_path / "bytes.csv")


def test_the_real_table_has_the_published_extremes():
    folder = os.environ.get("SKILLEARN_DATA")
    if not folder or not (Path(folder) / "nb201.csv").exists():
        pytest.skip("SKILLEARN_DATA names no folder with nb201.csv")
    table = load_table(Path(folder) / "nb201.csv")
    names = ("cifar10", "cifar100", "imagenet16")
    best = [table.accuracy(table.best(n, "test"), n, "test") for n in names]
    np.testing.assert_allclose(best, [94.37, 73.51, 47.31], atol=0.005)
    skips = Architecture(("skip_connect",) * 6)
    values = [table.accuracy(skips, n, "test") for n in names]
    np.testing.assert_allclose(values, [54.30, 15.61, 16.32], atol=0.005)
    assert table.accuracies[:, 1].mean() == pytest.approx(87.06, abs=0.005)
    assert re.search(r"nor_conv", table.best("cifar10", "test").to_text())
