"""Floor 4: the groups of config keys that say which images."""

import dataclasses

from skillearn_jax.data import Augmentation, ColourJitter
from skillearn_jax.train.fields import number


@dataclasses.dataclass(frozen=True)
class StreamConfig:
    """How a data set that stays in its files, `data.name=stream:BUILDER`, is read.

    The format of the files decides on the pipeline: tfrecord is read by `tf.data`,
    array_record by Grain.

    Attributes:
        train_split: as TFDS writes it; `train[:10%]` is a part.
        heldout_split: likewise.
        shorter_side: that held-out images are resized to before the middle is cut out,
            in pixels.
        least_area: of the box of a random-resized-crop, as a share of the image.
        max_damaged: images that may fail to decode in each process; one more ends the
            run.
        shuffle_buffer: encoded examples that are shuffled together, of tfrecord files;
            it is part of what fixes their order.
    """

    train_split: str = "train"
    heldout_split: str = "validation"
    shorter_side: int = number(256, at_least=1)
    least_area: float = number(0.08, above=0, at_most=1)
    max_damaged: int = number(0, at_least=0)
    shuffle_buffer: int = number(8192, at_least=1)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which images, and how they are cut and drawn.

    Attributes:
        name: the source; see `skillearn_jax.data.SOURCES`.
        dir: where it lies, for sources that are not embedded.
        dirs: of several tasks, one folder each, '' for one that is embedded; empty: all
            in `dir`.
        sources: of several tasks, one source each, as in `name`, so that two may be
            folders; empty: their names are their sources.
        image_size: side in pixels that images are resized to. 0 leaves them as they are,
            brings those of several tasks to the largest side among them, and streamed
            ones to 224.
        heldout_fraction: of an embedded set that becomes the held-out images.
        batch_size: of each stream of the search, over all devices.
        train_fraction: of the training images that the search trains on; the rest is
            its validation set and exam bank.
        stratified: whether that cut keeps class frequencies; else it is by index.
        per_class: a search on a part of the training images, with as many of each class:
            the first number of them trains, the next one is the validation set and exam
            bank. Empty for all images, cut by `train_fraction`.
        padding: pixels around an image before a random crop. The evaluation of streamed
            images takes a random-resized-crop in its place.
        flip: whether images are mirrored at random.
        cutout: side of the square that is blanked at random in a search, in pixels; the
            evaluation has its own.
        colours: strengths of random changes of brightness, contrast, saturation (0 to 1)
            and hue (0 to 0.5), of RGB images; ImageNet: (0.4, 0.4, 0.4, 0.2).
        stream: of images that stay in files.
    """

    name: str = "digits"
    dir: str = ""
    dirs: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    image_size: int = number(0, at_least=0, at_most=9999)
    heldout_fraction: float = number(0.2, above=0, below=1)
    batch_size: int = number(64, at_least=1)
    train_fraction: float = number(0.5, above=0, below=1)
    stratified: bool = False
    per_class: tuple[int, ...] = number((), at_least=1)
    padding: int = number(1, at_least=0)
    flip: bool = False
    cutout: int = number(0, at_least=0)
    colours: tuple[float, ...] = number((0.0,) * 4, at_least=0, at_most=1)
    stream: StreamConfig = StreamConfig()

    def augmentation(self, cutout: int, *, crop: bool = True) -> Augmentation:
        """Returns that of training images, without a crop if they were cropped before.

        Args:
            cutout: of the phase: that of the search is here, the evaluation's is there.
            crop: whether they are still to be cropped.
        """
        colours = ColourJitter(*self.colours) if any(self.colours) else None
        padding = self.padding if crop else 0
        return Augmentation(padding, self.flip, cutout, colours)
