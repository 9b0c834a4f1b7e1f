"""The scheduler is asked once for all runs of this process, and not too often."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from .scheduler import Scheduler, SchedulerError, States

_SHARE = 20
"""A scheduler that takes long to answer is asked again after so many times as long,"""
_LONGEST_PAUSE_S = 30.0
"""but not later than that: it may have been restarted meanwhile."""


@dataclass(frozen=True)
class Snapshot:
    """An answer of the scheduler. A job that was asked for and is not in `states` is unknown to it."""

    asked_at: float = 0.0
    """On the monotonic clock: what happened before that, it knew."""
    asked: frozenset[str] = frozenset()
    states: States = field(default_factory=dict)


class QueueWatch:
    """Asks for the jobs of all runs at once. Who comes too early is given the last answer."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._lock = threading.Lock()
        self._asking = threading.Lock()
        self._jobs: Counter[str] = Counter()
        self._names: dict[str, str] = {}
        self._last = Snapshot()
        self._next_at = 0.0
        self.problem = ""
        """Why the last question got no answer, if it got none."""

    def watch(self, names: Mapping[str, str]) -> None:
        """Ask for these jobs too; their names by id."""
        with self._lock:
            self._jobs.update(names.keys())
            self._names.update(names)

    def forget(self, jobs: Mapping[str, str]) -> None:
        """Ask for these jobs no more."""
        with self._lock:
            self._jobs.subtract(jobs.keys())
            self._jobs = +self._jobs
            for job in jobs:
                if job not in self._jobs:
                    self._names.pop(job, None)

    def look(self, interval_s: float) -> Snapshot:
        """The newest answer, asked for now if the last question was `interval_s` ago or more."""
        if self._asking.acquire(blocking=False):
            try:
                if self._jobs and time.monotonic() >= self._next_at:
                    self._ask(interval_s)
            finally:
                self._asking.release()
        return self._last

    def _ask(self, interval_s: float) -> None:
        with self._lock:
            jobs, names = frozenset(self._jobs), dict(self._names)
        begun = time.monotonic()
        try:
            states = self._scheduler.queue(sorted(jobs), names)
        except SchedulerError as error:
            self.problem = str(error)
        else:
            self.problem = ""
            self._last = Snapshot(begun, jobs, states)
        ended = time.monotonic()
        self._next_at = ended + max(interval_s, min(_LONGEST_PAUSE_S, _SHARE * (ended - begun)))


_lock = threading.Lock()
_watches: dict[object, QueueWatch] = {}


def watch_of(scheduler: Scheduler) -> QueueWatch:
    """The one watch on a cluster in this process."""
    with _lock:
        return _watches.setdefault(scheduler.key, QueueWatch(scheduler))
