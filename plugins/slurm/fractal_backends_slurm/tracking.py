"""What becomes of the units of one submission, from receipts and from what the scheduler says."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from fractal_backends import Cause, Outcome, Unit, UnitEvent, UnitState

from . import verdicts
from .array_tasks import ArrayTasks, KnownEnd
from .calls import SchedulerError
from .endings import Endings
from .fence import Fence
from .options import SlurmOptions
from .places import Place
from .queue_watch import Snapshot
from .receipts import Note, array_task_of
from .records import NoAnswerYetError, Records
from .scheduler import JobState
from .submission import UNITS_FILE, Submission
from .words import Words

_NOTHING = Note()
_PAUSE_S = 0.05
_READ_SHARE, _LONGEST_UNREAD_S = 20, 1.0
"""Receipts are read again after so many times as long as that took, but not later than that,"""
_UNREAD_SHARE = 20
"""nor than this share of the time for which they may be late."""
_SURE_S = 3.0
"""For how long a job must have waited for what never comes."""
_MOST_ATTEMPTS, _MOST_ON_NODES = 3, 6
"""How often a unit is submitted that was never started. For two minutes nodes refuse the ids of jobs that a
controller has forgotten, and gives to others."""
_KILLED_SHARE = 10
"""A job that was ended from outside has no last line to wait for: that share of the time must do."""
_LATE_S = 5.0
"""For how long accounting is waited for, which knows who cancelled a job."""


@dataclass
class _Suspect:
    """A unit that failed in a way that may have been SLURM's doing."""

    since: float
    """When that was noticed, on the monotonic clock."""
    of_step: Outcome | None
    """The verdict on its step alone, where it could not write down its own end."""
    lived_on: bool = False
    """Whether its job was seen to run on."""
    settled_at: float | None = None
    """When the scheduler had had its say, on the same clock."""


class Tracker:
    """Follows the units of a submission that was accepted."""

    def __init__(self, submission: Submission, place: Place, options: SlurmOptions, records: Records) -> None:
        self.submission = submission
        self.retry: list[Unit] = []
        """Units that were never started, to be submitted again."""
        self.hopeless: list[str] = []
        """Array tasks to cancel: they wait for what does not come."""
        self.watched: dict[str, str] = {}
        """The jobs that the scheduler is asked for, with their names."""
        self.array_tasks = ArrayTasks(submission, records)
        self._place = place
        self._options = options
        self._open = {unit.label: (index, unit) for index, part in submission.parts.items() for unit in part}
        self._left = {index: {unit.label: unit for unit in part} for index, part in submission.parts.items()}
        """The same, by array task."""
        self._growing: set[str] = set()
        self._full: set[str] = set()
        """Receipts, by name."""
        self._read_at = self._looked_at = self._took_s = 0.0
        self._started: set[str] = set()
        self._came_on: set[int] = set()
        """Array tasks that started a unit."""
        self._touched: dict[str, None] = dict.fromkeys(submission.receipts.notes)
        self._suspects: dict[str, _Suspect] = {}
        self._fence = Fence(submission, place, options.receipt_deadline)
        self._endings = Endings(place, options.receipt_deadline)
        self._words = Words(submission, place)
        self.problem = ""
        """Why it was not known at the last look how some array tasks ended, if it was not."""
        self._reasons: dict[int, tuple[str, float]] = {}
        """Why array tasks wait, as last told, and since when; only of those that were last seen to wait."""

    @property
    def is_over(self) -> bool:
        """Whether all units have ended, or are to be submitted again."""
        return not self._open and not self._endings

    @property
    def may_be_removed(self) -> bool:
        """Whether nobody else needs the submission's folder."""
        submission = self.submission
        if not submission.adopted:
            return True
        labels = {*self._place.text(submission.folder / UNITS_FILE).split()}
        others = labels - {unit.label for unit in submission.units}
        notes = submission.receipts.notes
        have_ended = all(label in notes and notes[label].end is not None for label in others)
        return bool(labels) and have_ended  # without labels the file could not be read

    @property
    def is_due(self) -> bool:
        """Whether receipts may be read: where that takes calls, a load for others, not all the time."""
        if not self._place.takes_calls:
            return True
        longest_s = min(_LONGEST_UNREAD_S, self._options.receipt_deadline / _UNREAD_SHARE)
        return time.monotonic() > self._read_at + min(longest_s, _READ_SHARE * self._took_s)

    def read(self) -> None:
        """Take in new receipts."""
        submission, self._read_at = self.submission, time.monotonic()
        self._full.update(name for name in self._growing if self._is_full(name))
        self._growing -= self._full
        for name, text in self._place.receipts(submission.folder, self._full):
            self._growing.add(name)
            labels = submission.receipts.take(name, text.decode(errors="replace"))
            self._touched.update(dict.fromkeys(labels))
            self.array_tasks.receipt_was_read(*(array_task_of(name) or ("", 0)))
        self._took_s = time.monotonic() - self._read_at

    def _is_full(self, name: str) -> bool:
        """Whether nothing more is wanted from a receipt."""
        job, index = array_task_of(name) or ("", -1)
        return index not in self._left and self.submission.receipts.is_over(job, index)

    def look(self, snapshot: Snapshot) -> Iterator[UnitEvent]:
        """What happened, by the receipts that were read and this answer of the scheduler."""
        self._words.forget()
        self.problem = ""
        yield from self._look_at_receipts()
        self.array_tasks.snapshot = snapshot
        if snapshot.asked_at > self._looked_at:
            self._looked_at = snapshot.asked_at
            indices = {*self._left}
        else:  # time may have passed for these
            suspect = {self._open[label][0] for label in self._suspects}
            indices = suspect.union(self.array_tasks.that_ended(self._left))
        for index in sorted(indices):
            yield from self._look_at_part(index, list(self._left[index].values()))
        yield from self._endings.bring_home()
        self._fence.put()

    def keep_from_starting(self) -> None:
        """No unit begins from here on, whatever becomes of its job."""
        self._fence.close(list(self._open))

    def give_up(self) -> Iterator[UnitEvent]:
        """After a cancel: what had ended by the last reading, or has ended well since, keeps its verdict; all
        else is cancelled."""
        self._fence.clear()
        yield from self._look_at_receipts()
        notes = self.submission.receipts.notes
        had_ended = {label for label in self._open if notes.get(label, _NOTHING).end is not None}
        self.read()
        for label, (_, unit) in list(self._open.items()):
            note = notes.get(label, _NOTHING)
            suspect = self._suspects.get(label)
            if note.end is not None and (label in had_ended or note.end.is_good):
                yield from self._tell_start(label, note)
                self._end(unit, verdicts.of_end_and_state(note, note.end, None), note)
            else:
                self._end(unit, (suspect and suspect.of_step) or Outcome(Cause.CANCELLED), note)
        yield from self._endings.bring_home()
        while self._endings:
            time.sleep(_PAUSE_S)
            yield from self._endings.bring_home()

    def _look_at_receipts(self) -> Iterator[UnitEvent]:
        notes = self.submission.receipts.notes
        touched, self._touched = [label for label in self._touched if label in self._open], {}
        # Ends first: what follows in the same array task must not be told to run beside what it followed.
        ended = [label for label in touched if notes[label].end is not None]
        for label in sorted(ended, key=lambda label: notes[label].over_at):
            yield from self._look_at_receipt(label)
        yield from self._endings.bring_home()
        for label in [label for label in touched if label in self._open]:
            yield from self._look_at_receipt(label)

    def _look_at_receipt(self, label: str) -> Iterator[UnitEvent]:
        index, unit = self._open[label]
        note = self.submission.receipts.notes[label]
        yield from self._tell_start(label, note)
        self._judge_by_receipt(unit, note, index)

    def _tell_start(self, label: str, note: Note) -> Iterator[UnitEvent]:
        index, unit = self._open[label]
        if note.started_at is not None and label not in self._started:
            self._started.add(label)
            self._came_on.add(index)
            handle = self.submission.handle(index, note.job)
            yield UnitEvent(unit, UnitState.STARTED, handle=handle, time=note.started_at)

    def _judge_by_receipt(self, unit: Unit, note: Note, index: int) -> None:
        if unit.label in self._fence and verdicts.was_given_up(note):
            return  # by what became of its job
        outcome = verdicts.of_refusal(note, unit.task_command[0], unit.log_file)
        if note.end is not None:
            others = self._notes_of(reversed(self._left[index].values()))  # the last ones tell it soonest
            is_last = not note.end.is_good and all(other.over_at <= note.over_at for other in others)
            limit_s = self.submission.receipts.limit_of(note.job, index)
            outcome = verdicts.of_end(note, note.end, limit_s, is_last=is_last)
            if outcome is None:
                self._suspects.setdefault(unit.label, _Suspect(time.monotonic(), None))
        elif note.step is not None and not note.refused:
            outcome = verdicts.of_step(note, self._words.on_step(unit))
            if outcome is not None and outcome.cause in (Cause.KILLED, Cause.CANCELLED):
                self._suspects.setdefault(unit.label, _Suspect(time.monotonic(), outcome))
                outcome = None  # perhaps with its job
        if outcome is not None:
            self._end(unit, outcome, note)

    def _notes_of(self, units: Iterable[Unit]) -> Iterator[Note]:
        return (self.submission.receipts.notes.get(unit.label, _NOTHING) for unit in units)

    def _close(self, unit: Unit) -> None:
        index, _ = self._open.pop(unit.label)
        del self._left[index][unit.label]
        if not self._left[index]:
            del self._left[index]
        self._suspects.pop(unit.label, None)

    def _end(self, unit: Unit, outcome: Outcome, note: Note = _NOTHING) -> None:
        has_failed = outcome.cause in (Cause.TASK_ERROR, Cause.KILLED) and note.end is not None
        if has_failed or outcome.cause is Cause.INVALID_COMMAND:
            job, (index, _) = note.job or self.submission.job or "", self._open[unit.label]
            outcome = verdicts.with_words(outcome, self._words.last_on_job(job, index))
        self._close(unit)
        self._endings.add(unit, outcome, has_output=note.end is not None and note.end.has_output)

    def _look_at_part(self, index: int, left: Sequence[Unit]) -> Iterator[UnitEvent]:
        receipts, own = self.submission.receipts, self.submission.job or ""
        is_only_job = len(self.submission.jobs) == 1
        state = self.array_tasks.look_at(own, index)
        if state is not None and state.state in verdicts.RUNNING:
            self._reasons.pop(index, None)
        for unit in [unit for unit in left if unit.label in self._suspects]:
            note = receipts.notes[unit.label]
            with self._unless_unknown():
                self._look_at_suspect(unit, note, note.job or own, index)
        for unit in left:
            if unit.label in self._suspects or unit.label not in self._open:
                continue
            note = receipts.notes.get(unit.label, _NOTHING)
            job = note.job or own
            end = self.array_tasks.end_of(job, index)
            if end is None and is_only_job:
                break  # nor is there one for the other units of this array task
            with self._unless_unknown():
                if end is not None and self._has_settled(end, note, job, index):
                    self._judge_by_state(unit, note, job, index, end)
                elif end is not None and note.started_at is None and self.array_tasks.is_plausible(end):
                    self._may_still_start(unit, index, end.state)
        if state is None and index in self._reasons:
            state = verdicts.GONE
        if state is verdicts.GONE or (state is not None and state.state in verdicts.WAITING):
            waiting = [unit for unit in left if unit.label in self._open and unit.label not in self._started]
            yield from self._tell_reason(index, waiting, state)

    @contextmanager
    def _unless_unknown(self) -> Iterator[None]:
        """What takes an answer of the scheduler that is not here is done at another look."""
        try:
            yield
        except SchedulerError as error:
            self.problem = str(error)

    def _has_settled(self, end: KnownEnd, note: Note, job: str, index: int) -> bool:
        """Whether receipts that are not here by now will not come, and the scheduler has had its say."""
        patience, state, receipts = self._options.receipt_deadline, end.state, self.submission.receipts
        waited = time.monotonic() - end.since
        # A claim without a start: the receipt of the job that started it is still to come.
        is_over, snapshot = self.array_tasks.is_over(job, index), self.array_tasks.snapshot
        if is_over and (note.started_at is not None or note.refused != "claimed"):
            is_newer = job in snapshot.names and snapshot.asked_at > end.since
            is_ending = state is not None and verdicts.may_run(state)
            return waited >= patience or (is_newer and not is_ending)
        if state is not None and verdicts.was_ended_from_outside(state):
            has_no_node = not state.nodes  # it was ended while it waited, unless its controller is wrong
            if has_no_node != receipts.has_begun(job, index):
                patience /= _KILLED_SHARE
        return waited >= patience

    def _look_at_suspect(self, unit: Unit, note: Note, job: str, index: int) -> None:
        suspect, patience = self._suspects[unit.label], self._options.receipt_deadline
        snapshot, state = self.array_tasks.snapshot, self.array_tasks.state_of(job, index)
        now = time.monotonic()
        waited = now - suspect.since
        is_newer = job in snapshot.names and snapshot.asked_at > suspect.since
        if state is None:
            decided = is_newer or waited > patience
        elif state.state == "COMPLETING" or self.array_tasks.waits_anew(state, job, index):
            decided = False
        elif state.state in verdicts.RUNNING:  # only there it is the kernel that does not tell of memory
            decided = is_newer and (note.end is None or note.end.oom_kills == 0)
            suspect.lived_on |= is_newer and not self.submission.receipts.was_started_again(note, index)
        else:
            is_known = state.state in verdicts.ENDS | verdicts.WAITING
            decided = (is_known and is_newer) or verdicts.was_ended_from_outside(state)
        if not decided and not (self.array_tasks.is_over(job, index) and waited > patience):
            return
        suspect.settled_at = suspect.settled_at or now
        try:
            state = self._in_full(job, index, state, suspect.settled_at)
        except SchedulerError as error:
            if waited <= patience or isinstance(error, NoAnswerYetError):
                raise
        if state is None or not state.may_change or now - suspect.settled_at > _LATE_S:
            self._judge_suspect(unit, note, job, index, state)

    def _judge_suspect(self, unit: Unit, note: Note, job: str, index: int, state: JobState | None) -> None:
        suspect, words = self._suspects[unit.label], self._words.on_step(unit)
        receipts = self.submission.receipts
        went_on = receipts.went_on(unit.label, index)
        lived_on = suspect.lived_on or went_on
        is_requeued = (
            state is not None and state.state in verdicts.WAITING and not receipts.is_over(job, index)
        )
        is_cut_short = not lived_on and (is_requeued or receipts.was_cut_short(note, index))
        if receipts.was_started_again(note, index):
            state = None  # it is of the next start
        if is_cut_short and note.started_at is None:
            self._end_unstarted(unit, verdicts.of_unstarted(note, None, words), None, index, words)
            return
        if is_cut_short and (note.end is None or verdicts.was_ended(note.end)):
            outcome = verdicts.of_interrupted(note, state, words, started_again=True)
        elif suspect.of_step is not None:
            of_job = None if lived_on else state
            outcome = verdicts.of_step_and_state(note, suspect.of_step, of_job, words)
            if note.started_at is None:
                self._end_unstarted(unit, outcome, state, index, words)
                return
        else:
            assert note.end is not None
            words += "" if went_on else self._words.on_job(job, index)
            outcome = verdicts.of_end_and_state(note, note.end, state, words, lived_on=lived_on)
        self._end(unit, outcome, note)

    def _judge_by_state(self, unit: Unit, note: Note, job: str, index: int, end: KnownEnd) -> None:
        state = self._in_full(job, index, end.state, end.since)
        if state is not None and state.may_change and time.monotonic() - end.since < _LATE_S:
            return
        runs_on = state is not None and state.of_controller and state.state not in verdicts.ENDS
        if runs_on and not self.array_tasks.is_over(job, index):
            end.since = time.monotonic()  # squeue does not show it, for whatever reason
            return
        if self.submission.adopted and not self._place.text(self.submission.folder / UNITS_FILE):
            self._end(unit, verdicts.without_receipts(self.submission.folder))
            return
        words = self._words.on_job(job, index)
        if self.submission.receipts.ran_out_of_memory(job, index):
            state, words = verdicts.of_the_others(state, words)
        if note.started_at is not None or note.refused not in ("", "receipt", "cancelled"):
            again = self.submission.receipts.was_started_again(note, index)
            self._end(unit, verdicts.of_interrupted(note, state, words, again))
            return
        if note.step is not None:
            words += self._words.on_step(unit)
        self._end_unstarted(unit, verdicts.of_unstarted(note, state, words), state, index, words)

    def _end_unstarted(
        self, unit: Unit, outcome: Outcome, state: JobState | None, index: int, words: str
    ) -> None:
        if self._may_still_start(unit, index, state):
            return
        if not self._fence.has_failed(unit.label) and self._may_try_again(outcome, state, index, words):
            self._close(unit)
            self.retry.append(unit)
        else:
            self._end(unit, outcome)

    def _may_still_start(self, unit: Unit, index: int, state: JobState | None) -> bool:
        """Whether a job script may still start a unit; it is told not to."""
        if unit.label not in self._fence and not self.array_tasks.may_live_on(index, state):
            return False
        return not self._fence.has_held(unit.label, self._read_at)

    def _may_try_again(self, outcome: Outcome, state: JobState | None, index: int, words: str) -> bool:
        was_preempted = state is not None and state.state == "PREEMPTED"
        if self.submission.adopted or (outcome.cause is Cause.CANCELLED and not was_preempted):
            return False
        if index in self._came_on:
            return True
        # A job that was requeued may come to its end without what its first start had begun with.
        is_over = state is not None and state.state == "COMPLETED"
        is_lost = outcome.cause in (Cause.NODE_FAILURE, Cause.LOST) or verdicts.was_never_launched(words)
        may_pass = is_over or is_lost or was_preempted
        most = _MOST_ON_NODES if outcome.cause is Cause.NODE_FAILURE else _MOST_ATTEMPTS
        return may_pass and self.submission.attempt < most

    def _in_full(self, job: str, index: int, state: JobState | None, since: float) -> JobState | None:
        return self.array_tasks.in_full(job, index, state, since=since, waited=index in self._reasons)

    def _tell_reason(self, index: int, left: Sequence[Unit], state: JobState) -> Iterator[UnitEvent]:
        reason, since = self._reasons.setdefault(index, ("None", 0.0))
        if reason != state.reason:
            since = time.monotonic()
            self._reasons[index] = (state.reason, since)
            handle = self.submission.handle(index)
            info = "" if state.reason == "None" else state.reason
            for unit in left:
                yield UnitEvent(unit, UnitState.QUEUED, handle=handle, info=info)
        elif verdicts.can_never_start(state) and time.monotonic() - since > _SURE_S:
            self.hopeless.append(f"{self.submission.job}_{index}")
            info = f"SLURM says of its job that it cannot start: {state.reason}."
            for unit in left:
                self._end(unit, Outcome(Cause.LAUNCH_FAILED, info))
