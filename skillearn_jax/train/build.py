"""Floor 4: from a config to a program: the learner and the tester as functions."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from skillearn_jax.data import Batch, LabelledImages
from skillearn_jax.framework import Aux, Phase, Program
from skillearn_jax.layers import draw_variables
from skillearn_jax.models import Creator, Executor, SmallEncoder, resnet_encoder
from skillearn_jax.nas.schedules import skip_dropout_rate, skip_weight
from skillearn_jax.skills import (
    LPT_VARIANTS,
    LearnerModel,
    TesterModel,
    baseline,
    learning_by_passing_tests,
)
from skillearn_jax.skills.curriculum import CURRICULUM
from skillearn_jax.train.config import Config
from skillearn_jax.train.optimizers import adam, sgd
from skillearn_jax.train.spaces import Net, space_kind
from skillearn_jax.train.stages import SearchStage, search_stage
from skillearn_jax.train.wording import counted
from skillearn_jax.types import Array, Key, ParamSets, PyTree

cross_entropy = optax.losses.softmax_cross_entropy_with_integer_labels


class SearchSetup(NamedTuple):
    """What a search steps and what it starts from.

    Attributes:
        phases: warm-up (if any) and search.
        params: fresh parameter sets.
        model_state: fresh running statistics.
    """

    phases: tuple[Phase, ...]
    params: dict[str, PyTree]
    model_state: dict[str, PyTree]


class SearchModels(NamedTuple):
    """Who learns in a search, as functions: nothing is drawn yet.

    Attributes:
        learner: the supernet.
        tester: of learning by passing tests.
        init: `key -> (parameter sets, running statistics)`.
    """

    learner: LearnerModel
    tester: TesterModel | None
    init: Callable[[Key], tuple[dict[str, PyTree], dict[str, PyTree]]]


def build_search(
    config: Config,
    data: LabelledImages,
    key: Key,
    steps_per_epoch: int,
    axis_name: str | None = None,
    stage: SearchStage | None = None,
) -> SearchSetup:
    """Returns the program of a config, in phases, with fresh parameters.

    Args:
        config: which skill, which models.
        data: for the shape of images and the number of classes.
        key: PRNG key; consumed.
        steps_per_epoch: for the schedules.
        axis_name: the device axis.
        stage: of a search in stages; by default the first.
    """
    if stage is None:
        stage = search_stage(config, 0, config.space.build())
    learner, tester, init = search_models(
        config, data, steps_per_epoch, axis_name, stage
    )
    adjoint = config.hypergrad.build()
    if tester is None:
        program = baseline(learner, adjoint=adjoint, axis_name=axis_name)
    else:
        options = {
            **config.lpt.options(),
            "adjoint": adjoint,
            "tester_adjoint": adjoint,
            **LPT_VARIANTS[config.lpt.variant],
        }
        program = learning_by_passing_tests(
            learner, tester, axis_name=axis_name, **options
        )
    params, model_state = init(key)
    return SearchSetup(phases_of(program, config), params, model_state)


def search_models(
    config: Config,
    data: LabelledImages,
    steps_per_epoch: int,
    axis_name: str | None,
    stage: SearchStage,
) -> SearchModels:
    """Returns the models of a search; the arguments are those of `build_search`."""
    supernet = make_supernet(config, stage, data.num_classes, axis_name)
    learner = _supernet_learner(supernet, config, data.name, steps_per_epoch, stage)
    images = jax.ShapeDtypeStruct((2, *data.image_shape), jnp.float32)
    tester, init_tester = None, None
    if config.skill == "lpt":
        tester, init_tester = _tester(config, data, steps_per_epoch, axis_name)

    def init(key: Key) -> tuple[dict[str, PyTree], dict[str, PyTree]]:
        weights_key, alphas_key, tester_key = jax.random.split(key, 3)
        alphas = stage.space.init_alphas(alphas_key)
        variables = draw_variables(supernet, weights_key, images, alphas, train=False)
        params = {"weights": variables["params"], "alphas": alphas}
        statistics = {"batch_stats": variables["batch_stats"], "steps": jnp.int32(0)}
        model_state: dict[str, PyTree] = {"learner": statistics}
        if init_tester is not None:
            of_tester, model_state["tester"] = init_tester(tester_key)
            params |= of_tester
            curriculum = config.lpt.curriculum.build()
            if curriculum is not None:
                model_state[CURRICULUM] = curriculum.init()
        return params, model_state

    return SearchModels(learner, tester, init)


def make_supernet(
    config: Config, stage: SearchStage, num_classes: int, axis_name: str | None
) -> Net:
    """Returns the supernet of a stage; without a head for 0 classes."""
    axis = config.parallel.statistics_axis(axis_name)
    return space_kind(config).supernet(config, stage, num_classes, axis)


def phases_of(program: Program, config: Config) -> tuple[Phase, ...]:
    """Returns warm-up, if any, and search.

    The first of them begins a stage: of the stage before, only the tester goes on, with
    fresh optimisers.
    """
    warmup, epochs = config.search.warmup_epochs, config.search.epochs
    first = program.training_only() if warmup else program
    tester = {"encoder", "executor", "creator"} & set(first.sets)
    if config.skill != "lpt":  # several tasks have an encoder too
        tester = set()
    supporting = first.validation.supporting if first.validation else {}
    goes_on = ["tester"] if tester else []
    if config.skill == "lpt" and config.lpt.curriculum.active:
        goes_on.append(CURRICULUM)
    begins: dict[str, Any] = {
        "carry": (*sorted(tester), *goes_on),
        "reset": tuple(
            name
            for name in (*(s.name for s in first.stages), *supporting)
            if name in ("tester", *tester)
        ),
    }
    if not warmup:
        return (Phase("search", program, epochs, **begins),)
    return (
        Phase("warmup", first, warmup, **begins),
        Phase("search", program, epochs - warmup),
    )


def supernet_forward(
    supernet: Net, config: Config, steps_per_epoch: int, stage: SearchStage
) -> Callable[[PyTree, PyTree, PyTree, Array, Key], tuple[Array, PyTree]]:
    """Returns the supernet as it trains: `(weights, alphas, state, images, key)`.

    Its model state counts the steps that its weights have taken, beside the running
    statistics: what changes from epoch to epoch reads the epoch from there. The result
    is what the supernet computes, and the new model state.
    """
    options = _of_epoch(config, stage)

    def forward(
        weights: PyTree, alphas: PyTree, state: PyTree, images: Array, key: Key
    ) -> tuple[Array, PyTree]:
        epoch = state["steps"] // steps_per_epoch
        current: dict[str, Any] = {
            name: values[epoch] for name, values in options.items()
        }
        outputs, changed = supernet.apply(
            {"params": weights, "batch_stats": state["batch_stats"]},
            images,
            alphas,
            train=True,
            mutable=["batch_stats"],
            rngs={"skip_dropout": key},
            **current,
        )
        return outputs, {
            "batch_stats": changed["batch_stats"],
            "steps": state["steps"] + 1,
        }

    # Stages and objectives that see batches of one shape share one trace of it; the
    # compiler puts it in where it is called, so the program is the same.
    return jax.jit(forward)


def _supernet_learner(
    supernet: Net,
    config: Config,
    dataset: str,
    steps_per_epoch: int,
    stage: SearchStage,
) -> LearnerModel:
    """Returns the supernet as a learner whose supporting set is its architecture."""
    forward = supernet_forward(supernet, config, steps_per_epoch, stage)

    def train_loss(
        moves: ParamSets,
        reads: ParamSets,
        model_state: Mapping[str, PyTree],
        batch: Mapping[str, Batch],
        key: Key,
    ) -> tuple[Array, Aux]:
        images, labels = batch["train"]["image"], batch["train"]["label"]
        logits, state = forward(
            moves["weights"], reads["alphas"], model_state["learner"], images, key
        )
        metrics = {"error": jnp.mean(logits.argmax(-1) != labels)}
        loss = jnp.mean(cross_entropy(logits, labels))
        return loss, Aux(metrics, {"learner": state})

    def logits_of(
        weights: PyTree,
        supporting: ParamSets,
        model_state: Mapping[str, PyTree],
        batch: Batch,
        key: Key,
    ) -> Array:
        logits, _ = forward(
            weights, supporting["alphas"], model_state["learner"], batch["image"], key
        )
        return logits

    def example_losses(*args: Any) -> Array:
        return cross_entropy(logits_of(*args), args[3]["label"])

    def example_errors(*args: Any) -> Array:
        return logits_of(*args).argmax(-1) != args[3]["label"]

    return LearnerModel(
        train_loss,
        example_losses,
        optimizer=sgd(config.search.weights, config.search.epochs, steps_per_epoch),
        supporting={"alphas": adam(config.search.alphas)},
        task=f"classify {dataset}; supernet of {counted(stage.cells, 'cell')}",
        example_errors=example_errors,
    )


def _of_epoch(config: Config, stage: SearchStage) -> dict[str, Array]:
    """Returns the options of the supernet that change, by name, one value an epoch."""
    search = config.search
    options = {}
    if search.auxiliary_skip != "off":
        decay = cast(Any, search.auxiliary_skip)
        options["skip_weight"] = [
            skip_weight(decay, epoch, search.epochs) for epoch in range(search.epochs)
        ]
    if stage.skip_dropout:
        options["skip_dropout_rate"] = [
            skip_dropout_rate(
                stage.skip_dropout, epoch, search.epochs, search.warmup_epochs
            )
            for epoch in range(search.epochs)
        ]
    return {name: jnp.array(values) for name, values in options.items()}


def _tester(
    config: Config,
    data: LabelledImages,
    steps_per_epoch: int,
    axis_name: str | None,
) -> tuple[TesterModel, Callable[[Key], tuple[dict[str, PyTree], PyTree]]]:
    """Returns the tester, and what draws its sets and its encoder's statistics."""
    encoder: Any
    split_over = axis_name if config.parallel.tester_optimizer == "sharded" else None
    axis = config.parallel.statistics_axis(axis_name)
    if config.tester.encoder == "small":
        encoder = SmallEncoder(axis_name=axis)
    else:
        depth = int(config.tester.encoder.removeprefix("resnet"))
        encoder = resnet_encoder(depth, stem=config.tester.stem, axis_name=axis)
    executor, creator = Executor(data.num_classes), Creator()

    def encode(
        params: PyTree, model_state: Mapping[str, PyTree], batch: Batch, key: Key
    ) -> tuple[Array, dict[str, PyTree]]:
        del key
        features, changed = encoder.apply(
            {"params": params, "batch_stats": model_state["tester"]},
            batch["image"],
            train=True,
            mutable=["batch_stats"],
        )
        return features, {"tester": changed["batch_stats"]}

    def logits(params: PyTree, features: Array) -> Array:
        return cast(Array, executor.apply({"params": params}, features))

    # Where the tester does not train, its encoder ascends with the creator.
    ascends = config.lpt.ablation == "difficulty_only"
    weights = sgd(
        config.tester.weights,
        config.search.epochs,
        steps_per_epoch,
        split_over=split_over,
        start_epoch=config.search.warmup_epochs if ascends else 0,
    )
    tester = TesterModel(
        encode=encode,
        losses=lambda x, f, batch: cross_entropy(logits(x, f), batch["label"]),
        scores=lambda c, f: cast(Array, creator.apply({"params": c}, f)),
        accuracies=lambda x, f, batch: logits(x, f).argmax(-1) == batch["label"],
        optimizers={
            "encoder": weights,
            "executor": weights,
            "creator": adam(config.tester.creator),
        },
        task=f"classify {data.name}; {config.tester.encoder} encoder",
    )

    @jax.jit
    def init(key: Key) -> tuple[dict[str, PyTree], PyTree]:
        encoder_key, executor_key, creator_key = jax.random.split(key, 3)
        images = jnp.zeros((2, *data.image_shape))
        features, variables = encoder.init_with_output(encoder_key, images, train=True)
        params = {
            "encoder": variables["params"],
            "executor": executor.init(executor_key, features)["params"],
            "creator": creator.init(creator_key, features)["params"],
        }
        return params, variables["batch_stats"]

    return tester, init
