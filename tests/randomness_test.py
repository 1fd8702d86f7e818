"""Random numbers: every use has its own, and all of them come from one table."""

import re
from pathlib import Path

import jax
import pytest

import skillearn_jax
from skillearn_jax.randomness import Use, generator, named_key

PACKAGE = Path(skillearn_jax.__file__).parent


def test_no_two_uses_have_one_tag():
    """An alias of an enum is not among its members."""
    assert len(Use.__members__) == len(list(Use))
    assert 0 not in list(Use)


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_no_two_uses_draw_the_same(seed):
    drawn = {generator(seed, use).integers(2**62) for use in Use}
    assert len(drawn) == len(Use)
    first, second = (generator(seed, Use.CROPS, 2, 3).random(4) for _ in range(2))
    assert first.tolist() == second.tolist()


def test_every_generator_comes_from_the_table():
    found = [
        file.relative_to(PACKAGE).as_posix()
        for file in PACKAGE.rglob("*.py")
        if re.search(r"default_rng|SeedSequence", file.read_text(encoding="utf-8"))
    ]
    assert found == ["randomness.py"]


def test_the_key_of_a_name_is_fixed():
    key = jax.random.key(0)
    expected = jax.random.fold_in(key, 0xD860BF7A)  # CRC-32 of "bank"
    assert named_key(key, "bank") == expected
