"""Runs the units of one run as job arrays."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import cast

from fractal_backends import (
    Cause,
    InvalidInputError,
    Options,
    Outcome,
    RunInfo,
    Unit,
    UnitEvent,
    UnitExecutor,
    UnitState,
)

from .adoption import adopted, find_job
from .calls import SchedulerError
from .cancelling import Canceller, some_of
from .options import SlurmOptions
from .places import Place, PlaceError
from .queue_watch import watch_of
from .records import Records
from .scheduler import Scheduler
from .submission import Submission
from .submitting import Submitter, pause_after
from .tracking import Tracker

_LAST_S, _QUICK_S, _SLOW_S = 0.01, 0.05, 1.0
_SHARE = 10
"""The runner sleeps so many times as long as it worked, so that it uses little of a core."""
_OVER_S = 2.0
_FIRST_WARNING_S, _WARN_S = 5.0, 30.0
_SILENT_S = 60.0
"""For so long beyond the time between two questions nothing is said of a scheduler that does not answer."""


@dataclass(eq=False)
class _Lot:
    """Units that are to be laid out as submissions."""

    units: Sequence[Unit]
    attempt: int
    tries: int = 0
    try_at: float = 0.0
    """When that is to be tried again, on the monotonic clock."""


class SlurmExecutor(UnitExecutor):
    """Submits, follows and cancels the jobs of one run."""

    def __init__(self, run: RunInfo, scheduler: Scheduler, place: Place) -> None:
        self._logger = run.logger
        self._scheduler = scheduler
        self._queue = watch_of(scheduler)
        self._place = place
        self._submitter = Submitter(run, scheduler, place)
        self._lock = threading.Lock()
        """Held while jobs are submitted or looked at."""
        self._cancelled = threading.Event()
        self._gone = threading.Event()
        """After a cancel: nothing is left in the queue."""
        self._lots: list[_Lot] = []
        self._waiting: list[Submission] = []
        self._trackers: list[Tracker] = []
        self._past: list[Tracker] = []
        self._options = SlurmOptions()
        self._pause_s = 0.0
        self._records = Records(scheduler)
        self._told_at = 0.0
        """When jobs were last submitted, or it was said that nothing is heard of them."""
        self._knew_at = 0.0
        """When it was last known how all jobs ended that did."""

    def run(self, units: Sequence[Unit], options: Options) -> Iterator[UnitEvent]:
        """See `UnitExecutor.run`."""
        self._options = cast(SlurmOptions, options)
        with self._lock:
            events = list(self._adopt([unit for unit in units if unit.handle is not None]))
            is_late = self._cancelled.is_set()
            for tracker in self._trackers if is_late else ():
                tracker.read()
        yield from events
        if is_late:  # for a cancel that ended all there was to follow
            self._gone.wait()
            self._end_jobs()
        self._plan([unit for unit in units if unit.handle is None])
        while self._lots or self._waiting or self._trackers:
            self._cancelled.wait(self._pause_s)
            with self._lock:
                events = [] if self._cancelled.is_set() else list(self._step())
            yield from events
            if self._cancelled.is_set():
                yield from self._end_cancelled()
                return

    def _plan(self, units: Sequence[Unit], attempt: int = 1) -> None:
        """Lay out submissions in the next step."""
        if units:
            self._lots.append(_Lot(units, attempt))

    def _lay_out(self, lot: _Lot) -> Iterator[UnitEvent]:
        try:
            planned = self._submitter.plan(lot.units, self._options, lot.attempt)
        except (InvalidInputError, SchedulerError, PlaceError) as error:
            if isinstance(error, SchedulerError) and error.may_pass:
                lot.try_at = time.monotonic() + pause_after(lot.tries)
                lot.tries += 1
                unknown = f"The limits of the site are not known yet: {error}"
                self._logger.warning(unknown)
                yield from (UnitEvent(unit, UnitState.QUEUED, info=unknown) for unit in lot.units)
                return
            self._lots.remove(lot)
            yield from _ended(lot.units, Cause.LAUNCH_FAILED, str(error))
            return
        self._lots.remove(lot)
        self._waiting += planned
        for submission in planned:
            yield from _queued(submission, "to be submitted")

    def _step(self) -> Iterator[UnitEvent]:
        if due := [lot for lot in self._lots if time.monotonic() >= lot.try_at]:
            for lot in due:
                yield from self._lay_out(lot)
            self._pause_s = 0.0
            return
        for submission in list(self._waiting):
            if time.monotonic() >= submission.try_at and not self._scheduler.hurry.is_set():
                go_on = self._find if submission.adopted else self._submit
                yield from go_on(submission)
        snapshot = self._queue.look(self._options.poll_interval)
        self._tell_silence()
        begun, used = time.monotonic(), time.thread_time()
        for tracker in list(self._trackers):
            if tracker.is_due:
                tracker.read()
            self._watch(tracker)
            yield from tracker.look(snapshot)
            self._cancel_hopeless(tracker)
            retry, tracker.retry = tracker.retry, []
            if retry:
                attempt = tracker.submission.attempt + 1
                self._logger.warning("No word of a start of %d units, which are submitted again", len(retry))
                self._plan(retry, attempt)
            if tracker.is_over:
                self._leave(tracker)
        spent, used = time.monotonic() - begun, time.thread_time() - used
        self._pause_s = min(_SLOW_S, max(_QUICK_S, spent, _SHARE * used))

    def _tell_silence(self) -> None:
        now, problems = time.monotonic(), [tracker.problem for tracker in self._trackers if tracker.problem]
        if not problems:
            self._knew_at = now
        since = max(min(self._queue.heard_at, self._knew_at), self._told_at)
        if self._trackers and now > since + self._options.poll_interval + _SILENT_S:
            self._told_at = now
            of_queue = self._queue.problem if self._queue.problem_at > since else "squeue hangs"
            why = problems[0] if problems else of_queue
            self._logger.warning("SLURM does not say what becomes of the jobs, and is asked on: %s", why)

    def _submit(self, submission: Submission) -> Iterator[UnitEvent]:
        try:
            self._submitter.submit(submission)
        except SchedulerError as error:
            if not error.may_pass:
                yield from self._refused(submission, error)
                return
            told = [submission]
            if error.lacks_room and not self._trackers:  # no end of our own jobs will make room
                place = self._waiting.index(submission)
                self._waiting[place : place + 1] = told = self._submitter.split(submission, self._options)
            if error.lacks_room:  # nor is there any for the others
                told += [other for other in self._waiting if not other.try_at and other not in told]
                for other in self._waiting:
                    other.try_at = max(other.try_at, submission.try_at)
            for other in told:
                yield from _queued(other, f"the submission is tried again: {error}")
            return
        except PlaceError as error:
            yield from self._refused(submission, error)
            return
        self._waiting.remove(submission)
        self._follow(submission)
        yield from _queued(submission)

    def _refused(self, submission: Submission, error: Exception) -> Iterator[UnitEvent]:
        self._waiting.remove(submission)
        self._place.remove(submission.folder)
        yield from _ended(submission.units, Cause.LAUNCH_FAILED, str(error))

    def _follow(self, submission: Submission) -> None:
        tracker = Tracker(submission, self._place, self._options, self._records)
        self._trackers.append(tracker)
        self._told_at = time.monotonic()
        self._watch(tracker)

    def _watch(self, tracker: Tracker) -> None:
        """Ask for its jobs: receipts may tell of one that a submission without an answer became, too."""
        submission = tracker.submission
        fresh = [job for job in submission.jobs if job not in tracker.watched]
        if fresh:
            names = dict.fromkeys(fresh, submission.name)
            tracker.watched.update(names)
            self._queue.watch(names)

    def _leave(self, tracker: Tracker) -> None:
        self._trackers.remove(tracker)
        self._past.append(tracker)
        for submission in self._waiting:  # maybe for want of room
            submission.try_at = min(submission.try_at, time.monotonic() + _SLOW_S)
        self._queue.forget(tracker.watched)

    def _adopt(self, units: Sequence[Unit]) -> Iterator[UnitEvent]:
        found = adopted(units)
        for unit, outcome in found.lost:
            yield UnitEvent(unit, UnitState.ENDED, outcome)
        for submission in found.submissions:
            if submission.job is None:
                self._waiting.append(submission)
            else:
                self._follow(submission)
            yield from _queued(submission, "adopted")

    def _find(self, submission: Submission) -> Iterator[UnitEvent]:
        """Look for the job of an earlier runner that did not get the answer of sbatch."""
        is_late = time.monotonic() > submission.since + self._options.receipt_deadline
        try:
            find_job(submission, self._scheduler, self._place)
            if submission.job is None and is_late:
                self._give_up(submission)
        except SchedulerError as error:
            self._logger.warning("It is not known yet whether %s is in the queue: %s", submission.name, error)
            is_late = False
        if submission.job is not None:
            self._waiting.remove(submission)
            self._follow(submission)
            yield from _queued(submission, "adopted")
        elif is_late:
            self._waiting.remove(submission)
            info = f"SLURM knows no job of the submission {submission.folder}; none can start it any more."
            yield from _ended(submission.units, Cause.LOST, info)
        else:
            submission.try_at = time.monotonic() + pause_after(submission.tries)
            submission.tries += 1

    def _give_up(self, submission: Submission) -> None:
        """See to it that no unit is started by a job that comes later. Raises SchedulerError."""
        self._place.remove(submission.folder)  # without it the job script ends
        if came_meanwhile := self._scheduler.find(submission.name):
            self._scheduler.cancel(came_meanwhile, user=self._place.user)

    def _cancel_hopeless(self, tracker: Tracker) -> None:
        if tracker.hopeless:
            try:
                self._canceller().cancel(tracker.hopeless, [tracker.submission])
            except SchedulerError as error:
                self._logger.warning("Jobs that cannot start are not cancelled yet: %s", error)
            else:
                tracker.hopeless = []

    def cancel(self) -> None:
        """See `UnitExecutor.cancel`."""
        if self._ends_here():
            try:
                self._end_jobs()
            finally:
                self._gone.set()
        self._gone.wait()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._wait_for_last_lines()
        try:
            self.cancel()
        finally:
            self._records.close()
        for submission in self._waiting:  # of a run that was ended by an error
            if not submission.adopted:
                self._place.remove(submission.folder)
        for tracker in [*self._trackers, *self._past]:
            if tracker.may_be_removed:
                self._place.remove(tracker.submission.folder)

    def _ends_here(self) -> bool:
        """Take what had ended so far; whether this is the first that wants the end."""
        if not self._cancelled.is_set():
            self._scheduler.hurry.set()
        with self._lock:
            self._scheduler.hurry.clear()
            first = not self._cancelled.is_set()
            self._cancelled.set()
            if first:
                for tracker in self._trackers:
                    tracker.read()
        return first

    def _end_cancelled(self) -> Iterator[UnitEvent]:
        self._gone.wait()
        for tracker in list(self._trackers):
            yield from tracker.give_up()
            self._leave(tracker)
        for submission in self._waiting:
            self._place.remove(submission.folder)
            yield from _ended(submission.units, Cause.CANCELLED, "")
        for lot in self._lots:
            yield from _ended(lot.units, Cause.CANCELLED, "")
        self._lots.clear()
        self._waiting.clear()

    def _wait_for_last_lines(self) -> None:
        """Job scripts whose units have ended are about to end too, unless they were cancelled."""
        end = time.monotonic() + _OVER_S
        while time.monotonic() < end and not self._trackers and not self._gone.is_set():
            left = [tracker for tracker in self._past if tracker.array_tasks.are_left]
            if not left:
                return
            for tracker in left:
                tracker.read()
            self._cancelled.wait(_LAST_S)

    def _end_jobs(self) -> None:
        """Cancel what is left, and wait until the queue shows that it is gone."""
        canceller = self._canceller()
        pause_s, warn_at = _QUICK_S, time.monotonic() + _FIRST_WARNING_S
        kept: set[Tracker] = set()
        while True:
            try:
                self._follow_lost()
                # Where units have not ended, jobs may start again that are over.
                followed = [*self._trackers, *(past for past in self._past if past.array_tasks.are_left)]
                for tracker in set(followed) - kept:
                    tracker.keep_from_starting()
                kept.update(followed)
                if followed:
                    canceller.end(followed)
                if not (coming := [lost.name for lost in self._waiting if lost.may_come]):
                    return
                raise SchedulerError(f"SLURM may still accept {', '.join(coming)}", may_pass=True)
            except SchedulerError as error:
                if time.monotonic() > warn_at:
                    warn_at = time.monotonic() + _WARN_S
                    names = some_of(tracker.submission.name for tracker in kept)
                    self._logger.warning("Cannot say yet that all jobs have ended%s: %s", names, error)
            time.sleep(pause_s)
            pause_s = min(_SLOW_S, 2 * pause_s)

    def _canceller(self) -> Canceller:
        interval_s = self._options.poll_interval
        return Canceller(
            self._scheduler, self._queue, self._records, self._place.user, self._logger, interval_s
        )

    def _follow_lost(self) -> None:
        """Know all that was submitted without an answer. Raises SchedulerError."""
        self._submitter.find_others(tracker.submission for tracker in (*self._trackers, *self._past))
        self._submitter.find_lost(self._waiting)
        for submission in [submission for submission in self._waiting if submission.job]:
            self._waiting.remove(submission)
            self._follow(submission)


def _queued(submission: Submission, info: str = "") -> Iterator[UnitEvent]:
    for index, part in submission.parts.items():
        handle = submission.handle(index)
        for unit in part:
            yield UnitEvent(unit, UnitState.QUEUED, handle=handle, info=info)


def _ended(units: Sequence[Unit], cause: Cause, info: str) -> Iterator[UnitEvent]:
    for unit in units:
        yield UnitEvent(unit, UnitState.ENDED, Outcome(cause, info))
