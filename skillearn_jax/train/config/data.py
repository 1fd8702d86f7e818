"""Floor 4: the group of config keys that says which images."""

import dataclasses

from skillearn_jax.train.fields import number


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which images, and how they are cut and drawn.

    Attributes:
        name: the source; see `skillearn_jax.data.SOURCES`.
        dir: where it lies, for sources that are not embedded.
        dirs: of several tasks, one folder each; empty: all in `dir`.
        image_size: side in pixels that images are resized to. 0 leaves them as they are,
            and brings those of several tasks to the largest side among them.
        heldout_fraction: of an embedded set that becomes the held-out images.
        batch_size: of each stream of the search, over all devices.
        train_fraction: of the training images that the search trains on; the rest is
            its validation set and exam bank.
        stratified: whether that cut keeps class frequencies; else it is by index.
        padding: pixels around an image before a random crop.
        flip: whether images are mirrored at random.
        cutout: side of the square that is blanked at random in a search, in pixels; the
            evaluation has its own.
    """

    name: str = "digits"
    dir: str = ""
    dirs: tuple[str, ...] = ()
    image_size: int = number(0, at_least=0)
    heldout_fraction: float = number(0.2, above=0, below=1)
    batch_size: int = number(64, at_least=1)
    train_fraction: float = number(0.5, above=0, below=1)
    stratified: bool = False
    padding: int = number(1, at_least=0)
    flip: bool = False
    cutout: int = number(0, at_least=0)
