"""Ends jobs, and confirms that they have ended."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import closing
from logging import Logger, LoggerAdapter

from . import verdicts
from .calls import ASK_S, TIMEOUT_S, SchedulerError
from .queue_watch import QueueWatch, Snapshot
from .records import REGISTERED_S, NoAnswerYetError, Records
from .scheduler import JobState, Scheduler
from .submission import Submission
from .tracking import Tracker

_MANY = 10
"""Jobs, or array tasks, that a message names."""
_CANCEL_S = 15.0
"""For so long `scancel` is waited for at first; after each time that it failed, for twice as long."""
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
        self._cancel_s = _CANCEL_S
        self._answers_since: float | None = None
        """Since when the queue answers and `scontrol` does not."""

    def cancel(self, targets: Sequence[str], submissions: Sequence[Submission]) -> None:
        """Cancel those of some jobs, or array tasks, that are of these submissions. Raises SchedulerError."""
        if ours := self._ours(targets, submissions):
            try:
                self._scheduler.cancel(ours, user=self._user, wait_s=self._cancel_s)
            except SchedulerError:
                self._cancel_s = min(TIMEOUT_S, 2 * self._cancel_s)
                raise

    def end(self, trackers: Sequence[Tracker]) -> None:
        """Cancel all that these follow, and wait until the queue shows that it is gone.

        Raises SchedulerError where it does not within some time; to be called again then.
        """
        submissions = [tracker.submission for tracker in trackers]
        self._must_not_be_new(_names_of(submissions))
        problem = self._problem_of_cancel(submissions)
        is_stuck = time.monotonic() > self._begun_at + _STUCK_S
        try:
            snapshot = self._confirmed_end_of(
                submissions, {"COMPLETING"} if is_stuck else set(), was_cancelled=problem is None
            )
        except SchedulerError as error:
            if problem is None:
                raise
            raise SchedulerError(f"{problem}; {error}", may_pass=True) from error
        self._tell_forgotten(trackers, snapshot)

    def _must_not_be_new(self, names: Mapping[str, str]) -> None:
        """Raises SchedulerError while the controller may have been started a moment ago.

        Where `scontrol` alone does not answer, the queue has to for as long as nodes take to register.
        """
        try:
            is_new = self._records.is_new
        except SchedulerError:
            if not self._has_answered(names, REGISTERED_S):
                raise
            return
        self._answers_since = None
        if is_new:
            raise SchedulerError(_IS_NEW, may_pass=True)

    def _has_answered(self, names: Mapping[str, str], for_s: float) -> bool:
        """Whether the queue answers, and did so that long ago."""
        try:
            with closing(self._answers(names, _CONFIRM_FAILED_S)) as answers:
                answer = next(answers, None)
        except SchedulerError:
            answer = None
        if answer is None:
            self._answers_since = None
            return False
        self._answers_since = self._answers_since or answer.asked_at
        return answer.asked_at - self._answers_since > for_s

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
        others = self._scheduler.others(jobs, names) if jobs and self._may_have_forgotten() else set()
        return [target for target in targets if target.partition("_")[0] not in others]

    def _may_have_forgotten(self) -> bool:
        """Whether the controller may have; also where `scontrol` does not tell, which is not asked again."""
        asked_at = time.monotonic()
        while self._answers_since is None:
            try:
                return self._records.may_be_forgotten(asked_at)
            except NoAnswerYetError:
                if self._scheduler.hurry.is_set():
                    raise
        return True

    def _tell_forgotten(self, trackers: Sequence[Tracker], snapshot: Snapshot) -> None:
        left = [task for tracker in trackers for task in tracker.array_tasks.forgotten(snapshot)]
        if left and self._may_have_forgotten():
            told = "SLURM forgot that %d array tasks ran; whether they have ended, it does not tell: %s"
            self._logger.warning(told, len(left), ", ".join(left[:_MANY]))

    def _confirmed_end_of(
        self, submissions: Sequence[Submission], but_for: Set[str], *, was_cancelled: bool
    ) -> Snapshot:
        """The answer of the queue that they have, or are in these states. `was_cancelled`: says `scancel`."""
        left: list[str] = []
        patience_s = _CONFIRM_S if was_cancelled else _CONFIRM_FAILED_S
        with closing(self._answers(_names_of(submissions), patience_s)) as answers:
            for snapshot in answers:
                found = list(self._left(snapshot, submissions, was_cancelled))
                left = [f"{task} {state.state}" for task, state in found]
                if all(state.state in but_for for _, state in found):
                    if left:
                        told = "SLURM takes long to end some jobs; nothing of them starts any more: %s"
                        self._logger.warning(told, ", ".join(left[:_MANY]))
                    return snapshot
        said = f"SLURM still shows {', '.join(left[:_MANY])}" if left else "SLURM did not answer in time"
        raise SchedulerError(said, may_pass=True)

    def _answers(self, names: Mapping[str, str], for_s: float) -> Generator[Snapshot]:
        """What the queue says of these jobs from now on, for so long. Raises SchedulerError."""
        last_at = time.monotonic()
        end = last_at + for_s
        self._queue.watch(names)
        try:
            while time.monotonic() < end:
                snapshot = self._queue.look(self._interval_s)
                if snapshot.asked_at > last_at and names.keys() <= snapshot.names.keys():
                    last_at = snapshot.asked_at
                    yield snapshot
                elif self._queue.problem_at > last_at:
                    raise SchedulerError(self._queue.problem, may_pass=True)
                time.sleep(_PAUSE_S)
        finally:
            self._queue.forget(names)

    def _left(
        self, snapshot: Snapshot, submissions: Sequence[Submission], was_cancelled: bool
    ) -> Iterator[tuple[str, JobState]]:
        """Array tasks that are in the queue or on a node; of jobs that the queue does not know the controller
        is asked. Raises SchedulerError."""
        for submission in submissions:
            for job in submission.jobs:
                states = snapshot.of(job, submission.name)
                is_silent = was_cancelled and self._answers_since is not None
                if not snapshot.knows(job, submission.name) and not is_silent:
                    try:
                        with closing(self._scheduler.ask_controller(job)) as question:
                            states = self._scheduler.controlled(question, submission.name, ASK_S)
                    except SchedulerError:
                        if not was_cancelled:
                            raise
                for index, state in states.items():
                    is_ours = index in submission.parts or not submission.adopted
                    if is_ours and state.state not in verdicts.ENDS:
                        yield f"{job}_{index}", state


def some_of(names: Iterable[str]) -> str:
    """Some names, to be read behind what is said of all."""
    known = sorted(names)
    return f" ({', '.join(known[:_MANY])}{', …' if len(known) > _MANY else ''})" if known else ""


def _names_of(submissions: Iterable[Submission]) -> dict[str, str]:
    """The names of their jobs."""
    return {job: submission.name for submission in submissions for job in submission.jobs}
