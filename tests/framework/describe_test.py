"""`print(program)`: the levels, who reads what, where gradients flow."""

import dataclasses
import textwrap

import jax
import numpy as np
import optax

from skillearn_jax.framework import Learner, Program, Stage, Validation
from skillearn_jax.hypergrad import ConjugateGradient, FiniteDifference, FirstOrder

LEARNERS = (
    Learner("pupil", sets=("w", "a"), data=("train", "val"), task="two outputs"),
    Learner("friend", sets=("v", "c"), data=("train", "aux")),
)


def test_the_whole_text(toy):
    text = """\
        2 training stages, then validation; commit sequential
          learner pupil: two outputs
            holds    w, a
          learner friend
            holds    v, c
          stage 1  first
            active   pupil
            moves    w
            loss     _first_loss on train
            reads    a
            adjoint  Exact()
          stage 2  second
            active   friend
            moves    v
            loss     _second_loss on train
            reads    c
            interact 0.6 x _agreement on aux
             reads   w'
            adjoint  Exact()
          validation
            minimize a
            maximize c
            order    simultaneous
            loss     _objective on val
            reads    w', v'
          gradients flow
            a -> objective  (direct)
            a -> first -> second -> objective
            a -> first -> objective
            c -> objective  (direct)
            c -> second -> objective"""
    assert str(toy.program(learners=LEARNERS)) == textwrap.dedent(text)


def flow(program):
    return str(program).split("  gradients flow\n")[1].splitlines()


def test_a_cut_path_is_shown_as_cut(toy):
    program = toy.program({"adjoint": FirstOrder(at="lookahead")})
    assert flow(program) == [
        "    a -> objective  (direct)",
        "    a -> first  (cut: FirstOrder(at='lookahead'))",
        "    c -> objective  (direct)",
        "    c -> second -> objective",
    ]


def test_a_stage_further_on_that_cuts_ends_the_path_there(toy):
    program = toy.program(None, {"adjoint": FirstOrder()})
    assert flow(program) == [
        "    a -> objective  (direct)",
        "    a -> first -> objective",
        "    c -> objective  (direct)",
        "    c -> second  (cut: FirstOrder(at='current'))",
    ]


def test_a_start_that_is_cut_is_shown_as_cut(toy):
    """A solution does not remember where it was begun."""
    implicit = ConjugateGradient(3)
    program = toy.program({"reads": (), "start": {"w": "a"}, "adjoint": implicit})
    assert flow(program)[:2] == [
        "    a -> objective  (direct)",
        "    a -> first  (cut: ConjugateGradient(num_steps=3, damping=0.0))",
    ]


def test_what_is_held_fixed_is_cut_once(toy):
    program = toy.program({"detached": ("a",), "adjoint": FirstOrder()})
    cuts = [line for line in flow(program) if " a -> first" in line]
    assert cuts == ["    a -> first  (cut: held fixed)"]


def test_indirect_sets_have_no_direct_path(toy):
    program = toy.program(validation=toy.validation(indirect=("a",)))
    assert "    a -> objective  (direct)" not in flow(program)
    assert "    a -> first -> objective" in flow(program)
    assert "    c -> objective  (direct)" in flow(program)


def test_a_set_has_its_prime_only_after_a_stage_has_moved_it(toy):
    """A stage that reads what a later stage moves reads the old value."""
    program = toy.program({"reads": ("a", "v")}, {"reads": ("c",)})
    text = str(program)
    assert "    reads    a, v\n" in text
    assert "     reads   w'\n" in text
    assert "    reads    w', v'\n" in text


def test_starts_frozen_sets_commit_and_adjoints_are_shown(toy):
    stages = (
        toy.stages({"reads": ("a", "ice")})[0],
        Stage(
            "copy",
            moves=("u", "v"),
            loss_fn=lambda *args: 0.0,
            optimizer=optax.sgd(0.1),
            start={"u": "w"},
            adjoint=FiniteDifference(0.02),
        ),
    )
    validation = toy.validation(
        reads=("u", "v"), maximize={}, order="alternate", interaction=toy.agreement
    )
    program = Program(stages, validation, frozen=("ice",), commit="jacobi")
    lines = str(program).splitlines()
    assert lines[0] == "2 training stages, then validation; commit jacobi"
    assert "    moves    u from w', v" in lines
    assert "    loss     <lambda>" in lines
    assert "    adjoint  FiniteDifference(radius=0.02)" in lines
    assert "    interact 1 x _agreement" in lines

    def swept(weight):
        swept = dataclasses.replace(validation, interaction_weight=weight)
        text = str(Program(stages, swept, frozen=("ice",)))
        assert "    interact traced x _agreement" in text
        return weight

    jax.vmap(swept)(np.array([0.5, 1.0]))
    assert lines[-1] == "  frozen     ice"
    resting = dataclasses.replace(stages[1], start={"u": "ice"})
    still = str(Program((stages[0], resting), validation, frozen=("ice",)))
    assert "    moves    u from ice, v\n" in still
    # From what the stage itself moves: the old value, so without a prime.
    beside = dataclasses.replace(stages[1], start={"u": "v"})
    text = str(Program((stages[0], beside), validation, frozen=("ice",)))
    assert "    moves    u from v, v\n" in text
    # One supporting set has no order, and nothing is maximised.
    assert not any("order" in line or "maximize" in line for line in lines)
    assert "    a -> first -> copy -> objective" in lines


def test_a_program_that_only_trains(toy):
    program = Program(toy.stages()[:1], frozen=("a",))
    text = """\
        1 training stage
          stage 1  first
            moves    w
            loss     _first_loss on train
            reads    a
            adjoint  Exact()
          frozen     a"""
    assert str(program) == textwrap.dedent(text)


def test_a_callable_object_is_shown_by_its_type(toy):
    class Scored:
        def __call__(self, moves, reads, model_state, batch, key):
            return 0.0

    validation = Validation(
        Scored(), reads=("w", "v"), minimize={"a": optax.sgd(0.1)}, maximize={}
    )
    program = toy.program(
        {"loss_fn": toy.first},
        {
            "reads": (),
            "interaction": None,
            "interaction_reads": (),
            "interaction_data": (),
        },
        validation=validation,
    )
    assert "    loss     Scored\n" in str(program)
