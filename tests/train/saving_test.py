"""When a state is saved, and by what the best one is told."""

from types import SimpleNamespace

import pytest

from skillearn_jax.errors import Interrupted
from skillearn_jax.train import interrupt, saving
from skillearn_jax.train.config import CheckpointConfig
from skillearn_jax.train.saving import Saver

NEVER = {"every_epochs": 0, "every_steps": 0, "every_minutes": 0.0}


@pytest.fixture
def clock(monkeypatch):
    """`clock.now`, in seconds."""
    clock = SimpleNamespace(now=1000.0)
    time = SimpleNamespace(monotonic=lambda: clock.now)
    monkeypatch.setattr(saving, "time", time)
    return clock


@pytest.fixture
def make(clock):
    """`make(every_steps=2)`: a saver for epochs of three steps, and what it has saved."""

    def make(**when):
        saved = []
        checkpoints = SimpleNamespace(
            save=lambda *of: saved.append(of), wait=lambda: None
        )
        config = CheckpointConfig(**{**NEVER, "best_metric": "loss", **when})
        return Saver(checkpoints, config, 3), saved

    return make


def offer(saver, *steps, **more):
    saver.offer(range(steps[0], steps[-1] + 1), lambda: "state", lambda: "note", **more)


@pytest.mark.parametrize(
    ("when", "steps"),
    [
        ({}, []),
        ({"every_epochs": 1}, [3, 6, 9, 12]),
        ({"every_epochs": 2}, [6, 12]),
        ({"every_steps": 4}, [4, 8, 12]),
        ({"every_epochs": 2, "every_steps": 4}, [4, 6, 8, 12]),
    ],
)
def test_states_are_saved_every_so_many_steps_and_epochs(make, when, steps):
    saver, saved = make(**when)
    for step in range(1, 13):
        offer(saver, step)
    assert [step for step, *_ in saved] == steps
    # Of calls of several steps the state after the last is there, and no other.
    saver, saved = make(**when)
    for first in range(1, 13, 3):
        offer(saver, first, first + 2)
    due = {-(-step // 3) * 3 for step in steps}
    assert [step for step, *_ in saved] == sorted(due)


def test_the_last_of_a_phase_is_always_saved_under_its_own_number(make):
    saver, saved = make()
    offer(saver, 4, 5, offset=10)
    offer(saver, 6, offset=10, last=True)
    assert saved == [(16, "state", "note", None)]


def test_minutes_are_minutes_since_the_last_save(make, clock):
    saver, saved = make(every_minutes=2.0)
    for step, now in enumerate((1000, 1119, 1120, 1239, 1240), start=1):
        clock.now = now
        offer(saver, step)
    assert [step for step, *_ in saved] == [3, 5]


def test_the_metric_is_the_mean_since_the_last_save(make):
    saver, saved = make(every_steps=3)
    for step, loss in enumerate((None, None, None, 4.0, 1.0, 1.0, 5.0, 7.0, 9.0), 1):
        saver.watch({"other": 100.0} if loss is None else {"loss": loss})
        offer(saver, step)
    assert [(step, metric) for step, _, _, metric in saved] == [
        (3, None),
        (6, 2.0),
        (9, 7.0),
    ]


def test_who_is_asked_to_end_saves_first(make, monkeypatch):
    saver, saved = make()
    monkeypatch.setattr(interrupt, "requested", lambda: True)
    with pytest.raises(Interrupted, match="saved at step 5;"):
        offer(saver, 4, 5, offset=10)
    assert saved == [(15, "state", "note", None)]
