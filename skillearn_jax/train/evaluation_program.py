"""Floor 4: the training of a fixed network as a program: its loss and its optimiser."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from skillearn_jax.data import Batch, Mixing
from skillearn_jax.framework import Aux, Program, Stage
from skillearn_jax.nas import Outputs
from skillearn_jax.train.build import cross_entropy
from skillearn_jax.train.config import Config
from skillearn_jax.train.optimizers import sgd
from skillearn_jax.train.spaces import Net
from skillearn_jax.types import Array, Key, ParamSets, PyTree


def training_program(
    network: Net, config: Config, steps_per_epoch: int, axis_name: str | None
) -> Program:
    """Returns the training of a fixed network: one stage, no validation.

    Args:
        network: with or without an auxiliary head.
        config: of the run.
        steps_per_epoch: batches of an epoch.
        axis_name: the device axis.
    """
    evaluation = config.evaluation
    mixing = Mixing(evaluation.mixup, evaluation.cutmix)

    def smoothed(logits: Array, labels: Array) -> Array:
        """-sum_c q_c log p_c with q = (1 - eps) one_hot + eps / C."""
        plain, share = cross_entropy(logits, labels), evaluation.label_smoothing
        if not share:
            return plain
        return (1 - share) * plain - share * jnp.mean(jax.nn.log_softmax(logits), -1)

    def loss_of(logits: Array, batch: Batch) -> Array:
        own = smoothed(logits, batch["label"])
        if mixing:
            other, share = smoothed(logits, batch["other_label"]), batch["share"]
            own = share * own + (1 - share) * other
        return jnp.mean(own)

    def train_loss(
        moves: ParamSets,
        reads: ParamSets,
        model_state: Mapping[str, PyTree],
        batch: Mapping[str, Any],
        key: Key,
    ) -> tuple[Array, Aux]:
        del reads
        train = batch["train"]
        if mixing:
            key, mixing_key = jax.random.split(key)
            train = mixing.apply(train, mixing_key, axis_name)
        images = train["image"]
        if evaluation.compute == "bfloat16":
            images = images.astype(jnp.bfloat16)
        # Without a rate there is no drop path in the compiled program.
        rates = {}
        if evaluation.drop_path:
            rates["drop_path_rate"] = evaluation.drop_path * batch["progress"]
        outputs, changed = network.apply(
            {"params": moves["weights"], "batch_stats": model_state["network"]},
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"drop_path": key},
            **rates,
        )
        logits = outputs.logits if isinstance(outputs, Outputs) else outputs
        loss = loss_of(logits, train)
        if isinstance(outputs, Outputs):
            loss += evaluation.auxiliary_weight * loss_of(outputs.auxiliary, train)
        metrics = {"error": 100 * jnp.mean(logits.argmax(-1) != train["label"])}
        return loss, Aux(metrics, {"network": changed["batch_stats"]})

    stage = Stage(
        "network",
        moves=("weights",),
        loss_fn=train_loss,
        data=("train", "progress"),
        optimizer=sgd(
            evaluation.weights,
            evaluation.epochs,
            steps_per_epoch,
            evaluation.accumulate,
        ),
    )
    return Program(stages=(stage,), axis_name=axis_name)
