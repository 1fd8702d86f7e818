"""Floor 4: what the exam of a finished search holds, on the whole bank."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from skillearn_jax.data import Examples, Stream, TrainingImages, normalize
from skillearn_jax.framework import State
from skillearn_jax.randomness import named_key
from skillearn_jax.skills import LearnerModel, TesterModel
from skillearn_jax.skills.curriculum import CURRICULUM, Curriculum
from skillearn_jax.skills.exams import (
    class_rates,
    extremes,
    hold,
    score_loss_correlation,
)
from skillearn_jax.train.build import search_models
from skillearn_jax.train.config import Config
from skillearn_jax.train.search_streams import longest_epoch
from skillearn_jax.train.stages import SearchStage
from skillearn_jax.train.workdir import Workdir
from skillearn_jax.types import Array

EXAM = "exam.json"
_ROW = {"index": 0.0, "label": 0.0, "loss": 0.0, "score": 0.0}
EXAM_LIKE = {
    **dict.fromkeys(
        ("size", "bank_size", "bank_loss", "exam_loss", "correlation"), 0.0
    ),
    "class_rates": [0.0],
    "class_shares": [0.0],
    "hardest": [_ROW],
    "easiest": [_ROW],
    "sheet": "",
}
"""What a page reads in it."""

_SHOWN = 12
_DEFAULT_SHARE = 0.5  # of a curriculum at hardness 1, the exam of the paper


def write_exam(
    config: Config,
    data: TrainingImages,
    state: State,
    streams: Mapping[str, Stream],
    workdir: Workdir,
    stage: SearchStage,
    bank: TrainingImages | None = None,
) -> None:
    """Writes what the exam of a search holds, unless it is written already.

    Args:
        config: of the run.
        data: of the learner.
        state: that the search ended with.
        streams: of the search.
        workdir: gets `exam.json`.
        stage: the last of the search.
        bank: the data set that exams are drawn from; `None` for the validation set.
    """
    step = int(state.step)
    if workdir.read_object(EXAM).get("step") == step:
        return
    # Without a device axis: the bank is scored on one device.
    models = search_models(config, data, longest_epoch(streams), None, stage)
    assert models.tester is not None
    contents = exam_contents(
        models.learner,
        models.tester,
        state,
        streams["bank"],
        data.num_classes,
        config.lpt.curriculum.build(),
    )
    named = {} if bank is None else {"bank": bank.name}  # whose indices these are
    workdir.write_json(EXAM, {"step": step, **named, **contents})


def exam_contents(
    learner: LearnerModel,
    tester: TesterModel,
    state: State,
    bank: Stream,
    num_classes: int,
    curriculum: Curriculum | None = None,
) -> dict[str, Any]:
    """Returns what the exam that a search ends with holds.

    Every image of the bank is scored once, without augmentation, in shuffled batches of
    the search's size: both networks normalise by their batch, as in the search. The
    discrete exam is the share of the bank with the top scores, that of the curriculum or
    a half.

    Args:
        learner: the testee.
        tester: the maker of exams.
        state: that the search ended with.
        bank: the stream of the bank.
        num_classes: of the learner.
        curriculum: whose hardness the share follows.

    Returns:
        The content of `exam.json`: `share` and `size` of the exam, `correlation` of
        score and loss, mean `bank_loss` and `exam_loss` of the learner, `class_rates`
        (expected, from scores), `class_shares` (in the discrete exam), `selected`
        (indices in the bank), `hardest` and `easiest` (index, label, loss and score, by
        the learner's loss within the exam), and their images as `sheet`, a PNG in base64.

    Cost: two forward passes over the bank, and a compilation.
    """
    scores, losses = _score(learner, tester, state, bank)
    labels = jnp.asarray(bank.examples.label)
    share = _DEFAULT_SHARE
    if curriculum is not None:
        share = float(curriculum.exam_share(state.model_state[CURRICULUM]))
    held = hold(scores, share)
    hardest, easiest = extremes(losses, held, min(_SHOWN, labels.size))

    def entries(indices: Array) -> list[dict[str, Any]]:
        return [
            {
                "index": int(i),
                "label": int(labels[i]),
                "loss": float(losses[i]),
                "score": float(scores[i]),
            }
            for i in indices
            if i >= 0
        ]

    rows = entries(hardest), entries(easiest)
    return {
        "share": share,
        "size": int(held.sum()),
        "bank_size": labels.size,
        "correlation": float(score_loss_correlation(scores, losses)),
        "bank_loss": float(losses.mean()),
        "exam_loss": float(jnp.sum(held * losses) / jnp.sum(held)),
        "mean_score": float(scores.mean()),
        "class_rates": class_rates(scores, labels, num_classes).tolist(),
        "class_shares": class_rates(held, labels, num_classes).tolist(),
        "selected": np.flatnonzero(held).tolist(),
        "hardest": rows[0],
        "easiest": rows[1],
        "sheet": contact_sheet(bank.examples, rows),
    }


def _score(
    learner: LearnerModel, tester: TesterModel, state: State, bank: Stream
) -> tuple[Array, Array]:
    """Returns scores and losses of all examples of the bank, `[N]` each."""
    supporting = {name: state.params[name] for name in learner.supporting}
    key = jax.random.fold_in(state.key, state.step)

    @jax.jit
    def of_batch(state: State, images: Array, labels: Array) -> tuple[Array, Array]:
        batch = {"image": normalize(images, bank.mean, bank.std), "label": labels}
        params, statistics = state.params, state.model_state
        features, _ = tester.encode(params["encoder"], statistics, batch, key)
        losses = learner.example_losses(
            params["weights"], supporting, statistics, batch, key
        )
        return tester.scores(params["creator"], features), losses

    count, size = bank.examples.size, bank.batch_size
    scores, losses = np.zeros(count, np.float32), np.zeros(count, np.float32)
    # Shuffled, as the search draws them: a bank that comes class by class would be
    # normalised class by class.
    order = np.asarray(jax.random.permutation(named_key(key, "order"), count))
    for start in range(0, count, size):
        # The last batch is a full one too, for the statistics: it looks back.
        part = order[np.arange(size) + min(start, count - size)]
        chosen = bank.examples.take(part)
        found = of_batch(state, jnp.asarray(chosen.image), jnp.asarray(chosen.label))
        scores[part], losses[part] = found
    return jnp.asarray(scores), jnp.asarray(losses)


def contact_sheet(
    examples: Examples, rows: Sequence[Sequence[Mapping[str, Any]]]
) -> str:
    """Returns images of examples side by side, a PNG in base64.

    Args:
        examples: grey or colour images.
        rows: entries with an `index`, row by row of the sheet; one pixel between images.
    """
    height, width, channels = examples.image.shape[1:]
    columns = max(1, *(len(row) for row in rows))
    shape = (len(rows) * (height + 1) - 1, columns * (width + 1) - 1, channels)
    sheet = np.full(shape, 128, np.uint8)
    for i, row in enumerate(rows):
        for j, entry in enumerate(row):
            top, left = i * (height + 1), j * (width + 1)
            image = np.asarray(examples.image[entry["index"]])
            sheet[top : top + height, left : left + width] = image
    # Of other images than grey and colour ones, the first channel is shown.
    shown = sheet if channels == 3 else sheet[..., 0]
    buffer = io.BytesIO()
    Image.fromarray(shown).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def exam_svg(exam: Mapping[str, Any]) -> str:
    """Returns the contact sheet as an SVG, enlarged without smoothing."""
    content = base64.b64decode(exam["sheet"])
    width, height = Image.open(io.BytesIO(content)).size
    scale = max(1, 640 // width)
    size = f'width="{scale * width}" height="{scale * height}"'
    title = "Hardest and easiest images of the exam"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} '
        f'viewBox="0 0 {scale * width} {scale * height}" role="img" '
        f'aria-label="{title}">\n<title>{title}</title>\n<image {size} '
        f'style="image-rendering: pixelated" '
        f'href="data:image/png;base64,{exam["sheet"]}"/>\n</svg>'
    )


def exam_text(exam: Mapping[str, Any], class_names: Sequence[str] = ()) -> str:
    """Returns the rates of the classes and the shown examples as a table.

    Args:
        exam: content of `exam.json`.
        class_names: by class; where they are not theirs, or of several lines, classes
            have numbers.
    """
    rates, shares = exam["class_rates"], exam["class_shares"]
    named = len(class_names) == len(rates) and all(map(str.isprintable, class_names))
    classes = [*(class_names if named else map(str, range(len(rates))))]
    width = max(5, *map(len, classes))
    lines = [f"{'class':>{width}}  mean score  share in the exam"]
    for name, rate, share in zip(classes, rates, shares, strict=True):
        lines.append(f"{name:>{width}}  {rate:#10.4g}  {share:17.3f}")
    for name in ("hardest", "easiest"):
        lines += ["", f"{name}: label, loss, score, index in the bank"]
        lines += [
            f"{classes[entry['label']]:>{width}}  {entry['loss']:#10.4g}  "
            f"{entry['score']:#10.4g}  {entry['index']}"
            for entry in exam[name]
        ]
    return "\n".join(lines)


def exam_caption(exam: Mapping[str, Any]) -> str:
    """Returns what the sheet shows and what the exam is like, in words."""
    # Where it is not the validation set.
    of_set = f", which is {exam['bank']}," if "bank" in exam else ""
    return (
        f"The exam that the search ended with: the {exam['size']} of "
        f"{exam['bank_size']} images of the bank{of_set} with the largest scores. Above "
        "those of them with the largest loss of the learner, below those with the smallest. The "
        f"learner's mean loss is {exam['exam_loss']:.3f} on the exam and "
        f"{exam['bank_loss']:.3f} on the bank; score and loss correlate with "
        f"{exam['correlation']:.2f}."
    )
