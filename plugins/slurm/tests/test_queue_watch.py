"""How often a scheduler is asked, by a clock of the test's own."""

from __future__ import annotations

from typing import Any, cast

import pytest
from fractal_backends_slurm import queue_watch
from fractal_backends_slurm.queue_watch import QueueWatch
from fractal_backends_slurm.scheduler import Scheduler


class Clock:
    """Instead of the module `time`."""

    now = 1_000.0

    def monotonic(self) -> float:
        return self.now


class Answers:
    """A scheduler that has answered after so many seconds; and each of its answers."""

    is_overdue = False

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.takes_s = 0.0
        self.asked_at: list[float] = []

    def ask(self, jobs: object) -> Answers:
        self.asked_at.append(self._clock.now)
        self._clock.now += self.takes_s
        return self

    def has_ended(self, seconds: float) -> bool:
        return True

    def states(self, *_: object) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        """Nothing is left of it."""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(queue_watch, "time", clock)
    return clock


def pauses(clock: Clock, durations: list[float]) -> list[float]:
    """For how long it is left alone after answers that took so long, where it may be asked once a second."""
    scheduler, found = Answers(clock), []
    watch = QueueWatch(cast(Scheduler, scheduler))
    watch.watch({"7": "name"})
    for scheduler.takes_s in durations:
        asked = len(scheduler.asked_at)
        since = clock.now
        while len(scheduler.asked_at) == asked:
            clock.now += 0.125
            watch.look(1.0)
        found.append(scheduler.asked_at[-1] - since)
    return found[1:]


def test_it_is_asked_once_in_an_interval(clock: Clock) -> None:
    assert pauses(clock, [0.0] * 4) == [1.0] * 3


def test_one_that_is_slow_is_spared(clock: Clock) -> None:
    assert pauses(clock, [4.0] * 4) == [1.0, 20.0, 20.0]
    assert pauses(clock, [50.0] * 3) == [1.0, 30.0]


def test_one_that_was_away_is_asked_at_once(clock: Clock) -> None:
    """That one answer had waited for it."""
    assert pauses(clock, [0.0, 25.0, 0.0, 0.0]) == [1.0] * 3
