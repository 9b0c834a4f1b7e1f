"""What becomes of the array tasks of one submission, from receipts and from what the scheduler says."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from . import verdicts
from .calls import SchedulerError
from .hostlist import expand
from .queue_watch import Snapshot
from .records import NoAnswerYetError, Records
from .scheduler import REST, JobState
from .submission import Submission

_CLOCKS_S = 2.0
"""As much may the clocks of a node and of the controller differ, which count whole seconds."""


@dataclass
class KnownEnd:
    """What is known of a start of an array task that came to its end."""

    since: float
    """When that was noticed, on the monotonic clock."""
    state: JobState | None
    """None: the scheduler knows it no more."""


class ArrayTasks:
    """The array tasks of a submission that was accepted; each is named by its job and its index."""

    def __init__(self, submission: Submission, records: Records) -> None:
        self.snapshot = Snapshot()
        """The last answer of the scheduler."""
        self._submission = submission
        self._receipts = submission.receipts
        self._records = records
        self._last_index = max(submission.parts, default=0)
        self._accepted_at = time.monotonic()
        self._controller = records.controller
        """The one that accepted it."""
        self._known_ends: dict[tuple[str, int], KnownEnd] = {}
        self._over_since: dict[tuple[str, int], float] = {}
        """When the ends of job scripts were read, on the monotonic clock."""
        self._starts_anew: dict[tuple[str, int], int] = {}
        """How often array tasks had been started that were over, and then seen to wait for another start."""

    def that_ended(self, indices: Iterable[int]) -> list[int]:
        """Those of which one job at least came to its end, as far as is known."""
        jobs, is_over = self._submission.jobs, self._receipts.is_over
        tasks = ((job, index) for index in indices for job in jobs)
        return [index for job, index in tasks if (job, index) in self._known_ends or is_over(job, index)]

    @property
    def are_left(self) -> bool:
        """Whether the job scripts of some may still be running, or run once more, as far as is known."""
        jobs, parts = self._submission.jobs, self._submission.parts
        return not all(self._is_done(job, index) for job in jobs for index in parts)

    def _is_done(self, job: str, index: int) -> bool:
        state = self.state_of(job, index)
        waits = state is not None and state.state in verdicts.WAITING and self._is_newer(job, index)
        return (self._receipts.is_over(job, index) and not waits) or self._has_ended(job, index)

    def _is_newer(self, job: str, index: int) -> bool:
        """Whether the scheduler said it after the end of the job script was read."""
        return self.snapshot.asked_at > self._over_since.get((job, index), math.inf)

    def _has_ended(self, job: str, index: int) -> bool:
        """Whether the scheduler said so. That it knows nothing of an array task is no end of it."""
        end = self._known_ends.get((job, index))
        return end is not None and end.state is not None and end.state.state in verdicts.ENDS

    def state_of(self, job: str, index: int) -> JobState | None:
        """What the scheduler last said of one."""
        return self._of(self.snapshot.of(job, self._submission.name), job, index)

    def _of(self, states: Mapping[int, JobState], job: str, index: int) -> JobState | None:
        rest = states.get(REST)
        if index in states or rest is None or rest.state not in verdicts.ENDS:
            return states.get(index)
        return None if self._receipts.has_begun(job, index) else rest

    def receipt_was_read(self, job: str, index: int) -> None:
        """There was something new in the receipt of one."""
        is_over = self._receipts.is_over(job, index)
        self._over_since[job, index] = time.monotonic() if is_over else math.inf
        if end := self._known_ends.get((job, index)):
            end.since = time.monotonic()  # whatever the scheduler says, it goes on

    def look_at(self, job: str, index: int) -> JobState | None:
        """Take in what the scheduler last said of one."""
        state = self.state_of(job, index)
        if state is not None and verdicts.will_start(state) and self._is_newer(job, index):
            self._starts_anew[job, index] = self._receipts.starts(job, index)
        return state

    def is_over(self, job: str, index: int) -> bool:
        """Whether the job script of one came to its end, and will not start anew."""
        known = self._starts_anew.get((job, index))
        return self._receipts.is_over(job, index) and self._receipts.starts(job, index) != known

    def waits_anew(self, state: JobState, job: str, index: int) -> bool:
        """Whether one whose job script came to its end waits for another start."""
        known = self._starts_anew.get((job, index))
        return state.state in verdicts.WAITING and self._receipts.starts(job, index) == known

    def end_of(self, job: str, index: int) -> KnownEnd | None:
        """What is known of the end of one; None while it has none."""
        state, is_over = self.state_of(job, index), self.is_over(job, index)
        if state is not None and state.state not in verdicts.ENDS and not is_over:
            self._known_ends.pop((job, index), None)
            return None
        is_unknown = job not in self.snapshot.names or self.snapshot.asked_at < self._accepted_at
        if is_unknown and not is_over:
            return self._known_ends.get((job, index))
        end = self._known_ends.setdefault((job, index), KnownEnd(time.monotonic(), state))
        end.state = state or end.state
        return end

    def forgotten(self, snapshot: Snapshot) -> Iterator[str]:
        """Those that run, as far as receipts tell, but not to the scheduler in this answer."""
        for job, index, node in self._receipts.running():
            end = self._known_ends.get((job, index))
            state = snapshot.of(job, self._submission.name).get(index) or (end.state if end else None)
            is_known = state is not None and node in expand(state.nodes)
            if not is_known and (index in self._submission.parts or not self._submission.adopted):
                yield f"{job}_{index} on {node}"

    def may_live_on(self, index: int, state: JobState | None) -> bool:
        """Whether a job script of an array task may go on although the scheduler says that it ended."""
        left = [job for job in self._submission.jobs if not self._receipts.is_over(job, index)]
        if left != [self._submission.job]:
            return bool(left)  # another job of the submission
        if state is not None and state.state not in verdicts.ENDS:
            return False
        is_lost = state is None or verdicts.was_lost_with_its_node(state)
        return is_lost or self.forgot

    def in_full(
        self, job: str, index: int, state: JobState | None, *, since: float, waited: bool
    ) -> JobState | None:
        """A state with all that is on record, where it is worth asking for.

        `since`: when an end was noticed, on the monotonic clock; `waited`: when last seen.

        Raises SchedulerError where that has yet to be answered, or nothing is known, as nobody answers now.
        """
        if state is not None and state.state == "COMPLETED":
            return state
        try:
            records = self._records.of(job, self._submission.name, since)
        except SchedulerError as error:
            if state is None or isinstance(error, NoAnswerYetError):
                raise
            records = {}
        found = self._of(records, job, index)
        if found is None and state is None:
            return verdicts.WITHDRAWN if waited and self._was_cancelled_waiting(job, index) else None
        if found is not None:
            state = replace(found, state=state.state, reason=state.reason or found.reason) if state else found
        if state is None:
            return None
        # The queue's word is the controller's, which may know nothing any more of what it ended.
        word = state if found else replace(state, of_controller=True)
        if self._was_forgotten(word, job, index, records):
            return replace(state, state=verdicts.FORGOTTEN)
        return state

    def _was_cancelled_waiting(self, job: str, index: int) -> bool:
        """Whether an array task that waited when last seen, and of which nothing is left, was cancelled."""
        if self._receipts.is_over(job, index):
            return False
        has_begun, forgot = self._receipts.has_begun(job, index), self.forgot
        if self.snapshot.knows(job, self._submission.name):  # others of that job
            return not has_begun or forgot
        return not has_begun and not forgot

    @property
    def forgot(self) -> bool:
        """Whether the controller may have forgotten some acts."""
        return self._records.may_be_forgotten(self.snapshot.asked_at, self._controller)

    def is_plausible(self, end: KnownEnd) -> bool:
        """Whether there is more to an end than that the queue knows nothing of the array task: a state, or a
        controller that was started again."""
        asked_at, known = self.snapshot.asked_at, self._controller
        return end.state is not None or self._records.has_new_controller(asked_at, known)

    def _was_forgotten(self, state: JobState, job: str, index: int, records: Mapping[int, JobState]) -> bool:
        """Whether nobody cancelled an array task, but its node refused it: a controller that was started
        again had forgotten that it ran and started it anew, or gave it the number of another one.

        The last array task has the number of all, which are ended with it.
        """
        is_odd = self._is_odd(state, job, index)
        if not is_odd and state.state == "CANCELLED" and not state.cancelled_by:
            last = max(records, default=0) if self._submission.adopted else self._last_index
            end = self._known_ends.get((job, last), KnownEnd(0.0, None))
            known = records.get(last) or (end.state and replace(end.state, of_controller=True))
            is_odd = known is not None and self._is_odd(known, job, last)
        return is_odd and self.forgot

    def _is_odd(self, state: JobState, job: str, index: int) -> bool:
        """Whether an array task ended as one does that its controller had forgotten."""
        if state.state not in ("CANCELLED", "FAILED") or not state.of_controller:
            return False
        if not state.nodes or state.cancelled_by:
            return False  # it was cancelled while it waited, or by a user
        begun_at = self._receipts.begun_at(job, index)
        if self._receipts.began_beside_another(job, index):
            return True
        if begun_at is not None and state.started_at is not None:
            return state.started_at > begun_at + _CLOCKS_S
        # A script that was ended has a signal.
        is_cancelled = state.state == "CANCELLED" and not state.signal
        return is_cancelled and not self._receipts.has_begun(job, index)
