"""Programs that cannot be meant are refused, with the names of what is wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from skillearn_jax.errors import InputError
from skillearn_jax.framework import Learner, Program, Stage, Validation
from skillearn_jax.framework.graph import active_learners, paths
from skillearn_jax.hypergrad import (
    Adjoint,
    Autodiff,
    FiniteDifference,
    FirstOrder,
    Neumann,
    Passes,
    Steps,
)

SGD = optax.sgd(0.1)


class Held(Adjoint):
    """An adjoint of a user's own: nothing passes to the reads."""

    passes = Passes(reads=False)

    def attach(self, step):
        return step.forward_held


def square(moves, reads, model_state, batch, key):
    return sum(jnp.sum(value**2) for value in moves.values())


def stage(name="first", **changes):
    keywords = {"moves": ("w",), "loss_fn": square, "optimizer": SGD}
    return Stage(name, **{**keywords, **changes})


def validation(**changes):
    keywords = {"reads": ("w",), "minimize": {"a": SGD}}
    return Validation(square, **{**keywords, **changes})


def program(stages=None, *, checks=None, **changes):
    keywords = {"stages": stages or (stage(),), "validation": validation()}
    if checks is not None:
        keywords["validation"] = validation(**checks)
    return Program(**{**keywords, **changes})


# Names.


def test_the_toy_itself_is_accepted():
    assert program().sets == ("w", "a")


def test_a_program_without_stages_is_refused():
    with pytest.raises(InputError, match="a tuple of training stages, at least one"):
        Program(())
    with pytest.raises(InputError, match="a tuple of training stages, at least one"):
        Program(3)
    with pytest.raises(InputError, match=r"stages has a Validation; .* validation="):
        Program((stage(), program().validation))


def test_an_adjoint_of_ones_own_says_what_it_passes():
    held = stage(reads=("a",), adjoint=Held())
    with pytest.raises(InputError, match="supporting set 'a' has no path to the obj"):
        program((held,), checks={"indirect": ("a",)})
    assert paths(program((held,)), "a") == [()]
    with pytest.raises(InputError, match="of a class that extends Adjoint"):
        stage(adjoint=object())


def test_an_unknown_commit_is_refused():
    with pytest.raises(
        InputError, match="commit='both'; it must be one of 'sequential', 'j"
    ):
        program(commit="both")


def test_duplicated_stage_names_are_refused():
    with pytest.raises(InputError, match="2 stages are named 'first'"):
        program((stage(), stage(moves=("v",))))


def test_a_stage_named_validation_is_refused():
    with pytest.raises(InputError, match="may not be named 'validation'"):
        program((stage("validation"),))


# Owners.


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (
            {"checks": {"minimize": {"w": SGD}, "reads": ()}},
            r"\['w'\] are both moved by a training stage and by the validation stage",
        ),
        (
            {"checks": {"maximize": {"w": SGD}, "reads": ()}},
            r"\['w'\] are both moved by a training stage and by the validation stage",
        ),
        (
            {"frozen": ("w",)},
            r"\['w'\] are both moved by a training stage and frozen",
        ),
        (
            {"frozen": ("a",)},
            r"\['a'\] are both moved by the validation stage and frozen",
        ),
    ],
)
def test_every_set_has_one_owner(changes, match):
    with pytest.raises(InputError, match=match):
        program(**changes)


# Reads.


@pytest.mark.parametrize(
    "changes",
    [{"reads": ("ghost",)}, {"interaction_reads": ("ghost",), "interaction": square}],
)
def test_a_read_that_nobody_moves_is_refused(changes):
    match = r"'first' reads the set 'ghost', which nobody moves; known are \['a', 'w'\]"
    with pytest.raises(InputError, match=match):
        program((stage(**changes),))
    match = "'validation' reads the set 'ghost', which nobody moves"
    with pytest.raises(InputError, match=match):
        program(checks={**changes})


def test_a_stage_that_moves_and_reads_a_set_is_refused():
    match = r"stage 'first' both moves and reads \['w'\]"
    with pytest.raises(InputError, match=match):
        program((stage(reads=("w", "a")),))


def test_a_validation_that_reads_its_own_set_is_refused():
    match = r"validation reads its own supporting sets \['a'\]"
    with pytest.raises(InputError, match=match):
        program(checks={"reads": ("w", "a")})


def test_a_frozen_set_that_nobody_reads_is_refused():
    with pytest.raises(InputError, match=r"frozen sets \['ice'\] are read by nobody"):
        program(frozen=("ice",))
    read = program((stage(reads=("ice",)),), frozen=("ice",))
    assert read.sets == ("w", "a", "ice")


# Starts.


def test_a_start_of_a_set_that_is_not_moved_is_refused():
    match = r"stage 'first' has start={'v': ...}, but moves \['w'\]"
    with pytest.raises(InputError, match=match):
        program((stage(start={"v": "w"}),))


def test_a_start_from_a_set_that_nobody_moves_is_refused():
    match = "stage 'first' starts 'w' from 'ghost', which nobody moves; known are"
    with pytest.raises(InputError, match=match):
        program((stage(start={"w": "ghost"}),))


def test_a_start_from_a_supporting_set_is_a_path():
    learned = {"checks": {"indirect": ("a",)}}
    for at in ("current", "lookahead"):
        begun = stage(start={"w": "a"}, adjoint=FirstOrder(at=at))
        assert paths(program((begun,), **learned), "a") == [("first",)]
    cut = stage(start={"w": "a"}, adjoint=Neumann())
    with pytest.raises(InputError, match="supporting set 'a' has no path to the obj"):
        program((cut,), **learned)


def test_a_stage_may_start_from_a_frozen_set():
    made = program((stage(start={"w": "ice"}),), frozen=("ice",))
    assert "ice" in made.sets


@pytest.mark.parametrize(
    "source", [np.zeros(5), np.zeros(3, np.float16), {"kernel": np.zeros(3)}]
)
def test_a_start_from_a_set_of_another_form_is_refused(source):
    made = program((stage(start={"w": "ice"}),), frozen=("ice",))
    match = (
        r"starts 'w' from 'ice', but their structures, shapes or types differ: float"
    )
    with pytest.raises(InputError, match=match):
        made.init({"w": np.zeros(3), "a": 1.0, "ice": source}, jax.random.key(0))


# Streams.


def test_stages_that_take_different_numbers_of_batches_share_no_stream():
    match = r"'train' 'first' takes 4 batches, 'second' takes one batch a step"
    second = stage("second", moves=("v",), data=("train",))
    with pytest.raises(InputError, match=match):
        program((stage(data=("train",), solver=Steps(4)), second))
    with pytest.raises(InputError, match="'validation' takes one batch"):
        program(
            (stage(data=("train",), solver=Steps(4)),),
            checks={
                "interaction": square,
                "interaction_data": ("train",),
            },
        )
    same = stage("second", moves=("v",), data=("train",), solver=Steps(4, segment=1))
    assert program((stage(data=("train",), solver=Steps(4)), same))


# Commits.


def test_jacobi_with_a_shared_set_is_refused():
    stages = (stage(reads=("a",)), stage("second"))
    match = r"commit='jacobi' would lose steps: \['w'\] are moved by several stages"
    with pytest.raises(InputError, match=match):
        program(stages, commit="jacobi")
    assert program(stages, commit="sequential")


def test_lookahead_without_a_virtual_step_is_refused():
    current = stage("still", adjoint=FirstOrder(at="current"))
    with pytest.raises(InputError, match="would never move stage 'still'"):
        program((current,), commit="lookahead")
    ahead = stage("still", adjoint=FirstOrder(at="lookahead"))
    assert program((ahead,), commit="lookahead")


# Learners.


def test_a_learner_with_a_set_that_nobody_moves_is_refused():
    learner = Learner("pupil", sets=("w", "ghost"))
    match = "learner 'pupil' has the set 'ghost', which nobody moves"
    with pytest.raises(InputError, match=match):
        program(learners=(learner,))


@pytest.mark.parametrize(
    "learners", [Learner("pupil", sets=("w",)), ("pupil",), "pupil"]
)
def test_learners_are_a_tuple_of_learners(learners):
    match = r"learners=.*'?pupil'?.*; it must be a tuple of Learner\(...\), .*: \(learn"
    with pytest.raises(InputError, match=match):
        program(learners=learners)


def test_a_stream_that_no_learner_has_is_refused():
    learner = Learner("pupil", sets=("w", "a"), data=("train",))
    match = r"'first' reads the stream 'aux', which no learner has; .* \['train'\]"
    with pytest.raises(InputError, match=match):
        program((stage(data=("train", "aux")),), learners=(learner,))
    with pytest.raises(InputError, match="'validation' reads the stream 'val', which"):
        program(checks={"data": ("val",)}, learners=(learner,))
    # Learners that declare no data at all check none.
    silent = Learner("pupil", sets=("w", "a"))
    assert program(checks={"data": ("val",)}, learners=(silent,))


def test_a_training_loss_reads_the_streams_of_its_learner():
    one = Learner("one", sets=("w",), data=("train",))
    two = Learner("two", sets=("v",), data=("aux",))
    stages = (stage(data=("train",)), stage("second", moves=("v",), data=("train",)))
    match = r"stage 'second' reads the stream 'train', which is not of 'two'"
    with pytest.raises(InputError, match=match):
        program(stages, checks={"data": ("aux",)}, learners=(one, two))
    meeting = stage(
        "second", moves=("v",), interaction=square, interaction_data=("train",)
    )
    stages = (stage(data=("train",)), meeting)
    assert program(stages, checks={"data": ("aux",)}, learners=(one, two))


def test_a_stream_of_a_learner_that_nothing_reads_is_refused():
    learner = Learner("one", sets=("w",), data=("train", "trian"))
    match = (
        r"learners have the streams \['trian'\], which nothing reads; .* \['train'\]"
    )
    with pytest.raises(InputError, match=match):
        program((stage(data=("train",)),), learners=(learner,))


def test_a_training_loss_that_reads_two_learners_is_refused():
    learners = (Learner("one", sets=("w",)), Learner("two", sets=("v",)))
    stages = (stage(), stage("second", moves=("v",), reads=("w",)))
    match = r"stage 'second' reads the learners \['one', 'two'\]; .* interaction_reads="
    with pytest.raises(InputError, match=match):
        program(stages, learners=learners)
    meeting = stage(
        "second", moves=("v",), interaction=square, interaction_reads=("w",)
    )
    accepted = program((stage(), meeting), learners=learners)
    assert active_learners(accepted, meeting) == ("two",)


def test_learners_may_share_a_supporting_set():
    """Interleaving: K learners, one architecture."""
    learners = (Learner("one", sets=("w", "a")), Learner("two", sets=("v", "a")))
    stages = (stage(reads=("a",)), stage("second", moves=("v",), reads=("a",)))
    made = program(stages, learners=learners)
    assert [active_learners(made, s) for s in stages] == [("one",), ("two",)]


# Paths.


def chain(*adjoints, last_reads=("v",), **changes):
    """`a` -> first (w) -> second (v, reads w) -> objective (reads v); `a` indirect."""
    first, second = adjoints
    stages = (
        stage(reads=("a",), adjoint=first),
        stage("second", moves=("v",), reads=("w",), adjoint=second),
    )
    checks = {"reads": last_reads, "indirect": ("a",)}
    return program(stages, checks=checks, **changes)


@pytest.mark.parametrize("exact", [Autodiff(), FiniteDifference()])
def test_paths_are_chains_of_stages(exact):
    assert paths(chain(exact, exact), "a") == [("first", "second")]
    both = chain(exact, exact, last_reads=("w", "v"))
    assert paths(both, "a") == [("first", "second"), ("first",)]


def test_of_many_paths_the_first_are_printed():
    """Twelve stages, each of which reads all before: 2^11 ways from the first."""
    names = [f"s{i}" for i in range(12)]
    stages = tuple(
        stage(name, moves=(name,), reads=("a",) if i == 0 else tuple(names[:i]))
        for i, name in enumerate(names)
    )
    checks = {"reads": (names[-1],), "indirect": ("a",)}
    built = program(stages, checks=checks)
    assert len(paths(built, "a")) == 2**10
    assert paths(built, "a", 3) == paths(built, "a")[:3]
    text = str(built)
    assert text.count("a -> s0 -> ") == 40
    assert "    a -> ...  (and more ways)" in text


def test_the_empty_path_is_the_direct_one():
    assert paths(program(), "a") == [()]
    assert paths(program((stage(reads=("a",)),)), "a") == [(), ("first",)]
    held = program((stage(reads=("a",)),), checks={"detached": ("w",)})
    assert paths(held, "a") == [()]


@pytest.mark.parametrize(
    "adjoints",
    [
        (FirstOrder(), Autodiff()),
        (Autodiff(), FirstOrder()),
        (FirstOrder("lookahead"), FirstOrder("lookahead")),
    ],
)
def test_an_indirect_set_behind_first_order_stages_has_no_path(adjoints):
    match = "supporting set 'a' has no path to the objective"
    with pytest.raises(InputError, match=match):
        chain(*adjoints)


def test_an_indirect_set_that_nobody_reads_has_no_path():
    with pytest.raises(InputError, match="'a' has no path to the objective"):
        program(checks={"indirect": ("a",)})


def test_an_indirect_set_whose_stage_the_objective_ignores_has_no_path():
    stages = (stage(reads=("a",)), stage("second", moves=("v",)))
    with pytest.raises(InputError, match="'a' has no path to the objective"):
        program(stages, checks={"reads": ("v",), "indirect": ("a",)})


def test_a_result_that_a_later_stage_starts_over_has_no_path():
    stages = (
        stage(reads=("a",)),
        stage("other", moves=("v",)),
        stage("again", start={"w": "v"}),
    )
    with pytest.raises(InputError, match="'a' has no path to the objective"):
        program(stages, checks={"indirect": ("a",)})


def test_paths_follow_starts_and_sets_that_move_twice():
    stages = (
        stage(reads=("a",)),
        stage("copy", moves=("v",), start={"v": "w"}),
        stage("again", moves=("v",), adjoint=FirstOrder(at="current")),
    )
    follow = program(stages, checks={"reads": ("v",), "indirect": ("a",)})
    assert paths(follow, "a") == [("first", "copy", "again")]
    ahead = stage("again", moves=("v",), adjoint=FirstOrder(at="lookahead"))
    follow = follow.replace(stages=(*stages[:2], ahead))
    assert paths(follow, "a") == [("first", "copy", "again")]
    fixed = stage("again", moves=("v",), adjoint=Neumann())
    with pytest.raises(InputError, match="'a' has no path to the objective"):
        follow.replace(stages=(*stages[:2], fixed))


def test_an_interaction_is_a_path_too():
    stages = (
        stage(interaction=square, interaction_reads=("a",)),
        stage("second", moves=("v",)),
    )
    read = {"interaction": square, "interaction_reads": ("w",), "reads": ()}
    met = program(stages, checks={**read, "indirect": ("a",)})
    assert paths(met, "a") == [("first",)]


@pytest.mark.parametrize("kept", [True, False])
def test_a_path_is_there_exactly_if_a_gradient_is(kept):
    """The graph's word against the numbers, for a direct and a cut program."""

    def pull(moves, reads, model_state, batch, key):
        return sum(
            jnp.sum(jnp.sin(m) * r) for m in moves.values() for r in reads.values()
        )

    def last(moves, reads, model_state, batch, key):
        return jnp.sum(reads["v"] ** 2)

    adjoint = Autodiff() if kept else FirstOrder(at="lookahead")
    stages = (
        stage(reads=("a",), loss_fn=pull, adjoint=adjoint),
        stage("second", moves=("v",), reads=("w",), loss_fn=pull),
    )
    direct = Validation(last, reads=("v",), minimize={"a": SGD})
    built = Program(stages, direct)
    params = {name: jnp.full(2, 0.3) for name in ("w", "v", "a")}
    state = built.init(params, jax.random.key(0))
    response = built.hypergrad(state, {})[1].response["a"]
    assert paths(built, "a") == ([(), ("first", "second")] if kept else [()])
    assert bool(jnp.any(response != 0)) == kept


# Parameters and batches.


@pytest.mark.parametrize("name", ["w", "a"])
def test_sets_that_move_hold_floats(name):
    params = {"w": jnp.ones(2), "a": jnp.ones(2)}
    wrong = {"scale": jnp.ones(2), "count": jnp.arange(2)}
    match = rf"params\['{name}'\]\['count'\] is int(32|64); what is moved holds"
    with pytest.raises(InputError, match=match):
        program().init({**params, name: wrong}, jax.random.key(0))


@pytest.mark.parametrize("name", ["w", "a", "ice"])
def test_a_set_that_is_none_is_refused(name):
    built = program(checks={"reads": ("w", "ice")}, frozen=("ice",))
    params = {"w": 1.0, "a": 1.0, "ice": 1.0}
    with pytest.raises(InputError, match=rf"params\['{name}'\] is None; a set holds"):
        built.init({**params, name: None}, jax.random.key(0))


def test_missing_and_unknown_params_are_refused():
    key = jax.random.key(0)
    match = r"params lack the sets \['a'\]; given are \['w'\]"
    with pytest.raises(InputError, match=match):
        program().init({"w": jnp.ones(2)}, key)
    params = {name: jnp.ones(2) for name in ("w", "a", "stray")}
    match = r"nobody moves or reads the sets \['stray'\]; .* \['a', 'w'\]"
    with pytest.raises(InputError, match=match):
        program().init(params, key)


def test_a_missing_stream_is_refused_while_tracing():
    built = program(
        (stage(data=("train",), interaction=square, interaction_data=("aux",)),),
        checks={"data": ("val",)},
    )
    state = built.init({"w": jnp.ones(2), "a": jnp.ones(2)}, jax.random.key(0))
    ones = jnp.ones(2)
    match = r"'first' reads the stream 'aux', but no batch provides it; .* \['train'\]"
    with pytest.raises(InputError, match=match):
        jax.jit(built.step)(state, {"train": ones})
    match = "'validation' reads the stream 'val', but no batch provides it"
    for function in (built.step, built.hypergrad):
        with pytest.raises(InputError, match=match):
            jax.eval_shape(function, state, {"train": ones, "aux": ones})
