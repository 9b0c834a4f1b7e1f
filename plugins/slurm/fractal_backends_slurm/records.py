"""What the scheduler keeps on record of jobs that are no longer in its queue."""

from __future__ import annotations

import time

from .calls import SchedulerError
from .scheduler import JobState, Scheduler

_FRESH_S = 1.0
"""For how long an answer is good."""
_REGISTERED_S = 20.0
"""For so long after its start nodes register at a controller, with some to spare: it asks them after 3 s."""


class Records:
    """Asks the scheduler for one job at a time, not too often."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._found: dict[tuple[str, str], tuple[float, dict[int, JobState]]] = {}
        self._started_at = self._controller()
        self._looked: tuple[float, float | None] = 0.0, None
        """When the controller was last asked since when it runs, and what it said."""

    def of(self, job: str, name: str, at: float) -> dict[int, JobState]:
        """How the array tasks of a job ended, as far as that was on record at that time on the monotonic
        clock, or is now."""
        asked_at, found = self._found.get((job, name), (0.0, {}))
        now = time.monotonic()
        if asked_at < at or now - asked_at > _FRESH_S:
            found = self._scheduler.account_of(job, name)
            self._found[job, name] = (now, found)
        return found

    @property
    def controller(self) -> float | None:
        """Since when the controller runs; of one that has just been started, the one before it."""
        now = self._controller()
        return self._started_at if now is None or abs(time.time() - now) < _REGISTERED_S else now

    def may_be_forgotten(self, at: float, known: float | None = None) -> bool:
        """Whether the controller that answered at that time, on the monotonic clock, may have been started
        again, and forgot some acts, since this was made, or since `controller` was `known`."""
        now = self._looked_at(at)
        return now is None or now != self._known(known)

    def has_new_controller(self, at: float, known: float | None) -> bool:
        """Whether that controller says that it was started again since then."""
        now, before = self._looked_at(at), self._known(known)
        return None not in (now, before) and now != before

    def _known(self, known: float | None) -> float | None:
        return self._started_at if known is None else known

    def _looked_at(self, at: float) -> float | None:
        """Since when the controller runs, as it says at that time on the monotonic clock, or later."""
        asked_at, now = self._looked
        if asked_at < at:
            now = self._controller()
            self._looked = time.monotonic(), now
        return now

    @property
    def is_new(self) -> bool:
        """Whether the controller was started again a moment ago: what its nodes run that it has forgotten, it
        ends as they register, but not where that was cancelled just before.

        Raises SchedulerError where it does not answer now.
        """
        try:
            now = self._scheduler.started_at()
        except SchedulerError as error:
            if error.may_pass:
                raise
            return False
        return now != self._started_at and abs(time.time() - now) < _REGISTERED_S

    def _controller(self) -> float | None:
        try:
            return self._scheduler.started_at()
        except SchedulerError:
            return None
