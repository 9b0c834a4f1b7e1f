"""Ends jobs, and confirms that they have ended."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence, Set
from logging import Logger, LoggerAdapter

from . import verdicts
from .calls import SchedulerError
from .queue_watch import QueueWatch, Snapshot
from .records import Records
from .scheduler import JobState, Scheduler
from .submission import Submission
from .tracking import Tracker

_MANY = 10
"""Jobs, or array tasks, that a message names."""
_CONFIRM_S = 10.0
"""After so long without a confirmation jobs are cancelled once more,"""
_CONFIRM_FAILED_S = 3.0
"""and where `scancel` failed: it may have cancelled them all the same, or they may have ended."""
_STUCK_S = 120.0
"""For so long what SLURM is ending is waited for, which a hanging process, or epilog, may keep for ever."""
_LOOK_S, _PAUSE_S = 1.0, 0.05
_IS_NEW = "SLURM's controller was started again, and is to hear first from its nodes what they run"


class Canceller:
    """Cancels the jobs of one run. `user`: who does, if that is not the runner's own; `interval_s`: how often
    the queue is looked at."""

    def __init__(
        self,
        scheduler: Scheduler,
        queue: QueueWatch,
        records: Records,
        user: str | None,
        logger: LoggerAdapter[Logger],
        interval_s: float,
    ) -> None:
        self._scheduler = scheduler
        self._queue = queue
        self._records = records
        self._user = user
        self._logger = logger
        self._interval_s = min(interval_s, _LOOK_S)
        self._begun_at = time.monotonic()

    def cancel(self, targets: Sequence[str], submissions: Sequence[Submission]) -> None:
        """Cancel those of some jobs, or array tasks, that are of these submissions. Raises SchedulerError."""
        if ours := self._ours(targets, submissions):
            self._scheduler.cancel(ours, user=self._user)

    def end(self, trackers: Sequence[Tracker]) -> None:
        """Cancel all that these follow, and wait until the queue shows that it is gone.

        Raises SchedulerError where it does not within some time; to be called again then.
        """
        if self._records.is_new:
            raise SchedulerError(_IS_NEW, may_pass=True)
        submissions = [tracker.submission for tracker in trackers]
        problem = self._problem_of_cancel(submissions)
        is_stuck = time.monotonic() > self._begun_at + _STUCK_S
        patience_s = _CONFIRM_S if problem is None else _CONFIRM_FAILED_S
        try:
            snapshot = self._confirmed_end_of(submissions, {"COMPLETING"} if is_stuck else set(), patience_s)
        except SchedulerError as error:
            if problem is None:
                raise
            raise SchedulerError(f"{problem}; {error}", may_pass=True) from error
        self._tell_forgotten(trackers, snapshot)

    def _problem_of_cancel(self, submissions: Sequence[Submission]) -> SchedulerError | None:
        try:
            self.cancel([target for submission in submissions for target in submission.targets], submissions)
        except SchedulerError as error:
            return error
        return None

    def _ours(self, targets: Sequence[str], submissions: Sequence[Submission]) -> list[str]:
        """A controller that was started again may have given the numbers of jobs that it had forgotten to
        others."""
        jobs = {job for submission in submissions for job in submission.jobs}
        names = {submission.name for submission in submissions}
        forgot = bool(jobs) and self._records.may_be_forgotten(time.monotonic())
        others = self._scheduler.others(jobs, names) if forgot else set()
        return [target for target in targets if target.partition("_")[0] not in others]

    def _tell_forgotten(self, trackers: Sequence[Tracker], snapshot: Snapshot) -> None:
        left = [task for tracker in trackers for task in tracker.array_tasks.forgotten(snapshot)]
        if left and self._records.may_be_forgotten(time.monotonic()):
            told = "SLURM forgot that %d array tasks ran; whether they have ended, it does not tell: %s"
            self._logger.warning(told, len(left), ", ".join(left[:_MANY]))

    def _confirmed_end_of(
        self, submissions: Sequence[Submission], but_for: Set[str], patience_s: float
    ) -> Snapshot:
        """The answer of the queue that they have, or are in these states."""
        left: list[str] = []
        names = {job: submission.name for submission in submissions for job in submission.jobs}
        asked_since = time.monotonic()
        end = asked_since + patience_s
        self._queue.watch(names)
        try:
            while time.monotonic() < end:
                snapshot = self._queue.look(self._interval_s)
                if snapshot.asked_at > asked_since and names.keys() <= snapshot.names.keys():
                    found = [task for submission in submissions for task in _left(snapshot, submission)]
                    left = [f"{task} {state.state}" for task, state in found]
                    if all(state.state in but_for for _, state in found):
                        if left:
                            told = "SLURM takes long to end some jobs; nothing of them starts any more: %s"
                            self._logger.warning(told, ", ".join(left[:_MANY]))
                        return snapshot
                elif self._queue.problem_at > asked_since:
                    raise SchedulerError(self._queue.problem, may_pass=True)
                time.sleep(_PAUSE_S)
        finally:
            self._queue.forget(names)
        said = f"SLURM still shows {', '.join(left[:_MANY])}" if left else "SLURM did not answer in time"
        raise SchedulerError(said, may_pass=True)


def some_of(names: Iterable[str]) -> str:
    """Some names, to be read behind what is said of all."""
    known = sorted(names)
    return f" ({', '.join(known[:_MANY])}{', …' if len(known) > _MANY else ''})" if known else ""


def _left(snapshot: Snapshot, submission: Submission) -> Iterator[tuple[str, JobState]]:
    """Array tasks of a submission that are in the queue or on a node."""
    for job in submission.jobs:
        for index, state in snapshot.of(job, submission.name).items():
            is_ours = index in submission.parts or not submission.adopted
            if is_ours and state.state not in verdicts.ENDS:
                yield f"{job}_{index}", state
