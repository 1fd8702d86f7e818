"""`program.check`: exact, finite difference and plain autodiff, leaf by leaf."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from skillearn_jax.errors import InputError
from skillearn_jax.framework import Program, Stage, Validation, check
from skillearn_jax.framework.checking import CheckRow, unread
from skillearn_jax.hypergrad import FiniteDifference, FirstOrder

pytestmark = pytest.mark.usefixtures("quick_compilation")


def one_level(optimizer, loss_fn, supports=None, adjoint=None, objective=None):
    """One stage on `w` [2] with the supporting set `a`, which acts through it alone."""

    def sum_of_squares(moves, reads, model_state, batch, key):
        return jnp.sum((reads["w"] - 1) ** 2)

    keywords = {} if adjoint is None else {"adjoint": adjoint}
    stage = Stage(
        "only",
        moves=("w",),
        reads=("a",),
        loss_fn=loss_fn,
        optimizer=optimizer,
        **keywords,
    )
    validation = Validation(
        objective or sum_of_squares,
        reads=("w",),
        minimize={"a": optax.sgd(0.1)},
        indirect=() if objective else ("a",),
    )
    program = Program((stage,), validation)
    a = jnp.asarray([0.3, -0.4]) if supports is None else supports
    w = jnp.asarray([0.2, 0.7])
    return program, program.init({"w": w, "a": a}, jax.random.key(0))


def coupled(moves, reads, model_state, batch, key):
    return jnp.sum(jnp.sin(moves["w"] * reads["a"]) * moves["w"])


def by_adjoint(report):
    rows = {}
    for row in report.rows:
        rows.setdefault(row.adjoint, {})[row.leaf] = row
    return rows


def test_rows_of_the_toy(toy, warm):
    program = toy.program(
        {"adjoint": FiniteDifference(0.1)}, {"adjoint": FiniteDifference(0.1)}
    )
    state = warm(program, toy.params, toy.batches)
    report = program.check(state, toy.batches, radius=1e-3)
    rows = by_adjoint(report)
    assert list(rows) == ["program", "exact", "finite difference"]
    truth, _ = program.with_adjoint(FiniteDifference(1e-5)).hypergrad(
        state, toy.batches
    )
    for name, row in rows["exact"].items():
        assert row.norm == pytest.approx(np.linalg.norm(truth[name]), rel=1e-6)
        assert row.rel_error < 1e-12
        assert row.cosine == pytest.approx(1, abs=1e-12)
        fine, coarse = rows["finite difference"][name], rows["program"][name]
        # The error is quadratic in the radius: the program's own is 100 times as wide.
        assert 0 < fine.rel_error < 1e-4
        assert coarse.rel_error > 100 * fine.rel_error
        assert coarse.norm == row.norm
        assert row.warning == fine.warning == ""
    assert set(rows["exact"]) == {"a", "c"}


def test_a_programs_own_hypergradient_far_from_autodiff_is_marked():
    program, state = one_level(optax.sgd(0.1), coupled, adjoint=FiniteDifference(2.0))
    report = program.check(state, {})
    rows = by_adjoint(report)
    assert rows["program"]["a"].rel_error > 0.01
    assert "  ! far from autodiff" in str(report).splitlines()[2]
    assert rows["finite difference"]["a"].warning == ""


def test_a_set_without_numbers_has_no_row():
    program, state = one_level(
        optax.sgd(0.1), lambda moves, *rest: jnp.sum(moves["w"] ** 2), supports={}
    )
    report = program.check(state, {})
    assert report.rows == ()
    assert "adjoint" in str(report)


def test_leaves_of_one_path_are_refused():
    def loss(moves, reads, model_state, batch, key):
        return jnp.sum(moves["w"] * (reads["a"]["x/y"] + reads["a"]["x"]["y"]))

    supports = {"x/y": jnp.ones(2), "x": {"y": jnp.ones(2)}}
    program, state = one_level(optax.sgd(0.1), loss, supports)
    with pytest.raises(
        InputError, match="two leaves have the path 'a/x/y': rename one"
    ):
        program.check(state, {})


def test_every_leaf_of_a_set_has_a_row():
    def loss(moves, reads, model_state, batch, key):
        a = reads["a"]
        return jnp.sum(moves["w"] ** 2 * a["inner"]["x"]) + jnp.sum(
            moves["w"] * a["list"][0]
        )

    supports = {"inner": {"x": jnp.ones(2)}, "list": [jnp.ones(2)]}
    program, state = one_level(optax.sgd(0.1), loss, supports)
    rows = by_adjoint(program.check(state, {}))
    assert set(rows["program"]) == {"a/inner/x", "a/list/0"}


def test_first_order_is_seen_to_be_far_from_the_truth():
    def objective(moves, reads, model_state, batch, key):
        return jnp.sum((reads["w"] - 1) ** 2) + 0.01 * jnp.sum(jnp.sin(moves["a"]))

    program, state = one_level(
        optax.sgd(0.3), coupled, adjoint=FirstOrder(), objective=objective
    )
    rows = by_adjoint(program.check(state, {}))
    assert rows["program"]["a"].rel_error > 0.1
    assert rows["exact"]["a"].rel_error < 1e-14
    truth = program.hypergrad(state, {})[0]["a"]
    exact = rows["exact"]["a"].norm
    assert rows["program"]["a"].norm == exact
    assert np.linalg.norm(truth) != pytest.approx(exact, rel=0.1)


def half_dead(moves, reads, model_state, batch, key):
    """The second coordinate has no gradient, and autodiff cannot see that it has none."""
    return jnp.sum(moves["w"] ** 2 * reads["a"] * jnp.asarray([1.0, 0.0]))


def test_adam_without_eps_root_is_reported_as_not_finite():
    program, state = one_level(optax.adam(0.1), half_dead)
    report = program.check(state, {})
    assert all("eps_root" in row.warning for row in report.rows)
    assert "! not finite; a common cause is Adam without eps_root > 0" in str(report)


def test_adam_with_eps_root_is_not():
    program, state = one_level(optax.adam(0.1, eps_root=1e-8), half_dead)
    report = program.check(state, {})
    rows = by_adjoint(report)
    assert rows["exact"]["a"].rel_error < 1e-12
    assert all(row.warning == "" for row in report.rows)
    assert "!" not in str(report)


def test_a_leaf_that_no_gradient_reaches_is_reported():
    def loss(moves, reads, model_state, batch, key):
        return jnp.sum(moves["w"] ** 2 * reads["a"]["used"])

    supports = {"used": jnp.ones(2), "dead": jnp.ones(3)}
    program, state = one_level(optax.sgd(0.1), loss, supports)
    report = program.check(state, {})
    for row in report.rows:
        dead = row.leaf == "a/dead"
        assert row.warning.startswith("zero by autodiff") == dead
        assert dead or row.warning == ""
        if dead:
            assert (row.norm, row.rel_error, row.cosine) == (0, 0, 1)
    assert str(report).count("! zero by autodiff: no gradient arrives here") == 3


def test_a_gradient_of_zero_is_no_sign_of_adam():
    """At `w = 0`, where the difference errs and nothing can be told of the optimiser."""

    def loss(moves, reads, model_state, batch, key):
        return jnp.sum(jnp.sin(reads["a"]) * moves["w"] ** 3)

    program, state = one_level(optax.sgd(0.1), loss)
    state = state._replace(params={**state.params, "w": jnp.zeros(2)})
    report = program.check(state, {})
    for row in report.rows:
        assert row.norm == 0
        assert row.warning.startswith("zero by autodiff")
    assert [row.rel_error for row in report.rows] == [0, 0, np.inf]
    assert report.warnings == ()
    broken = report.rows[0]._replace(rel_error=float("nan"))
    assert broken.warning.startswith("not finite")


def test_a_set_that_the_objective_is_given_and_never_reads_is_named():
    def reads_it(moves, reads, model_state, batch, key):
        return jnp.sum((reads["w"] - 1) ** 2) + 0 * jnp.sum(moves["a"])

    def does_not(moves, reads, model_state, batch, key):
        return jnp.sum((reads["w"] - 1) ** 2)

    @jax.jit
    def nor_does_this(moves, reads, model_state, batch, key):
        return jnp.sum((reads["w"] - 1) ** 2)

    found = {}
    # The last one says so: indirect=.
    for objective in (reads_it, does_not, nor_does_this, None):
        program, state = one_level(optax.sgd(0.1), coupled, objective=objective)
        found[objective] = unread(program, state, {})
        warnings = program.check(state, {}).warnings
        told = "the objective never reads 'a': name it in Validation(indirect=...)"
        assert warnings == (told,) * len(found[objective])
    assert list(found.values()) == [(), ("a",), ("a",), ()]
    program, state = one_level(
        optax.sgd(0.1),
        lambda moves, *_: jnp.sum(moves["w"] ** 2),
        supports={},
        objective=does_not,
    )
    assert unread(program, state, {}) == ()  # it has nothing that could be read


def test_a_warning_of_distance_is_for_the_programs_own_hypergradient():
    row = CheckRow("program", "a", norm=1.0, rel_error=0.02, cosine=1.0)
    assert row.warning.startswith("far from autodiff")
    assert row._replace(rel_error=0.01).warning == ""
    for adjoint in ("exact", "finite difference"):
        assert row._replace(adjoint=adjoint).warning == ""


def test_the_table():
    program, state = one_level(optax.sgd(0.1), coupled)
    report = check(program, state, {})
    lines = str(report).splitlines()
    assert lines[0].split() == ["adjoint", "leaf", "norm", "rel.", "error", "cosine"]
    assert set(lines[1]) == {"-"}
    assert len(lines) == 2 + len(report.rows) == 5
    assert lines[3].startswith("exact             a")
    assert lines[3].endswith("1.000000")


def test_check_needs_a_validation_stage(toy):
    program = Program(toy.stages(), frozen=("a", "c"))
    state = program.init(toy.params, jax.random.key(0))
    with pytest.raises(InputError, match="without a validation stage"):
        program.check(state, toy.batches)


def test_half_precision_is_compared_in_double():
    """In float16 the square of a small gradient is zero, and a cosine of equals 0.95."""
    program, state = one_level(optax.sgd(0.1), coupled)
    small = program.validation.loss_fn
    program = program.replace(
        validation=dataclasses.replace(
            program.validation, loss_fn=lambda *args: 1e-4 * small(*args)
        )
    )
    state = jax.tree.map(
        lambda leaf: (
            leaf.astype(jnp.float16)
            if jnp.issubdtype(leaf.dtype, jnp.floating)
            else leaf
        ),
        state,
    )
    grads, _ = program.hypergrad(state, {})
    want = np.linalg.norm(np.asarray(grads["a"], float))
    assert 0 < want < 1e-4
    row = by_adjoint(program.check(state, {}))["exact"]["a"]
    assert row.norm == pytest.approx(want, rel=1e-2)
    assert (row.rel_error, row.warning) == (0, "")
    assert row.cosine == pytest.approx(1, abs=1e-12)
