"""Floor 3: learning by passing tests: a tester makes exams, a learner passes them."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, get_args

from skillearn_jax.errors import InputError, check_choice
from skillearn_jax.framework import Learner, Program, Stage, Validation
from skillearn_jax.framework.stage import Order
from skillearn_jax.hypergrad import Adjoint, Exact, FirstOrder
from skillearn_jax.hypergrad.refusals import check_number
from skillearn_jax.skills.baseline import learn, learner_card
from skillearn_jax.skills.checks import is_left_out
from skillearn_jax.skills.curriculum import Curriculum
from skillearn_jax.skills.lpt_losses import ExamLoss, ExamLosses, ExamScores
from skillearn_jax.skills.models import LearnerModel, TesterModel
from skillearn_jax.types import Array

Ablation = Literal["none", "difficulty_only", "exam_only"]

LPT_VARIANTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "paper": MappingProxyType({}),
        "released_code": MappingProxyType(
            {"exam_loss": "mean", "stale_reads": True, "order": "alternate"}
        ),
        "released_code_first_order": MappingProxyType(
            {
                "exam_loss": "mean",
                "order": "alternate",
                "adjoint": FirstOrder(),
                "tester_adjoint": FirstOrder(),
            }
        ),
    }
)
"""Bundles of options: `learning_by_passing_tests(..., **LPT_VARIANTS["released_code"])`.

`"released_code"` is the DARTS variant of the authors' code with `--unrolled`,
`"released_code_first_order"` its P-DARTS and PC-DARTS variants. Not reproduced: gradients
of the tester that are left over from the iteration before and enter its virtual step; the
gradient of the tester's exam training that stays in C's; the tester's validation gradient in
the vector of the exam's mixed product; running statistics that move in every pass; a
virtual step without the clipping of the real one.
"""


def learning_by_passing_tests(
    learner: LearnerModel,
    tester: TesterModel,
    *,
    interaction_weight: float | Array = 1.0,
    tester_weight: float | Array = 1.0,
    exam_loss: ExamLoss = "normalized",
    exam_scores: ExamScores = "live",
    stale_reads: bool = False,
    ablation: Ablation = "none",
    order: Order = "simultaneous",
    curriculum: Curriculum | None = None,
    adjoint: Adjoint = Exact(),
    tester_adjoint: Adjoint = Exact(),
    tester_train: str = "train",
    tester_bank: str = "bank",
    axis_name: str | None = None,
) -> Program:
    """Returns the three-level program of learning by passing tests.

    With the learner's weights W and supporting sets A (an architecture, say), the
    tester's encoder E, executor X and creator C, the exam `sigma` that selects example d
    of the bank D_b with probability f(d; C, E), and per-example losses l:

        stage 1     W*(A)        = argmin_W L(A, W; D_tr)
        stage 2     E*(C), X*(C) = argmin_{E,X} L(E, X; D_tt)
                                   + gamma * mean_{d in D_b} f(d; C, E) l(E, X, d)
        validation  max_C min_A  sum_{d in D_b} f l(A, W*, d) / sum_{d in D_b} f
                                 - lambda * L(E*, X*; D_val),       f = f(d; C, E*)

    The division by the exam's size keeps C from making an exam hard by making it long;
    the tester's own validation loss keeps exams meaningful.

    Args:
        learner: the testee.
        tester: the maker of exams.
        interaction_weight: gamma, on the scale of a mean over the bank batch. At 0 the
            tester does not take its exams. It may be traced, as lambda may: `jax.vmap`
            then sweeps over many. A traced 0 keeps its term in the program, times 0.
        tester_weight: lambda. At 0 the tester's own validation loss is left out, with its
            metrics and the stream `val`.
        exam_loss: of the validation stage. `"normalized"`: as above; `"mean"`:
            mean(f l) over the bank, as the released code has it: a longer exam is harder.
        exam_scores: of stage 2, in which E meets its own selection. With G = mean(f l),

                dG/dE = mean(l df/dE) + mean(f dl/dE)

            and as l > 0 the first term makes E lower all scores: the exam shrinks, gamma's
            term and C's response with it. `"live"`: so, as in the paper. `"fixed"`: f
            is held fixed in E, not in C, which leaves the second term alone and C's mixed
            derivative mean(df/dC dl/dE). `"normalized"`: sum(f l) / sum(f), where

                dG/dE = sum((l - G) df/dE) / sum(f) + sum(f dl/dE) / sum(f);

            scaling all scores changes nothing, so nothing is gained by shrinking, and
            gamma's term keeps its size whatever the exam's; E may still shift the exam
            towards what it finds easy.
        stale_reads: as the released code: A meets the exam of the old E, and C the losses
            of the old W; neither sees how the other's learner or tester has moved.
        ablation: `"difficulty_only"`: exams are made to be hard and for nothing else: the
            tester has no executor, no stage and no validation loss, and E ascends the
            exam's loss beside C. Options of that stage and loss (gamma, lambda,
            `exam_scores`, `tester_adjoint`, `tester_train`, `tester_bank`) then have
            nothing to act on. `"exam_only"`: the tester learns from its exams alone,
            without L(E, X; D_tt).
        order: in which A and C move, see `Validation`; `"alternate"` moves A first, then E
            where it ascends, which the released code moves together with C, then C.
        curriculum: exams that grow harder as the learner passes them: f becomes f^h
            everywhere, and every step moves h. It needs
            `model_state={"curriculum": curriculum.init()}` and
            `LearnerModel.example_errors`. Default: none, h = 1.
        adjoint: of the learner's stage.
        tester_adjoint: of the tester's stage. With `FirstOrder()` C has no path through
            E* and X*, so gamma and lambda do not act on it.
        tester_train: the stream that the tester trains on; by default the learner's own
            mini-batch, as in the authors' code.
        tester_bank: the stream of the bank that the tester's own exams are taken from; by
            default the batch that the learner's exam is taken from. A tester's stage of
            several steps needs streams of its own, see the example.
        axis_name: the device axis, see `Program`. A normalised loss is one ratio over
            the whole batch: numerator and denominator are summed over devices.

    Returns:
        A program on the streams `train` (and `tester_train`), `bank` (and `tester_bank`)
        and `val`, with the sets `weights`, `encoder`, `executor`, `creator` and the
        learner's supporting sets. Validation metrics: `exam_loss`, `bank_loss` (the
        learner's plain mean loss on the same batch: an exam is difficult if its loss is
        larger), `exam_size` (mean of f), `tester_loss` and `tester_accuracy` on D_val;
        with a curriculum also `exam_error` (of the discrete exam, `exams.hold`),
        `bank_error`, `exam_hardness`, and `tester_bank_error` where capacity is measured,
        and those of `Curriculum.note_exam`.

    Raises:
        InputError: for negative weights, and options that contradict each other; while
            the program is traced, for a model function that does not return one number
            for each example.

    Example: a tester that takes 4 steps, on batches with a leading axis of 4::

        program = learning_by_passing_tests(
            learner, tester, tester_train="own_train", tester_bank="own_bank"
        )
        learn, study = program.stages
        study = dataclasses.replace(study, solver=Steps(4))
        program = program.replace(stages=(learn, study))

    References:
        Du, Zhang, Xie 2020, learning by passing tests, arXiv 2011.15102.
    """
    for name, weight in (
        ("interaction_weight", interaction_weight),
        ("tester_weight", tester_weight),
    ):
        check_number(name, weight, positive=False)
    check_choice("exam_loss", exam_loss, get_args(ExamLoss))
    check_choice("exam_scores", exam_scores, get_args(ExamScores))
    check_ablation(ablation, interaction_weight, curriculum)
    if curriculum is not None and learner.example_errors is None:
        raise InputError("curriculum= needs LearnerModel(example_errors=...)")
    tester_trains = ablation != "difficulty_only"
    losses = ExamLosses(
        learner=learner,
        tester=tester,
        interaction_weight=interaction_weight,
        tester_weight=tester_weight,
        tester_train=tester_train,
        tester_bank=tester_bank,
        exam_loss=exam_loss,
        exam_scores=exam_scores,
        stale_reads=stale_reads,
        tester_trains=tester_trains,
        curriculum=curriculum,
        axis_name=axis_name,
    )
    stages = [learn(learner, adjoint)]
    if tester_trains:
        stages.append(_study(losses, ablation == "exam_only", tester_adjoint))
    studied = [name for stage in stages[1:] for name in stage.all_data]
    own = losses.judges_tester
    judged = ("bank", "val") if own else ("bank",)
    # The executor is read for the tester's own loss, and to measure capacities.
    executor = own or (curriculum is not None and curriculum.capacity_aware)
    ascending = ("creator",) if tester_trains else ("encoder", "creator")
    moved = (
        "weights",
        *(("encoder",) if tester_trains else ()),
        *(("executor",) if executor else ()),
    )
    return Program(
        stages=tuple(stages),
        validation=Validation(
            losses.exam,
            reads=moved,
            data=judged,
            minimize=learner.supporting,
            maximize={name: tester.optimizers[name] for name in ascending},
            before=tuple(n for n in moved if n != "executor") if stale_reads else (),
            order=order,
        ),
        learners=(
            learner_card(learner, data=("train", "bank")),
            Learner(
                "tester",
                sets=("encoder", "executor", "creator") if tester_trains else ascending,
                data=tuple(dict.fromkeys((*studied, *judged))),
                task=tester.task,
            ),
        ),
        after=None if curriculum is None else curriculum.note_exam,
        axis_name=axis_name,
    )


def check_ablation(
    ablation: str, interaction_weight: float | Array, curriculum: Curriculum | None
) -> None:
    """Raises `InputError` for an ablation that takes away what another option needs."""
    check_choice("ablation", ablation, get_args(Ablation))
    if ablation == "exam_only" and is_left_out(interaction_weight):
        raise InputError(
            "ablation='exam_only' with interaction_weight=0 leaves the tester nothing to "
            "learn from; raise interaction_weight="
        )
    measured = curriculum is not None and curriculum.capacity_aware
    if ablation == "difficulty_only" and measured:
        raise InputError(
            "capacity_aware=True compares with the tester's executor, which "
            "ablation='difficulty_only' has not; set ablation='none', or "
            "capacity_aware=False"
        )


def _study(losses: ExamLosses, exam_only: bool, adjoint: Adjoint) -> Stage:
    """Returns the tester's training stage."""
    optimizers = losses.tester.optimizers
    common: dict[str, Any] = {
        "moves": ("encoder", "executor"),
        "optimizer": {name: optimizers[name] for name in ("encoder", "executor")},
        "adjoint": adjoint,
    }
    if exam_only:
        return Stage(
            "tester",
            loss_fn=losses.weighed_exam_training_loss,
            reads=("creator",),
            data=(losses.tester_bank,),
            **common,
        )
    exam: dict[str, Any] = {}
    if not is_left_out(losses.interaction_weight):
        exam = {
            "interaction": losses.exam_training_loss,
            "interaction_reads": ("creator",),
            "interaction_data": (losses.tester_bank,),
            "interaction_weight": losses.interaction_weight,
        }
    return Stage(
        "tester",
        loss_fn=losses.tester_loss,
        data=(losses.tester_train,),
        **common,
        **exam,
    )
