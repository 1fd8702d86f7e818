"""Arrays in, batches out: sources, splits, on-device augmentation and streams."""

from skillearn_jax.data.augment import (
    Augmentation,
    example_keys,
    normalize,
    random_crop,
    random_cutout,
    random_flip,
)
from skillearn_jax.data.colour import ColourJitter
from skillearn_jax.data.common_shape import to_common_shape
from skillearn_jax.data.delivered import Delivered
from skillearn_jax.data.examples import (
    Examples,
    ImageData,
    LabelledImages,
    TrainingImages,
    from_arrays,
)
from skillearn_jax.data.mixing import Mixing
from skillearn_jax.data.records import Reading
from skillearn_jax.data.sources import EMBEDDED, SOURCES, STREAM, load
from skillearn_jax.data.splits import balanced_subset, halves
from skillearn_jax.data.streaming import StreamingData, open_streaming
from skillearn_jax.data.streams import (
    Batch,
    Drawn,
    Stream,
    eval_batches,
    sample,
)
from skillearn_jax.data.subset import read_subset

__all__ = [
    "EMBEDDED",
    "SOURCES",
    "STREAM",
    "Augmentation",
    "Batch",
    "ColourJitter",
    "Delivered",
    "Drawn",
    "Examples",
    "ImageData",
    "LabelledImages",
    "Mixing",
    "Reading",
    "Stream",
    "StreamingData",
    "TrainingImages",
    "balanced_subset",
    "eval_batches",
    "example_keys",
    "from_arrays",
    "halves",
    "load",
    "normalize",
    "open_streaming",
    "random_crop",
    "random_cutout",
    "random_flip",
    "read_subset",
    "sample",
    "to_common_shape",
]
