"""What the scheduler keeps on record of jobs that are no longer in its queue."""

from __future__ import annotations

import time

from .calls import SchedulerError
from .scheduler import JobState, Scheduler

_FRESH_S = 1.0
"""For how long an answer is good."""
_REFUSED_S = 300.0
"""For so long after its start nodes may refuse jobs that have ids of others: SLURM's credentials count for
two minutes, with some to spare."""
_REGISTERED_S = 20.0
"""For so long after its start nodes register at a controller, with some to spare: it asks them after 3 s."""


class Records:
    """Asks the scheduler for one job at a time, not too often."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._found: dict[tuple[str, str], tuple[float, dict[int, JobState]]] = {}
        self._started_at = self._controller()
        self._looked = 0.0, self._started_at
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

    def may_be_forgotten(self, at: float) -> bool:
        """Whether the controller that answered at that time, on the monotonic clock, may have been started
        again since this was made, and forgot some acts."""
        since = self._since(at)
        return since is None or since != self._started_at

    def may_refuse(self, at: float) -> bool:
        """Whether nodes may take jobs of that controller for others, which it forgot."""
        since = self._since(at)
        return self.may_be_forgotten(at) or since is None or time.time() - since < _REFUSED_S

    def _since(self, at: float) -> float | None:
        asked_at, since = self._looked
        if asked_at < at:
            since = self._controller()
            self._looked = time.monotonic(), since
        return since

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
