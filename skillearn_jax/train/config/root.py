"""Floor 4: the configuration of a run as frozen, checked dataclasses.

Below this floor nobody sees a config; above it, configs are `ml_collections` files that
start from `default_config()` and set what differs. Tuples, never lists; no `None`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from skillearn_jax.train.config.benchmark import BenchmarkConfig
from skillearn_jax.train.config.data import DataConfig
from skillearn_jax.train.config.evaluation import EvaluationConfig
from skillearn_jax.train.config.runtime import (
    CheckpointConfig,
    LoggingConfig,
    ParallelConfig,
)
from skillearn_jax.train.config.search import (
    HypergradConfig,
    LptConfig,
    SearchConfig,
    SpaceConfig,
    TesterConfig,
)
from skillearn_jax.train.config.tasks import InterleavingConfig
from skillearn_jax.train.fields import choice, number, parse, seed

SINGLE = ("baseline", "lpt", "random")
"""What a run can search by on one data set."""

SKILLS = (*SINGLE, "interleaving", "joint", "blocked", "sequential")
"""What a run can search by; all others learn several tasks."""


@dataclasses.dataclass(frozen=True)
class Config:
    """A run.

    Attributes:
        skill: `lpt`, `baseline` for plain differentiable search, or `random` for the best
            of random cells, on one data set; `interleaving`, `joint`, `blocked` or
            `sequential` on several tasks.
        tasks: names of several tasks: those of their data sets, as in `data.name`, which
            is not read then, or any where `data.sources` holds these; empty for the first
            three skills.
        genotype: cells to evaluate without a search: a published name (`DARTS_V2`), in
            the space nasbench201 an architecture's text, a file, the workdir of a search,
            or `random:SEED`, where `random` alone takes `seed`; empty searches.
        seed: of everything that is random.
        log_every: steps between two lines of metrics.jsonl.
        profile: steps of the search to profile for xprof, as `START:STOP`: `10:20` are
            ten steps, after the first ten. Empty for none.
    """

    skill: str = choice("lpt", SKILLS)
    tasks: tuple[str, ...] = ()
    genotype: str = ""
    seed: int = seed(2)
    log_every: int = number(1, at_least=1)
    profile: str = ""
    data: DataConfig = DataConfig()
    space: SpaceConfig = SpaceConfig()
    search: SearchConfig = SearchConfig()
    hypergrad: HypergradConfig = HypergradConfig()
    tester: TesterConfig = TesterConfig()
    lpt: LptConfig = LptConfig()
    interleaving: InterleavingConfig = InterleavingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    benchmark: BenchmarkConfig = BenchmarkConfig()
    parallel: ParallelConfig = ParallelConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    logging: LoggingConfig = LoggingConfig()

    @property
    def task_sources(self) -> tuple[str, ...]:
        """The source of each of the tasks."""
        return self.data.sources or self.tasks

    @classmethod
    def parse(cls, values: Mapping[str, Any] | ConfigDict) -> "Config":
        """Returns the checked config of a `ConfigDict` or of nested mappings.

        Raises:
            InputError: one line that names the value, what is allowed and the flag.
        """
        return parse(cls, values)

    def to_dict(self) -> dict[str, Any]:
        """Returns the config as nested dicts, tuples kept."""
        return dataclasses.asdict(self)


def default_config() -> ConfigDict:
    """Returns the defaults as a `ConfigDict`, for a config file to change.

    Networks, epochs and optimisers are those of DARTS on CIFAR-10 with the tester of the
    authors' code; the images are embedded digits, shifted by a pixel at most and not
    mirrored, which a config for photographs changes (`configs/common.py`, `matrix`). It
    is locked: a key that it does not have is refused in the line that sets it.
    """
    return ConfigDict(Config().to_dict()).lock()
