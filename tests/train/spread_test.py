"""How far trainings lie apart: no claim without evidence."""

import pytest

from skillearn_jax.train.spread import mean_and_std, verdict


def test_mean_and_deviation_of_a_sample():
    assert mean_and_std([1.0, 2.0, 6.0]) == {"mean": 3.0, "std": pytest.approx(7**0.5)}


def test_one_value_has_no_deviation():
    assert mean_and_std([2.5]) == {"mean": 2.5, "std": None}


def test_apart_is_a_claim():
    text = verdict([2.0, 2.1, 2.2], [3.0, 3.1, 3.2])
    assert text.startswith("The derived cell's mean error lies 1.00 points below the")
    assert text.endswith("the intervals (one standard deviation) do not overlap.")


def test_worse_is_said_as_plainly():
    text = verdict([3.0, 3.1, 3.2], [2.0, 2.1, 2.2])
    assert "1.00 points above the random cells' mean" in text
    assert text.endswith("do not overlap.")


def test_overlap_is_no_claim():
    text = verdict([2.0, 2.5, 3.0], [2.2, 2.7, 3.2])
    assert "0.20 points below" in text
    assert text.endswith("the intervals overlap, so no difference is claimed.")


def test_intervals_that_touch_overlap():
    # Means 1 and 3, standard deviations 1 and 1, exactly.
    assert "so no difference" in verdict([0.0, 1.0, 2.0], [2.0, 3.0, 4.0])
    assert "do not overlap" in verdict([0.0, 1.0, 2.0], [2.5, 3.5, 4.5])


def test_equal_errors_are_no_claim():
    assert "so no difference" in verdict([2.0, 2.0, 2.0], [2.0, 2.0, 2.0])


@pytest.mark.parametrize("other", [2.0, 2.004, 1.996])
def test_means_that_print_alike_are_called_equal(other):
    """Though the intervals of the last two, of no width, lie apart."""
    assert verdict([2.0, 2.0, 2.0], [other] * 3) == (
        "The derived cell's mean error equals the random cells' mean to two decimals, so "
        "no difference is claimed."
    )
    assert verdict([2.0], [other], "that of the cells of x") == (
        "The derived cell's mean error equals that of the cells of x to two decimals; too "
        "few trainings to say whether that is more than chance."
    )
    assert "lies 0.01 points above" in verdict([2.006], [2.0])


@pytest.mark.parametrize(
    ("derived", "random"),
    [([1.0], [9.0, 9.1, 9.2]), ([1.0, 1.1, 1.2], [9.0, 9.1]), ([1.0, 1.1], [9.0, 9.1])],
)
def test_too_few_trainings_are_no_claim(derived, random):
    text = verdict(derived, random)
    assert text.endswith("too few trainings to say whether that is more than chance.")
