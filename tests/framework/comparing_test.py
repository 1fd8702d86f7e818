"""`compare`: what the tables say is what the adjoints do."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from skillearn_jax.errors import InputError
from skillearn_jax.framework import Program, Stage, Validation, compare
from skillearn_jax.hypergrad import (
    Autodiff,
    ConjugateGradient,
    Exact,
    FiniteDifference,
    FirstOrder,
)
from skillearn_jax.tree import cast_floats

RADII = (1e-3, 1e-2)


pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def report_of():
    """The report is taken once for all tests that read it."""
    return {}


@pytest.fixture
def report(toy, warm, report_of):
    if not report_of:
        program = toy.program()
        state = warm(program, toy.params, toy.batches)
        report_of["state"], report_of["program"] = state, program
        report_of["report"] = compare(
            program, state, toy.batches, radii=RADII, repeats=2
        )
    return report_of["report"]


def rows_of(report, **wanted):
    return [
        row
        for row in report.rows
        if all(getattr(row, name) == value for name, value in wanted.items())
    ]


def test_exact_is_right_to_machine_precision_in_each_type(report):
    for dtype, most in (("float64", 1e-13), ("float32", 2e-5), ("bfloat16", 0.5)):
        rows = rows_of(report, adjoint="Exact()", dtype=dtype, stage="total")
        assert {row.supporting for row in rows} == {"a", "c"}
        assert all(row.rel_error < most for row in rows)
    assert all(
        row.rel_error > 1e-9
        for row in rows_of(report, adjoint="Exact()", dtype="float32", stage="total")
    )


def test_rows_hold_the_errors_that_they_name(toy, report, report_of):
    program, state = report_of["program"], report_of["state"]
    want, want_info = program.with_adjoint(Autodiff()).hypergrad(state, toy.batches)
    got, got_info = program.with_adjoint(FiniteDifference(0.01)).hypergrad(
        state, toy.batches
    )
    for name in ("a", "c"):
        (row,) = rows_of(
            report, radius=0.01, dtype="float64", supporting=name, stage="total"
        )
        error = np.linalg.norm(got[name] - want[name]) / np.linalg.norm(want[name])
        assert row.norm == pytest.approx(np.linalg.norm(want[name]), rel=1e-12)
        assert row.rel_error == pytest.approx(error, rel=1e-6)
        cosine = np.vdot(got[name], want[name])
        cosine /= np.linalg.norm(got[name]) * np.linalg.norm(want[name])
        assert row.cosine == pytest.approx(cosine, abs=1e-12)
    (row,) = rows_of(
        report, radius=0.01, dtype="float64", supporting="a", stage="first"
    )
    got, want = got_info.terms["first"]["a"], want_info.terms["first"]["a"]
    error = np.linalg.norm(got - want) / np.linalg.norm(want)
    assert row.rel_error == pytest.approx(error, rel=1e-6)


def test_each_radius_is_there_once_in_each_type(report):
    for dtype in ("float64", "float32", "bfloat16"):
        rows = rows_of(report, dtype=dtype, supporting="a", stage="total")
        assert sorted(row.radius for row in rows if row.radius) == list(RADII)
    coarse, fine = (
        rows_of(report, radius=r, dtype="float64", supporting="a", stage="first")[0]
        for r in (1e-2, 1e-3)
    )
    # The swept radius and the fixed one go different ways to the same difference.
    assert coarse.rel_error / fine.rel_error == pytest.approx(100, rel=0.1)


def test_a_part_that_is_not_there_is_no_number(report):
    """FirstOrder passes nothing through a stage: error one, and no angle."""
    (row,) = rows_of(
        report,
        adjoint=repr(FirstOrder("lookahead")),
        dtype="float64",
        supporting="a",
        stage="first",
    )
    assert row.rel_error == 1
    assert np.isnan(row.cosine)
    text = json.dumps(report.to_dict(), allow_nan=False)
    assert json.loads(text)["reference"] == "plain autodiff in float64"


def test_costs_are_of_every_adjoint_in_every_type(report):
    assert len(report.costs) == 4 * 3
    assert all(row.step_s > 0 and row.compile_s > 0 for row in report.costs)
    assert all(row.peak_bytes > 0 for row in report.costs)
    assert "Exact()" in str(report)


def test_implicit_adjoints_and_no_radii(toy):
    program = toy.program()
    state = program.init(toy.params, jax.random.key(0))
    report = compare(
        program,
        state,
        toy.batches,
        adjoints=(Exact(), ConjugateGradient(3, 0.1)),
        radii=(),
        dtypes=("float32",),
        repeats=1,
    )
    assert {row.adjoint for row in report.rows} == {
        "Exact()",
        "ConjugateGradient(num_steps=3, damping=0.1)",
    }
    # Adam at its first step: told, whatever the adjoint.
    assert len(report.warnings) == 1


def test_the_callers_number_types_are_left_alone(report, toy):
    assert toy.params["a"].dtype == np.float64
    assert jnp.ones(()).dtype == np.float64


def test_nonsense_is_refused(toy):
    program = toy.program()
    state = program.init(toy.params, jax.random.key(0))
    for options, message in (
        ({"dtypes": ("int8",)}, "dtypes='int8'; it must be one of"),
        ({"dtypes": ()}, "nothing to compare: give one of dtypes"),
        ({"adjoints": (), "radii": ()}, "one of adjoints or of radii"),
        ({"adjoints": ("exact",)}, "compare has adjoint='exact'; it must be a value"),
        ({"adjoints": (Exact,)}, "it must be a value such as Exact"),
        (
            {"adjoints": Exact()},
            r"adjoints=Exact\(\); it must be a tuple, .*\(Exact\(\),\)",
        ),
        ({"radii": 0.01}, r"radii=0.01; it must be a tuple, of one too: \(0.01,\)"),
        ({"radii": (0.01, "x")}, "radii='x'; it must be a finite number > 0"),
        (
            {"dtypes": "float32"},
            r"dtypes='float32'; it must be a tuple, .*\('float32',\)",
        ),
    ):
        with pytest.raises(InputError, match=message):
            compare(program, state, toy.batches, **options)
    with pytest.raises(InputError, match="without axis_name='devices'"):
        compare(program.replace(axis_name="devices"), state, toy.batches)


@pytest.mark.parametrize(("at", "said"), [(0.0, "zero by"), (np.nan, "not finite")])
def test_a_gradient_that_is_zero_or_not_finite_is_said(at, said):
    program, state = goal_of_a_learner(lambda a: a**2, at)
    report = compare(program, state, {}, radii=(), dtypes=("float32",), repeats=1)
    assert f"! the gradient of 'a' is {said}" in str(report)
    if at == 0:
        # Zero for zero is no error, though nothing can be divided by.
        (row,) = rows_of(report, adjoint="Exact()", stage="total")
        assert (row.norm, row.rel_error) == (0, 0)


def test_a_set_whose_paths_an_adjoint_cuts_is_left_out_and_said(toy):
    """First order has no gradient at all for a set that acts through stages alone."""
    program = toy.program(
        validation=toy.validation(
            loss_fn=lambda m, r, s, b, k: toy.objective(
                {**m, "c": 1 + 0 * toy.params["c"]}, r, s, b, k
            ),
            maximize={"c": toy.optimizers["c"]},
            indirect=("c",),
        )
    )
    state = program.init(toy.params, jax.random.key(0))
    report = compare(
        program,
        state,
        toy.batches,
        adjoints=(Exact(), FirstOrder("lookahead")),
        radii=(),
        dtypes=("float64",),
        repeats=1,
    )
    first = repr(FirstOrder("lookahead"))
    assert {row.supporting for row in rows_of(report, adjoint="Exact()")} == {"a", "c"}
    assert {row.supporting for row in rows_of(report, adjoint=first)} == {"a"}
    assert f"! {first} has no rows of 'c': supporting set 'c' has no path" in str(
        report
    )
    # Where the other one is left out, nothing changes: of `a` there is the direct term.
    truth = program.with_adjoint(Autodiff())
    grads, info = truth.hypergrad(state, toy.batches)
    (row,) = rows_of(report, adjoint=first, stage="total")
    assert row.norm == pytest.approx(np.linalg.norm(grads["a"]), rel=1e-12)
    error = np.linalg.norm(info.response["a"]) / np.linalg.norm(grads["a"])
    assert row.rel_error == pytest.approx(error, rel=1e-9)
    (row,) = rows_of(report, adjoint=first, stage="validation")
    assert row.rel_error < 1e-12


def goal_of_a_learner(goal=lambda a: a, at=2.0):
    """A supporting set that acts through the training stage alone, and a state."""
    stage = Stage(
        "learner",
        moves=("w",),
        reads=("a",),
        loss_fn=lambda moves, reads, *_: (moves["w"] - goal(reads["a"])) ** 2,
        optimizer=optax.sgd(0.1),
    )
    validation = Validation(
        lambda moves, reads, *_: (reads["w"] - 1) ** 2,
        reads=("w",),
        minimize={"a": optax.sgd(0.1)},
        indirect=("a",),
    )
    program = Program((stage,), validation)
    return program, program.init({"w": 0.0, "a": at}, jax.random.key(0))


def test_an_adjoint_that_cuts_every_path_is_left_out_and_said():
    program, state = goal_of_a_learner()
    options = {"adjoints": (Exact(), FirstOrder()), "radii": (), "repeats": 1}
    report = compare(program, state, {}, dtypes=("float64", "float32"), **options)
    assert {row.adjoint for row in report.rows} == {"Exact()"}
    assert len(report.costs) == 2
    (warning,) = report.warnings  # once for both number types
    assert warning.startswith(
        f"{FirstOrder()!r} left out: supporting set 'a' has no pa"
    )


def test_a_comparison_without_rows_says_why():
    program, state = goal_of_a_learner()
    report = compare(program, state, {}, adjoints=(FirstOrder(),), radii=(), repeats=1)
    assert report.rows == ()
    assert f"! {FirstOrder()!r} left out: supporting set 'a' has no pa" in str(report)


def test_a_set_without_arrays_is_compared_too():
    validation = Validation(
        lambda moves, reads, *_: (reads["w"] - 1) ** 2,
        reads=("w",),
        minimize={"a": optax.sgd(0.1), "none": optax.sgd(0.1)},
        indirect=("a",),
    )
    program = goal_of_a_learner()[0].replace(validation=validation)
    state = program.init({"w": 0.0, "a": 2.0, "none": {}}, jax.random.key(0))
    report = compare(
        program,
        state,
        {},
        adjoints=(Exact(),),
        radii=(),
        dtypes=("float32",),
        repeats=1,
    )
    (row,) = rows_of(report, supporting="none", stage="total")
    assert row.norm == 0


def test_an_adjoint_that_the_program_cannot_have_is_left_out_and_said(toy):
    program = toy.program(commit="lookahead")
    state = program.init(toy.params, jax.random.key(0))
    report = compare(
        program,
        state,
        toy.batches,
        adjoints=(Exact(), FirstOrder("current")),
        radii=(),
        dtypes=("float32",),
        repeats=1,
    )
    assert {row.adjoint for row in report.rows} == {"Exact()"}
    assert "left out: commit='lookahead' would never move" in str(report)


def test_random_numbers_that_other_types_draw_otherwise_are_told():
    def drop(moves, reads, model_state, batch, key):
        kept = jax.random.bernoulli(key, 0.5, moves["w"].shape)
        return ((kept * moves["w"] - reads["an_architecture"]) ** 2).sum()

    def judge(moves, reads, model_state, batch, key):
        return (reads["w"] ** 2).sum()

    name = "an_architecture"
    stage = Stage(
        "fit", moves=("w",), reads=(name,), loss_fn=drop, optimizer=optax.sgd(0.1)
    )
    descent = {name: optax.sgd(0.1)}
    validation = Validation(judge, reads=("w",), minimize=descent, indirect=(name,))
    program = Program((stage,), validation)
    state = program.init({"w": np.ones(3), name: np.ones(3)}, jax.random.key(0))
    options = {"adjoints": (Exact(),), "radii": (), "repeats": 0}
    told = compare(program, state, {}, dtypes=("float64", "float32"), **options)
    (line,) = told.warnings
    assert "may draw others in float32 than in float64" in line
    head, _, *rows = str(told).splitlines()[1:5]
    assert all(len(row) == len(head) for row in rows)
    assert not compare(program, state, {}, dtypes=("float64",), **options).warnings


def test_labels_of_64_bits_are_narrowed_beside_narrow_floats(x64):
    tree = {
        "label": np.arange(3),
        "image": np.ones(2),
        "key": jax.random.key(0),
        "n": 3,
    }
    narrow = cast_floats(tree, "float32")
    assert str(narrow["label"].dtype) == "int32"
    assert str(narrow["image"].dtype) == "float32"
    assert narrow["key"] is tree["key"]
    assert narrow["n"] == 3
    assert str(cast_floats(tree, "float64")["label"].dtype) == "int64"


def test_complex_numbers_keep_their_imaginary_parts(toy):
    """As in a batch of spectra."""

    def first(moves, reads, model_state, batch, key):
        out = batch["spectra"] @ moves["w"]["kernel"] * jnp.sum(reads["a"])
        return jnp.mean(jnp.abs(out - 1) ** 2)

    program = toy.program({"loss_fn": first, "data": ("spectra",)})
    state = program.init(toy.params, jax.random.key(0))
    batches = {**toy.batches, "spectra": toy.batches["aux"] * (1 + 2j)}
    grads, _ = program.hypergrad(state, batches)
    rows = compare(
        program, state, batches, adjoints=(Exact(),), radii=(), repeats=0
    ).rows
    for dtype, rtol in (("float64", 1e-12), ("float32", 1e-5), ("bfloat16", 0.1)):
        (row,) = (
            row
            for row in rows
            if (row.supporting, row.stage, row.dtype) == ("a", "total", dtype)
        )
        assert row.norm == pytest.approx(float(jnp.linalg.norm(grads["a"])), rel=1e-12)
        assert row.rel_error < rtol
