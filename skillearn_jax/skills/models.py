"""Floor 3: what a skill asks of a learner and of a tester, as plain functions.

Any model serves whose functions have these forms: a supernet with its architecture, an
MLP with a learned regulariser, something that is no network at all.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from skillearn_jax.errors import InputError
from skillearn_jax.framework.stage import Optimizer
from skillearn_jax.hypergrad.refusals import check_function
from skillearn_jax.types import Array, Key, LossFn, PyTree

Batch = Any
ModelState = Mapping[str, PyTree]


@dataclass(frozen=True)
class LearnerModel:
    """A learner: weights that train, supporting sets that the validation stage learns.

    Attributes:
        train_loss: the training loss in the framework's signature
            `(moves, reads, model_state, batch, key) -> loss` or `(loss, Aux)`, with
            `moves = {"weights": W}`, `reads` the supporting sets and `batch["train"]`.
        example_losses: `(weights, supporting, model_state, batch, key) -> [B]`, the loss
            of each example of a batch, for exams and validation: no regulariser, no
            new model state.
        optimizer: of the weights.
        supporting: the supporting sets, such as `"alphas"`, with their optimisers.
        task: for people.
        example_errors: like `example_losses`, `[B]`: 1 for a wrong answer, 0 for a right
            one. Only exams that grow harder (`Curriculum`) ask for it.
    """

    train_loss: LossFn
    example_losses: Callable[
        [PyTree, Mapping[str, PyTree], ModelState, Batch, Key], Array
    ]
    optimizer: Optimizer
    supporting: Mapping[str, Optimizer]
    task: str = ""
    example_errors: (
        Callable[[PyTree, Mapping[str, PyTree], ModelState, Batch, Key], Array] | None
    ) = None

    def __post_init__(self) -> None:
        check_function("the learner", "train_loss", self.train_loss)
        check_function("the learner", "example_losses", self.example_losses)
        check_function("the learner", "example_errors", self.example_errors, True)


@dataclass(frozen=True)
class TesterModel:
    """A tester: an encoder E, a target-task executor X and a test creator C.

    Its target task may be another than the learner's: `losses` reads from the batch
    whatever labels it likes.

    Attributes:
        encode: `(encoder, model_state, batch, key) -> (features, new_model_state)`;
            features for each example, and the model states that changed, by name.
        losses: `(executor, features, batch) -> [B]`, the executor's loss per example.
        scores: `(creator, features) -> [B]` in (0, 1): the probability with which each
            example is selected for the exam, f(d; C, E), as a sigmoid makes it. Logits
            are not: of negative and positive scores the exam's size may be near 0, and
            nothing can notice while the program is traced.
        optimizers: of `"encoder"`, `"executor"` and `"creator"`.
        accuracies: `(executor, features, batch) -> [B]`, 1 for a right answer; for the
            metrics.
        task: for people.
    """

    encode: Callable[[PyTree, ModelState, Batch, Key], tuple[PyTree, ModelState]]
    losses: Callable[[PyTree, PyTree, Batch], Array]
    scores: Callable[[PyTree, PyTree], Array]
    optimizers: Mapping[str, Optimizer]
    accuracies: Callable[[PyTree, PyTree, Batch], Array]
    task: str = ""

    def __post_init__(self) -> None:
        for name in ("encode", "losses", "scores", "accuracies"):
            check_function("the tester", name, getattr(self, name))
        if set(self.optimizers) != {"encoder", "executor", "creator"}:
            raise InputError(
                f"the tester has optimizers for {sorted(self.optimizers)}; there must be "
                "one for each of 'encoder', 'executor' and 'creator'"
            )


@dataclass(frozen=True)
class TaskModel:
    """A task that shares the structure of an encoder with others, under its own head.

    Attributes:
        name: of the task; its streams are `train_NAME` and `val_NAME`.
        losses: `(encoder, head, supporting, model_state, batch, key) -> ([B] losses,
            new_model_state)`: the loss of each example, no regulariser, and the model
            states that changed, by name. Class counts and heads may differ from task to
            task; `supporting` are the sets that all tasks share, an architecture say.
        description: for people.
    """

    name: str
    losses: Callable[
        [PyTree, PyTree, Mapping[str, PyTree], ModelState, Batch, Key],
        tuple[Array, ModelState],
    ]
    description: str = ""

    def __post_init__(self) -> None:
        check_function(f"task {self.name!r}", "losses", self.losses)

    @property
    def train(self) -> str:
        """The stream that it trains on."""
        return f"train_{self.name}"

    @property
    def val(self) -> str:
        """The stream that it is validated on."""
        return f"val_{self.name}"
