"""The scheduler is asked once for all runs of this process, and not too often."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field

from .calls import Call, SchedulerError
from .scheduler import JobState, Scheduler, States

_SHARE = 5
"""A scheduler that takes long to answer, twice, is asked again after so many times as long,"""
_LONGEST_PAUSE_S = 30.0
"""but not later than that."""
_PATIENCE_S = 0.25
"""For how long a runner waits for an answer before it goes on without."""


@dataclass(frozen=True)
class Snapshot:
    """An answer of the scheduler. A job that was asked for and is not in `states` is unknown to it.

    A controller that forgot jobs uses their ids again: the newest job of an id is the one that is seen.
    """

    asked_at: float = 0.0
    """On the monotonic clock: what happened before that, it knew."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Of the jobs that were asked for, by id."""
    states: States = field(default_factory=dict)

    def knows(self, job: str, name: str) -> bool:
        """Whether it has anything on this job."""
        return job in self.states and self.names.get(job) == name

    def of(self, job: str, name: str) -> Mapping[int, JobState]:
        """The states of a job's array tasks."""
        return self.states[job] if self.knows(job, name) else {}


@dataclass(frozen=True)
class _Question:
    """What the scheduler is being asked."""

    asked_at: float
    names: Mapping[str, str]
    call: Call


class QueueWatch:
    """Asks for the jobs of all runs at once. Who comes too early is given the last answer."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._lock = threading.Lock()
        self._asking = threading.Lock()
        self._jobs: Counter[str] = Counter()
        self._names: dict[str, str] = {}
        self._question: _Question | None = None
        self._last = Snapshot()
        self._turned_to_at = -math.inf
        """When it was last asked, or heard,"""
        self._pause_s = 0.0
        """and for how long it is spared then."""
        self._took_s = 0.0
        """How long the last answer took. One alone may have waited for a controller that was away."""
        self.heard_at = -math.inf
        """When it last answered, on the monotonic clock."""
        self.problem = ""
        """Why a question got no answer, if one got none,"""
        self.problem_at = 0.0
        """and when, on the monotonic clock."""

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
            self._names = {job: self._names[job] for job in self._jobs}
            if self._jobs:
                return
        with self._asking:
            if self._question and not self._jobs:
                self._question.call.close()
                self._question = None

    def look(self, interval_s: float) -> Snapshot:
        """The newest answer; a new one is asked for if the last question was `interval_s` ago or more.

        Does not wait for a scheduler that takes long.
        """
        if self._asking.acquire(blocking=False):
            try:
                pause_s = max(interval_s, self._pause_s)
                if self._question is None and self._jobs and time.monotonic() >= self._turned_to_at + pause_s:
                    self._ask()
                if self._question is not None:
                    self._hear(self._question)
            except SchedulerError as error:
                self.problem, self.problem_at = str(error), time.monotonic()
            finally:
                self._asking.release()
        return self._last

    def _ask(self) -> None:
        self._turned_to_at = time.monotonic()
        with self._lock:
            names = dict(self._names)
        self._question = _Question(time.monotonic(), names, self._scheduler.ask(sorted(names)))

    def _hear(self, question: _Question) -> None:
        if not question.call.has_ended(_PATIENCE_S) and not question.call.is_overdue:
            return
        self._question, self._turned_to_at = None, time.monotonic()
        self._pause_s = 0.0
        with closing(question.call):
            states = self._scheduler.states(question.call, question.names)
        self.heard_at = self._turned_to_at
        took_s, before_s = self._turned_to_at - question.asked_at, self._took_s
        self._pause_s = min(_LONGEST_PAUSE_S, _SHARE * min(took_s, before_s))
        self._took_s = took_s
        self._last = Snapshot(question.asked_at, question.names, states)


_lock = threading.Lock()
_watches: dict[object, QueueWatch] = {}


def watch_of(scheduler: Scheduler) -> QueueWatch:
    """The one watch on a cluster in this process."""
    with _lock:
        return _watches.setdefault(scheduler.key, QueueWatch(scheduler))
