"""Floor 4: the exams of a search: the bank, the transcript, when they are over."""

from collections.abc import Iterable, Mapping
from typing import Any

from skillearn_jax.data import STREAM, TrainingImages, load, to_common_shape
from skillearn_jax.errors import InputError
from skillearn_jax.framework import State
from skillearn_jax.skills import LPT_VARIANTS
from skillearn_jax.skills.curriculum import CURRICULUM
from skillearn_jax.skills.lpt import check_ablation
from skillearn_jax.train.config import Config
from skillearn_jax.train.fields import arguments_as_flags, check_unread
from skillearn_jax.train.images import OneSet, flags_of_data
from skillearn_jax.train.workdir import Workdir

EXAMS = "exams.jsonl"
"""The transcript: one line for each exam of a curriculum, as it was taken."""

_TRANSCRIPT = {
    "hardness": "validation/exam_hardness",
    "exam_error": "validation/exam_error",
    "bank_error": "validation/bank_error",
    "running_error": "curriculum/error",
    "capacity": "curriculum/capacity",
}


def check_exams(config: Config) -> None:
    """Raises `InputError` for options of learning by passing tests that disagree."""
    options = config.lpt
    if config.search.stop == "curriculum" and not (
        config.skill == "lpt" and options.curriculum.active
    ):
        raise InputError(
            "config.search.stop is 'curriculum', but there is none: set "
            "--config.lpt.curriculum.active, or --config.search.stop=epochs"
        )
    if config.skill != "lpt":
        if options.bank:
            raise InputError(
                f"config.lpt.bank is {options.bank!r}, but {config.skill} has no exams: set "
                "--config.lpt.bank=, or --config.skill=lpt"
            )
        return
    if options.bank_dir and not options.bank:
        raise InputError(
            f"config.lpt.bank_dir is {options.bank_dir!r}, but which data set lies there "
            "is not said: set --config.lpt.bank, to npz or folder for instance"
        )
    if options.bank.startswith(STREAM):
        raise InputError(
            f"config.lpt.bank is {options.bank!r}, but the images of a bank are held in "
            "memory: set --config.lpt.bank to another source"
        )
    with arguments_as_flags("lpt.curriculum"):
        curriculum = options.curriculum.build()
    with arguments_as_flags("lpt", capacity_aware="lpt.curriculum.capacity_aware"):
        check_ablation(options.ablation, options.interaction_weight, curriculum)
    decided = [n for n in LPT_VARIANTS[options.variant] if n in options.options()]
    why = f"config.lpt.variant is {options.variant!r}, which decides it"
    check_unread(config, "lpt", decided, why, "--config.lpt.variant=paper")
    adjoint = config.hypergrad.adjoint
    if "adjoint" in LPT_VARIANTS[options.variant] and adjoint != "first_order":
        raise InputError(
            f"config.hypergrad.adjoint is {adjoint!r}, but the variant "
            f"{options.variant!r} is of first order: set "
            "--config.hypergrad.adjoint=first_order"
        )
    if options.ablation == "difficulty_only":
        unread = ("interaction_weight", "tester_weight", "exam_scores")
        why = "a tester that does not train reads it not"
        check_unread(config, "lpt", unread, why, "--config.lpt.ablation=none")
    no_exams = options.interaction_weight == 0
    where, way_out = "in first order", "--config.hypergrad.adjoint=exact"
    if no_exams:
        where = "where the tester takes no exams"
        way_out = "--config.lpt.interaction_weight above 0"
        why = "a tester that takes no exams reads it not"
        check_unread(config, "lpt", ("exam_scores",), why, way_out)
    weight = options.tester_weight
    if (no_exams or adjoint == "first_order") and weight not in (0, 1):
        raise InputError(
            f"config.lpt.tester_weight is {weight:g}, but {where} nothing moves by it, since "
            f"the test creator has no path through the tester: set {way_out}, or "
            "--config.lpt.tester_weight to 1, or to 0, which leaves the tester's validation "
            "loss out"
        )


def load_bank(config: Config, data: OneSet) -> TrainingImages | None:
    """Returns the data set that exams are drawn from; none for the validation set.

    Its images are brought to the shape of the learner's and normalised like them, and
    its classes are those of the learner, counted alike.

    Raises:
        InputError: for a bank that cannot be read, or does not fit the learner.
    """
    name = config.lpt.bank
    if not name:
        return None
    height, width, channels = data.image_shape
    with flags_of_data("--config.lpt.bank", "--config.lpt.bank_dir"):
        bank = load(
            name,
            config.lpt.bank_dir,
            heldout_fraction=config.data.heldout_fraction,
            size=f"{height}x{width}",
        )
    if bank.num_classes > data.num_classes or bank.image_shape[2] not in (1, channels):
        raise InputError(
            f"the bank {name!r} has {bank.num_classes} classes and "
            f"{bank.image_shape[2]} channels; the learner knows {data.num_classes} "
            f"classes and {channels} channels: set --config.lpt.bank"
        )
    # A folder without some of the learner's classes counts those behind them otherwise.
    names = zip(data.class_names, bank.class_names, strict=False)
    for i, (ours, theirs) in enumerate(names):
        if ours != theirs:
            raise InputError(
                f"the bank {name!r} calls class {i} {theirs!r}, the learner {ours!r}; its "
                "classes must be those of the learner, in their order: set "
                "--config.lpt.bank"
            )
    if bank.image_shape != data.image_shape and height != width:
        raise InputError(
            f"the learner's images have {height}x{width} pixels, and a bank is brought to "
            "a square only: set --config.data.image_size"
        )
    if bank.train.size < config.data.batch_size:
        raise InputError(
            f"the bank {name!r} has {bank.train.size} images, fewer than a batch of "
            f"{config.data.batch_size}: set --config.data.batch_size"
        )
    if bank.image_shape != data.image_shape:
        (bank,) = to_common_shape([bank], height, channels)
    return bank.training


def append_exams(workdir: Workdir, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes the exams among rows of metrics to the transcript.

    Each line has the step and the epoch, the hardness of the exam, the share of the bank
    in it (the hardest questions, `skills.exams.hold`), the error rates on it and on the
    whole batch of the bank, the running error after it, whether that is a pass, and
    the learner's capacity after it.
    """
    lines = [
        {
            "step": row["step"],
            "epoch": row["epoch"],
            **{name: row[metric] for name, metric in _TRANSCRIPT.items()},
            "share": 1 / (1 + row["validation/exam_hardness"]),
            "passed": bool(row["curriculum/passed"]),
        }
        for row in rows
        if "curriculum/error" in row
    ]
    if lines:
        workdir.append_rows(lines, EXAMS)


def exams_are_over(config: Config, state: State) -> bool:
    """Returns whether the running error on exams has come to rest."""
    curriculum = config.lpt.curriculum.build()
    assert curriculum is not None
    return bool(curriculum.finished(state.model_state[CURRICULUM]))
