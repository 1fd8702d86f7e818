import warnings

import pytest

from skillearn_jax.errors import InputError
from skillearn_jax.nas.genotype_text import parse_genotype_text

EDGES = "[('skip_connect', 0), ('sep_conv_3x3', 1)]"


def _text(normal=EDGES, normal_concat="range(2, 3)"):
    return (
        f"Genotype(normal={normal}, normal_concat={normal_concat}, reduce={EDGES}, "
        "reduce_concat=[2])"
    )


def test_fields_are_returned_as_data():
    edges = [("skip_connect", 0), ("sep_conv_3x3", 1)]
    assert parse_genotype_text(f"\n {_text()} \n") == {
        "normal": edges,
        "normal_concat": (2,),
        "reduction": edges,
        "reduction_concat": [2],
    }


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Genotype",
        "Genotype()",
        "Genotype(1, 2, 3, 4)",
        "Genotype(**{})",
        "x.Genotype(normal=[])",
        "Genotype(normal=[",
        "__import__('os').system('true')",
        _text() + "; import os",
        _text().replace("reduce=", "normal="),
        _text().replace("reduce=", "reward="),
        _text(normal="__import__('os').getcwd()"),
        _text(normal="[x for x in ()]"),
        _text(normal="open('/etc/passwd')"),
        _text(normal="range(2, 3)"),
        _text(normal="(lambda: [])()"),
        _text(normal="[('skip_connect', 0)] * 10**9"),
        _text(normal="'skip_connect'"),
        _text(normal="{[]: 1}"),
        _text(normal="[]"),
        _text(normal_concat="[]"),
        _text(normal_concat="range(3, 2)"),
        _text(normal_concat="range(2, 2)"),
        _text(normal_concat="range(2)"),
        _text(normal_concat="range(2, 3, 1)"),
        _text(normal_concat="range(2, stop=3)"),
        _text(normal_concat="range(2, 10**9)"),
        _text(normal_concat="range(2, 1000000000000)"),
        _text(normal_concat="range('2', 3)"),
        _text(normal_concat="range(*[2, 3])"),
        _text(normal="(" * 300 + ")" * 300),
        _text(normal="[" * 150 + "]" * 150 + " + 1"),
        "Genotype(" + "-" * 5000 + "1)",
        "(" * 100_000,
        "Genotype(\0)",
        _text(normal="[('skip_connect', 1or 2)]"),
        _text(normal=r"['\c', len]"),
        None,
    ],
)
def test_hostile_text_is_refused(text):
    # Python's own warnings would be further lines.
    with warnings.catch_warnings(action="error"), pytest.raises(InputError) as error:
        parse_genotype_text(text)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300
