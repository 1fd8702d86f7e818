"""What the figures of a report show: the numbers behind their lines and dots."""

import numpy as np
import pytest

from skillearn_jax.train import report_figures
from skillearn_jax.train.report_confusion import confusion
from skillearn_jax.train.report_figures import (
    COLORS,
    candidate_dots,
    error_dots,
    search_curves,
    training_curves,
)
from skillearn_jax.train.report_summary import count, duration


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """A figure is returned as matplotlib has it, before it becomes SVG."""
    monkeypatch.setattr(report_figures, "svg", lambda figure, title: figure)


def points(line):
    return [tuple(map(float, point)) for point in line.get_xydata()]


def test_trainings_are_means_over_seeds_with_the_chosen_one_in_front():
    rows = [
        {"phase": "evaluate", "network": network, "seed": seed, "step": step}
        | {"train_loss": base + seed + step}
        for network, base in (("derived", 10.0), ("random 1", 20.0))
        for seed in (0, 2)
        for step in (6, 3)
    ]
    others = [{"phase": "search", "step": 3, "learner/loss": 1.0}]
    (ax,) = training_curves([*others, *rows]).axes
    grey, coloured = ax.lines
    assert points(grey) == [(3.0, 24.0), (6.0, 27.0)]
    assert points(coloured) == [(3.0, 14.0), (6.0, 17.0)]
    assert (grey.get_color(), coloured.get_color()) == (COLORS[-1], COLORS[0])
    (ax,) = training_curves(rows, chosen="random 1").axes
    assert points(ax.lines[-1]) == [(3.0, 24.0), (6.0, 27.0)]
    assert training_curves(others) is None


def test_trainings_of_one_epoch_are_dots_at_a_whole_step():
    row = {"phase": "evaluate", "network": "derived", "seed": 0, "step": 22}
    figure = training_curves([row | {"train_loss": 2.0, "train_error": 75.0}])
    for ax, title in zip(figure.axes, ("train loss", "train error, %"), strict=True):
        assert ax.lines[0].get_marker() == "o"
        assert ax.get_title("left") == title
        assert [x for x in ax.get_xticks() if abs(x - 22) < 1] == [22]


def test_candidates_have_their_errors_and_the_least_so_far():
    errors = {"a": 5.0, "b": 7.0, "c": 3.0, "d": 4.0}
    found = {name: {"error": error} for name, error in errors.items()}
    (ax,) = candidate_dots(found, "c").axes
    least, all_of_them, chosen = map(points, ax.lines)
    assert least == [(1.0, 5.0), (2.0, 5.0), (3.0, 3.0), (4.0, 3.0)]
    assert all_of_them == list(enumerate(errors.values(), start=1))
    assert chosen == [(3.0, 3.0)]


def test_errors_have_a_ring_a_seed_a_disc_for_the_mean_and_the_band_of_chance():
    evaluation = {
        "rows": [
            {"name": "derived", "errors": [2.0, 4.0]},
            {"name": "random 1", "errors": [5.0]},
            {"name": "untrained", "errors": []},
        ],
        "random": {"mean": 5.0, "std": 1.5},
    }
    (ax,) = error_dots(evaluation).axes
    line, *dots = map(points, ax.lines)
    assert {x for x, _ in line} == {5.0}
    assert dots == [[(2.0, 0.0), (4.0, 0.0)], [(3.0, 0.0)], [(5.0, 1.0)], [(5.0, 1.0)]]
    (band,) = ax.patches
    assert (band.get_x(), band.get_width()) == (3.5, 3.0)
    assert error_dots({"rows": []}) is None


def test_only_derived_cells_have_the_colour():
    """Not those of a rival's folder with such a name."""
    names = ("derived on a", "derived_old on a", "random 1 on a", "derived on b")
    rows = [
        {"name": name, "errors": [1.0], "task": name[-1]}
        for name in (*names, "derived", "derived_old")
    ]
    del rows[-1]["task"], rows[-2]["task"]
    (ax,) = error_dots({"rows": rows}).axes
    blue, grey = COLORS[0], COLORS[-1]
    discs = [line.get_color() for line in ax.lines[1::2]]
    assert discs == [blue, grey, grey, blue, blue, grey]
    texts = [label.get_text() for label in ax.get_yticklabels()]
    assert texts == [row["name"] for row in rows]


def test_a_curve_is_binned_and_its_mean_runs_without_bending_at_the_ends():
    rows = [
        {"phase": "search", "step": step, "level": 7.0, "ramp": float(step)}
        for step in range(1, 801)
    ]
    (ax,) = search_curves(rows).axes
    flat, level, faint, ramp = ax.lines
    np.testing.assert_allclose(level.get_ydata(), 7.0, rtol=1e-12)
    np.testing.assert_allclose(flat.get_ydata(), 7.0, rtol=1e-12)
    for line in (faint, ramp):  # two steps a bin
        np.testing.assert_allclose(line.get_xdata(), np.arange(1.5, 800, 2))
    np.testing.assert_allclose(faint.get_ydata(), faint.get_xdata())
    middle = slice(20, -20)
    gap = ramp.get_ydata()[middle] - faint.get_ydata()[middle]
    assert np.abs(gap).max() <= 1 + 1e-9  # a mean of twenty bins has no middle one


def test_no_line_is_drawn_where_a_later_warm_up_measures_nothing():
    """Of the objective; the loss is one line, and an epoch's end may be all there is."""
    phases = ["warmup", "search", "search", "warmup", "warmup", "search", "search"]
    rows = [
        {"phase": phase, "step": step, "learner/loss": float(step)}
        | ({"validation/objective": step / 4} if phase == "search" else {})
        | ({"alphas/skips": 1.0} if step in (1, 3, 4, 7) else {})
        for step, phase in enumerate(phases, start=1)
    ]
    loss, skips, objective = search_curves(rows).axes
    assert [len(line.get_xdata()) for line in loss.lines] == [7]
    assert [points(line) for line in objective.lines] == [
        [(2.0, 0.5), (3.0, 0.75)],
        [(6.0, 1.5), (7.0, 1.75)],
    ]
    assert len({line.get_color() for line in objective.lines}) == 1
    assert [len(line.get_xdata()) for line in skips.lines] == [4]


def test_of_a_step_that_was_taken_twice_the_later_row_counts():
    rows = [
        {"phase": "search", "step": step, "learner/loss": loss}
        for step, loss in ((1, 4.0), (2, 3.0), (2, 5.0))
    ]
    (ax,) = search_curves(rows).axes
    assert points(ax.lines[-1]) == [(1.0, 4.0), (2.0, 5.0)]


def test_a_confusion_is_a_share_of_each_class_over_all_seeds():
    one = {"confusion": [[3, 1], [0, 2]], "loss": 1.0, "top5_error": None}
    two = {"confusion": [[1, 3], [0, 2]], "loss": 2.0, "top5_error": None}
    seeds = {"0": {**one, "calibration": 3.0}, "1": {**two, "calibration": 4.0}}
    figure, caption = confusion({"derived": seeds, "random 1": {}}, [])
    shares = figure.axes[0].collections[0].get_array()
    np.testing.assert_allclose(np.reshape(shares, (2, 2)), [[50, 50], [0, 100]])
    assert caption == (
        "What derived takes each class for, in per cent of its images, 2 seeds; mean loss "
        "1.500, calibration error 3.50 %."
    )
    assert confusion({}, []) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (0, "0"),
        (999, "999"),
        (999.6, "1 k"),
        (31234, "31.2 k"),
        (2e6, "2 M"),
    ],
)
def test_counts_have_three_digits(value, text):
    assert count(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (59.94, "59.9 s"),
        (59.96, "1 min 0 s"),
        (60, "1 min 0 s"),
        (3599.6, "1 h 0 min"),
    ],
)
def test_times_have_two_units(value, text):
    assert duration(value) == text
