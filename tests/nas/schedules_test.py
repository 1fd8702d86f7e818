import json
import math

import numpy as np
import pytest

from skillearn_jax.errors import InputError
from skillearn_jax.nas.derive import rank_operations
from skillearn_jax.nas.schedules import (
    Stability,
    has_settled,
    is_zero,
    skip_dropout_rate,
    skip_weight,
)
from skillearn_jax.nas.space import CellSpace


def test_skip_dropout_falls_linearly_then_from_the_start_exponentially():
    rates = [skip_dropout_rate(0.4, epoch, 25, 10) for epoch in range(25)]
    np.testing.assert_allclose(rates[:3], [0.4 * 24 / 25, 0.4 * 23 / 25, 0.4 * 22 / 25])
    assert rates[9] == pytest.approx(0.4 * 15 / 25)
    assert rates[10] == 0.4
    assert rates[11] == pytest.approx(0.4 * math.exp(-0.2))
    assert rates[24] == pytest.approx(0.4 * math.exp(-2.8))


@pytest.mark.parametrize(
    ("decay", "middle", "last"),
    [
        ("constant", 1, 1),
        ("linear", 0.5, 1 / 50),
        ("cosine", 0.5, (1 + math.cos(math.pi * 49 / 50)) / 2),
        ("slow_cosine", math.sqrt(0.5), math.cos(math.pi * 49 / 100)),
    ],
)
def test_the_auxiliary_skip_fades(decay, middle, last):
    assert skip_weight(decay, 0, 50) == 1
    assert skip_weight(decay, 25, 50) == pytest.approx(middle)
    assert skip_weight(decay, 49, 50) == pytest.approx(last)


def test_only_zero_is_no_rate():
    assert all(map(is_zero, (0, 0.0, np.float32(0), np.zeros(()))))
    assert not any(map(is_zero, (1e-9, 0.5, np.float32(1e-30))))


def test_an_unknown_decay_is_refused():
    with pytest.raises(
        InputError, match=r"decay='square'; it must be one of 'constant', "
    ):
        skip_weight("square", 1, 2)


def test_stability_counts_epochs_without_a_change_of_ranks():
    space = CellSpace(ops=("skip_connect", "sep_conv_3x3", "dil_conv_3x3"), num_nodes=1)

    def after(stability, *row):
        alphas = np.array([row, row], float)
        both = {"normal": alphas, "reduction": alphas}
        # As JSON holds it, so that a resumed count goes on.
        ranks = json.loads(json.dumps(rank_operations(both, space)))
        return stability.update(ranks)

    stability = after(Stability(), 0, 1, 2)
    assert stability.epochs == 0
    stability = after(after(stability, 9, 3, 4), -9, 0, 1)  # skips are not ranked
    assert stability.epochs == 2
    assert stability.ranks["normal"][0][0] == "dil_conv_3x3"
    resumed = Stability(*json.loads(json.dumps(stability)))
    assert after(resumed, 0, 0, 1) == after(stability, 0, 0, 1)
    assert after(resumed, 0, 0, 1).epochs == 3
    assert has_settled(resumed, patience=2)
    assert not has_settled(resumed, patience=3)
    assert not has_settled(Stability())
    assert after(stability, 0, 2, 1).epochs == 0
