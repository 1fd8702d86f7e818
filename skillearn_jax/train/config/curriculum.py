"""Floor 4: the group of config keys of exams that grow harder."""

import dataclasses

from skillearn_jax.skills import Curriculum
from skillearn_jax.train.fields import number


@dataclasses.dataclass(frozen=True)
class CurriculumConfig:
    """A sequence of exams that follows the learner's error rate: `skills.Curriculum`.

    Attributes:
        active: whether there is one; without, the other keys stay as they are. The
            transcript is `exams.jsonl`; `search.stop=curriculum` ends the search with it.
        threshold: R, the running error below which an exam is passed.
        step: what a pass adds to the hardness.
        ease: what a failure takes from it.
        start: the first hardness; 1 is the exam of the paper.
        max_hardness: the limit.
        decay: of the running means of error and capacity.
        tolerance: of the change of the running error, for the end.
        patience: exams in a row with such a change that are the end.
        capacity_aware: scale the hardness by the learner's measured capacity.
    """

    active: bool = False
    threshold: float = number(0.3, at_least=0, at_most=1)
    step: float = number(0.05, at_least=0)
    ease: float = number(0.0, at_least=0)
    start: float = number(1.0, at_least=0)
    max_hardness: float = number(4.0, at_least=0, at_most=64)
    decay: float = number(0.9, at_least=0, below=1)
    tolerance: float = number(1e-3, at_least=0)
    patience: int = number(50, at_least=1)
    capacity_aware: bool = False

    def build(self) -> Curriculum | None:
        """Returns the curriculum; none where it is not active."""
        options = dataclasses.asdict(self)
        return Curriculum(**options) if options.pop("active") else None
