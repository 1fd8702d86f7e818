"""A comparison leaves what it promises, once, and refuses what it cannot mean."""

import contextlib
import importlib
import json
import os
import re
import shutil
import signal

import jax
import numpy as np
import pytest

from skillearn_jax.errors import InputError, Interrupted
from skillearn_jax.framework.comparing import ADJOINTS
from skillearn_jax.nas import KNOWN_GENOTYPES
from skillearn_jax.train import (
    CompareConfig,
    report_comparison,
    report_figures,
    run,
    run_comparison,
)
from skillearn_jax.train.comparison_problems import build_problem
from skillearn_jax.train.lock import locked

pytestmark = pytest.mark.usefixtures("quick_module")

SMALL = {
    "problem": "toy",
    "batch_size": 16,
    "batch_sizes": (4,),
    "depths": (1, 2),
    "radii": (1e-2, 1e-1),
    "dtypes": ("float32",),
    "repeats": 1,
    "warm_steps": 1,
    "search_epochs": 0,
}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, quick_module):
    folder = tmp_path_factory.mktemp("comparison") / "run"
    run_comparison(SMALL, folder, quiet=True)
    return folder


def test_it_leaves_a_record_and_a_page(workdir):
    record = json.loads((workdir / "comparison.json").read_text())
    exact = [r for r in record["rows"] if r["adjoint"] == "Exact()"]
    assert {r["stage"] for r in exact} == {"total", "stage1", "stage2", "validation"}
    assert all(r["rel_error"] < 1e-4 for r in exact)
    assert set(record["sweeps"]["batch"]) == {"4", "16"}
    assert set(record["sweeps"]["depth"]) == {"1", "2"}
    page = (workdir / "report" / "index.html").read_text()
    for text in ("Hypergradients of toy", "FiniteDifference", "plain autodiff"):
        assert text in page
    for name in ("radius", "batch", "depth"):
        assert (workdir / "report" / f"{name}.svg").read_text().startswith("<svg")
    assert "searches" in record
    assert record["searches"] == []


def test_no_size_of_batches_is_compared_twice(tmp_path, capsys):
    run_comparison({**SMALL, "batch_sizes": (4, 16), "depths": ()}, tmp_path / "run")
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in printed if line.startswith("batches of")] == [
        "batches of 4"
    ]
    record = json.loads((tmp_path / "run" / "comparison.json").read_text())
    assert set(record["sweeps"]["batch"]) == {"4", "16"}


EXACT, DIFFERENCE = map(repr, ADJOINTS[:2])


def accuracy(adjoint, rel_error, radius=None, stage="total", supporting="a"):
    named = {"adjoint": adjoint, "dtype": "float32", "supporting": supporting}
    measured = {"norm": 12.5, "radius": radius, "rel_error": rel_error, "cosine": 0.5}
    return {**named, "stage": stage, **measured}


def points(line):
    return [tuple(map(float, point)) for point in line.get_xydata()]


def test_errors_are_drawn_against_the_radius_of_their_own_set(monkeypatch):
    monkeypatch.setattr(report_figures, "svg", lambda figure, title: figure)
    rows = [
        accuracy(EXACT, 1e-6),
        accuracy(DIFFERENCE, 1e-1, 1.0),
        accuracy(DIFFERENCE, 1e-2, 0.01),
        accuracy(DIFFERENCE, 5.0, 0.01, stage="stage1"),
        accuracy(EXACT, 1e-5, supporting="b"),
        accuracy(DIFFERENCE, 3e-1, 0.01, supporting="b"),
    ]
    figure = report_comparison._by_radius({"rows": rows})
    a, b = figure.axes
    assert (a.get_title("left"), b.get_title("left")) == ("a", "b")
    difference, exact, _ = a.lines
    assert points(difference) == [(0.01, 1e-2), (1.0, 1e-1)]
    assert set(exact.get_ydata()) == {1e-6}
    assert points(b.lines[0]) == [(0.01, 3e-1)]
    assert set(b.lines[1].get_ydata()) == {1e-5}


def test_errors_are_drawn_against_the_size_of_batches(monkeypatch):
    monkeypatch.setattr(report_figures, "svg", lambda figure, title: figure)
    sweep = {
        str(size): {
            "rows": [
                accuracy(EXACT, 1e-6 * size),
                accuracy(EXACT, 7.0, stage="stage1"),
                accuracy(DIFFERENCE, 1e-3 * size, 0.01),
            ]
        }
        for size in (16, 4)
    }
    record = {"sweeps": {"batch": sweep, "depth": {"1": sweep["4"]}}}
    (ax,) = report_comparison._by_sweep(record, "batch", "batch size").axes
    exact, difference = ax.lines
    np.testing.assert_allclose(points(exact), [(4, 4e-6), (16, 16e-6)])
    np.testing.assert_allclose(points(difference), [(4, 4e-3), (16, 16e-3)])
    labels = [line.get_label() for line in ax.lines]
    assert labels == ["exact, float32", "finite difference, float32"]
    assert ax.get_xlabel() == "batch size"
    # One point is no curve.
    assert report_comparison._by_sweep(record, "depth", "stages") is None


@pytest.mark.parametrize("full", ["4", "16"])
def test_float64_is_no_point_of_a_sweep(monkeypatch, full):
    """The size of the main tables alone has it."""
    monkeypatch.setattr(report_figures, "svg", lambda figure, title: figure)
    rows = [
        {**accuracy(adjoint, 1e-6), "dtype": dtype}
        for dtype in ("float64", "float32")
        for adjoint in (EXACT, DIFFERENCE)
    ]
    sweep = {size: {"rows": rows if size == full else rows[2:]} for size in ("4", "16")}
    (ax,) = report_comparison._by_sweep({"sweeps": {"batch": sweep}}, "batch", "").axes
    assert [line.get_label() for line in ax.lines] == [
        "exact, float32",
        "finite difference, float32",
    ]
    alone = {size: {"rows": rows[:2]} for size in sweep}  # where it has no other
    (ax,) = report_comparison._by_sweep({"sweeps": {"batch": alone}}, "batch", "").axes
    assert len(ax.lines) == 2


def test_a_number_type_has_one_colour_in_all_figures(monkeypatch):
    """The sweeps over sizes leave one of them out."""
    monkeypatch.setattr(report_figures, "svg", lambda figure, title: figure)
    rows = [
        {**row, "dtype": dtype}
        for dtype in ("float64", "float32", "bfloat16")
        for row in (accuracy(EXACT, 1e-6), accuracy(DIFFERENCE, 1e-2, 0.01))
    ]
    sweep = {size: {"rows": rows[2:]} for size in ("4", "16")}
    drawn = (
        report_comparison._by_radius({"rows": rows}),
        report_comparison._by_sweep({"sweeps": {"batch": sweep}}, "batch", "size"),
    )
    radius, batch = (
        {
            text.get_text().rpartition(", ")[2]: line.get_color()
            for text, line in zip(legend.get_texts(), legend.get_lines(), strict=True)
        }
        for legend in (figure.axes[0].get_legend() for figure in drawn)
    )
    assert len(set(radius.values())) == 3
    assert batch == {name: radius[name] for name in ("float32", "bfloat16")}


def test_weights_of_operations_are_drawn_search_by_search(monkeypatch):
    monkeypatch.setattr(report_figures, "svg", lambda figure, title: figure)
    shares = np.array([[[0.25, 0.75], [0.5, 0.5]], [[0.125, 0.875], [0.75, 0.25]]])
    searches = [
        {
            "alphas": [
                {"step": 3 * i, "normal": np.log(s) + 1} for i, s in enumerate(way)
            ]
        }
        for way in (shares, shares[::-1])
    ]
    figure = report_comparison._alphas({"searches": searches})
    assert [ax.get_title("left") for ax in figure.axes] == [
        "normal, edge 0",
        "normal, edge 1",
    ]
    for edge, ax in enumerate(figure.axes):
        for number, line in enumerate(ax.lines):
            way, op = (shares, shares[::-1])[number // 2], number % 2
            np.testing.assert_allclose(line.get_xdata(), [0, 3])
            np.testing.assert_allclose(line.get_ydata(), way[:, edge, op])
        assert [line.get_linestyle() for line in ax.lines] == ["-", "-", "--", "--"]
    first, second = figure.axes
    named = zip(first.get_legend().get_texts(), first.lines, strict=False)
    assert [(text.get_text(), line.get_color()) for text, line in named] == [
        ("none", report_figures.COLORS[0]),
        ("max_pool_3x3", report_figures.COLORS[1]),
    ]
    assert second.get_legend() is None


def test_the_tables_of_a_comparison_have_their_units():
    """Of finite differences the radius of DARTS is shown, the others are drawn."""
    rows = [
        accuracy(EXACT, 1e-6),
        accuracy(DIFFERENCE, 1e-2, 0.01),
        accuracy(DIFFERENCE, 2e-1, 0.1),
    ]
    cost = {"adjoint": EXACT, "dtype": "float32", "step_s": 0.0125}
    cost |= {"compile_s": 31.5, "peak_bytes": 3 * 2**20}
    cells = KNOWN_GENOTYPES["DARTS_V2"].to_json()
    found = {"name": "first_order", "genotype": cells, "error": 12.345}
    record = {"rows": rows, "costs": [cost], "searches": [{**found, "search_s": 20.25}]}

    def cells_of(table):
        lines = re.findall(r"<tr><th scope=\"row\">(.*?)</tr>", table)
        return [re.split("(?:</th>)?<t[dh]>|</t[dh]>", line) for line in lines]

    of_rows = cells_of(report_comparison._accuracy(record))
    texts = [[text for text in line if text] for line in of_rows]
    shared = ["float32", "a", "total", "1.25e+01"]
    assert texts == [
        [EXACT, *shared, "1.0e-06", "0.500000"],
        [DIFFERENCE, *shared, "1.0e-02", "0.500000"],
    ]
    ((*line,),) = cells_of(report_comparison._costs(record))
    assert [text for text in line if text] == [
        EXACT,
        "float32",
        "12.50 ms",
        "31.5 s",
        "3.00 MiB",
    ]
    searched = report_comparison._searches(record)
    ((*line,),) = cells_of(searched)
    assert [text for text in line if text] == ["first order", "12.35", "20.2 s"]
    assert "cell by first order" in searched
    assert "note" not in searched
    (search,) = record["searches"]
    told = {"searches": [{**search, "caveats": ["A <b>"]}] * 2}
    assert (
        report_comparison._searches(told).count('<p class="note">A &lt;b&gt;</p>') == 1
    )
    assert report_comparison._searches({"searches": []}) == ""


def test_one_at_a_time_works_in_a_folder(workdir):
    with (
        locked(workdir, print),
        pytest.raises(InputError, match="is in use by process"),
    ):
        run_comparison(SMALL, workdir, quiet=True)


def test_a_finished_one_is_only_reported(workdir, capsys):
    before = (workdir / "comparison.json").read_bytes()
    (workdir / "report" / "index.html").unlink()
    found = run_comparison(SMALL, workdir)
    assert "finished" in capsys.readouterr().out
    assert (workdir / "comparison.json").read_bytes() == before
    assert found.report.exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda record: {},
        lambda record: [],
        lambda record: {**record, "rows": [{}]},
        lambda record: {**record, "costs": [{**record["costs"][0], "step_s": "1"}]},
        lambda record: {**record, "sweeps": {"batch": {"4": {}}, "depth": {}}},
        lambda record: {**record, "searches": [{"name": "exact"}]},
    ],
)
def test_a_damaged_record_is_one_line(workdir, tmp_path, damage):
    folder = tmp_path / "run"
    shutil.copytree(workdir, folder)
    record = json.loads((folder / "comparison.json").read_text())
    (folder / "comparison.json").write_text(json.dumps(damage(record)))
    with pytest.raises(InputError, match="does not hold what a run writes") as error:
        run_comparison(SMALL, folder, quiet=True)
    assert "comparison.json" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_gradient_that_was_not_finite_is_reported(workdir, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(workdir, folder)
    record = json.loads((folder / "comparison.json").read_text())
    record["rows"] = [{**row, "norm": None} for row in record["rows"]]
    (folder / "comparison.json").write_text(json.dumps(record))
    page = run_comparison(SMALL, folder, quiet=True).report.read_text()
    assert "<td>none</td>" in page


def test_a_key_of_a_later_version_is_named(workdir, tmp_path):
    record = json.loads((workdir / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**record, "later": 3}))
    message = "with config.later = 3, a key that .* or use the version that wrote it$"
    with pytest.raises(InputError, match=message):
        run_comparison(SMALL, tmp_path, quiet=True)


def test_another_one_in_the_same_folder_is_refused(workdir, tmp_path):
    before = (workdir / "config.json").read_bytes()
    with pytest.raises(InputError) as caught:
        run_comparison({**SMALL, "seed": 1, "radii": ()}, workdir, quiet=True)
    assert str(caught.value) == (
        f"the workdir {workdir} holds a comparison with config.seed = 0, not 1; "
        "config.radii = [0.01, 0.1], not []: set --workdir to a new folder, or "
        "--config.seed=0 --config.radii='[0.01, 0.1]'"
    )
    assert (workdir / "config.json").read_bytes() == before
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(InputError, match=r"holds no comparison \(mine.txt"):
        run_comparison(SMALL, tmp_path, quiet=True)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("unheard", [(), Interrupted])
def test_a_signal_outside_of_the_searches_ends_it_in_one_line(
    tmp_path, monkeypatch, number, unheard
):
    """Also one whose exception is lost, as in JAX's callback of the garbage collector."""
    before = signal.getsignal(number)
    module = importlib.import_module(run_comparison.__module__)

    def compare(*args, progress, **options):
        with contextlib.suppress(unheard):
            signal.raise_signal(number)
            pytest.fail("went on")
        progress("what comes next")
        pytest.fail("went on")

    monkeypatch.setattr(module, "compare", compare)
    with pytest.raises(Interrupted, match=f"interrupted by {number.name}, ") as caught:
        run_comparison(SMALL, tmp_path / "run", quiet=True)
    assert caught.value.exit_code == 128 + number
    assert signal.getsignal(number) == before
    with locked(tmp_path / "run", print):
        assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
            ".lock",
            "config.json",
        ]


def test_a_folder_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(InputError, match=rf"^cannot write the workdir {tmp_path} \("):
        run_comparison(SMALL, tmp_path, quiet=True)
    assert not list(tmp_path.iterdir())


def test_a_run_in_its_folder_is_refused(workdir, tiny_baseline):
    before = (workdir / "config.json").read_bytes()
    match = rf"^the workdir {workdir} holds a comparison of hypergradients, not a run: "
    with pytest.raises(InputError, match=match):
        run(tiny_baseline({}), workdir, quiet=True)
    assert (workdir / "config.json").read_bytes() == before


def test_nonsense_is_refused_before_anything_is_written(tmp_path):
    for change, message in (
        ({"problem": "chess"}, "chess"),
        ({"dtypes": ("int8",)}, "int8"),
        ({"dtypes": ()}, r"config.dtypes is \(\); it must name at least one of"),
        ({"radii": (0.0,)}, "radii"),
        ({"problem": "lpt", "batch_size": 480}, "of 480; they must be of 479 at most"),
        (
            {"problem": "lpt", "batch_sizes": (5000,)},
            "^config.batch_size or config.batch_sizes asks for batches of 5000; they must",
        ),
    ):
        with pytest.raises(InputError, match=message):
            run_comparison({**SMALL, **change}, tmp_path / "new", quiet=True)
    assert not (tmp_path / "new").exists()


def test_several_processes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    message = "runs in one process, not in 2: .* without --num_processes"
    with pytest.raises(InputError, match=message):
        run_comparison(SMALL, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["lpt", "interleaving", "darts"])
def test_every_problem_has_a_right_hypergradient(name):
    program, state, batches = build_problem(name, 4, seed=0)
    if name == "darts":  # its own check compiles for a minute; elsewhere it is tested
        assert "alphas" in program.sets
        return
    report = program.check(state, batches)
    exact = [row for row in report.rows if row.adjoint == "exact"]
    assert exact
    assert all(row.rel_error < 1e-4 for row in exact)


def test_no_image_is_in_two_streams_of_a_problem():
    batches = build_problem("lpt", 20, seed=0).batches
    assert set(batches) == {"train", "val", "bank"}
    images = np.concatenate([np.asarray(batch["image"]) for batch in batches.values()])
    assert len(np.unique(images, axis=0)) == 60


@pytest.mark.parametrize("name", ["toy", "lpt", "interleaving"])
def test_the_seed_decides_on_parameters_and_batches(name):
    first, same, other = (build_problem(name, 4, seed=seed) for seed in (0, 0, 1))
    for part in ("batches", "state"):
        of_first, of_same, of_other = (
            [np.asarray(leaf) for leaf in jax.tree.leaves(plain(getattr(each, part)))]
            for each in (first, same, other)
        )
        assert all(map(np.array_equal, of_first, of_same))
        assert not any(map(np.array_equal, of_first, of_other))


def plain(tree):
    """Returns the parameters of a state, or images and the like of batches."""
    if hasattr(tree, "params"):
        return tree.params
    return [
        batch["image"] if isinstance(batch, dict) else batch for batch in tree.values()
    ]


@pytest.mark.long
def test_the_searches_differ_in_their_hypergradient_alone(tmp_path):
    config = CompareConfig.parse({**SMALL, "search_epochs": 2})
    record = run_comparison(config, tmp_path / "run", quiet=True).record
    assert [row["name"] for row in record["searches"]] == [
        "exact",
        "finite_difference",
        "first_order",
    ]
    exact, difference, first = (row["alphas"] for row in record["searches"])
    assert len(exact) == len(difference) == len(first) == 2
    assert exact != first
    assert exact != difference
    page = (tmp_path / "run/report/index.html").read_text()
    assert "Architectures over time" in page
    for row in record["searches"]:  # of one cell, with no normal one
        assert [text.partition(":")[0] for text in row["caveats"]] == [
            "config.search.cells is 1"
        ]
    assert page.count("config.search.cells is 1: ") == 1
