"""What the scheduler keeps on record of jobs that are no longer in its queue."""

from __future__ import annotations

import time
from contextlib import ExitStack, closing, suppress
from dataclasses import replace

from .calls import ASK_S, Call, SchedulerError
from .scheduler import JobState, Scheduler

_FRESH_S = 1.0
"""For how long an answer is good, or that there is none,"""
_SHARE, _LONGEST_PAUSE_S = 5, 30.0
"""or for so many times as long as it took to find that out, but not longer than that."""
_PATIENCE_S = 0.25
"""For how long a runner waits for an answer before it goes on without."""
_CONTROLLER_S = 5.0
"""For how long one is waited for that tells since when the controller runs, before a submission."""
_UNWANTED_S = 5.0
"""An answer that nobody came for so long is of no use any more."""
_NO_ANSWER = "scontrol or sacct has not answered yet"
REGISTERED_S = 20.0
"""For so long after its start nodes register at a controller, with some to spare: it asks them after 3 s."""


class NoAnswerYetError(SchedulerError):
    """The scheduler was asked a moment ago."""


class _Question:
    """What the controller and accounting are being asked of a job. To be closed."""

    def __init__(self, scheduler: Scheduler, job: str) -> None:
        self.asked_at = self.wanted_at = time.monotonic()
        """When it was asked, and when somebody last came for the answer."""
        self._scheduler = scheduler
        self._controller: Call | None = None
        self._accounting: Call | None = None
        with ExitStack() as calls:
            with suppress(SchedulerError):  # there is no such command
                self._controller = calls.enter_context(closing(scheduler.ask_controller(job)))
            with suppress(SchedulerError):
                self._accounting = calls.enter_context(closing(scheduler.ask_accounting(job)))
            self._calls = calls.pop_all()

    def is_ready(self, wait_s: float) -> bool:
        """Whether there is no point in waiting longer than this."""
        calls = [call for call in (self._controller, self._accounting) if call is not None]
        return all(call.has_ended(wait_s) for call in calls) or time.monotonic() > self.asked_at + ASK_S

    def answer(self, name: str) -> dict[int, JobState]:
        """The controller's word goes first. Raises SchedulerError where it does not answer."""
        found: dict[int, JobState] = {}
        controlled: dict[int, JobState] = {}
        try:
            if self._controller is not None:
                controlled = self._scheduler.controlled(self._controller, name)
        except SchedulerError as error:
            if error.may_pass:
                raise
        is_accounted = False
        with suppress(SchedulerError):  # it is away, or cannot be understood
            if self._accounting is not None:
                found, is_accounted = self._scheduler.accounted(self._accounting, name), True
        for index, state in controlled.items():
            known = found.get(index)
            is_late = is_accounted and (known is None or known.state != state.state)
            cancelled_by = known.cancelled_by if known else None
            found[index] = replace(state, cancelled_by=cancelled_by, may_change=is_late)
        return found

    def close(self) -> None:
        """Ask no more."""
        self._calls.close()


class Records:
    """Asks the scheduler for one job at a time, not too often, and waits for no slow answer. To be closed."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._questions: dict[tuple[str, str], _Question] = {}
        self._found: dict[tuple[str, str], tuple[float, float, dict[int, JobState]]] = {}
        """When it was answered, when it had been asked, and what was said."""
        self._ask_at = 0.0
        self._problem = ""
        """Why the last question got no answer."""
        self._started_at = self._controller()
        self._looking: tuple[float, Call] | None = None
        """When the controller was asked since when it runs, while it has not answered,"""
        self._looked: tuple[float, float | None] = 0.0, None
        """and after which time it was last asked, and what it said."""

    def of(self, job: str, name: str, since: float) -> dict[int, JobState]:
        """How the array tasks of a job ended, as far as that is on record.

        `since`: when an end was noticed, on the monotonic clock; what was asked before does not tell of it.
        Raises SchedulerError where it is not known yet.
        """
        answered_at, asked_at, found = self._found.get((job, name), (0.0, 0.0, {}))
        if asked_at >= since and time.monotonic() - answered_at <= _FRESH_S:
            return found
        question = self._asked(job, name, since)
        del self._questions[job, name]
        try:
            with closing(question):
                found = question.answer(name)
        except SchedulerError as error:
            now = time.monotonic()
            pause_s = max(_FRESH_S, _SHARE * (now - question.asked_at))
            self._problem, self._ask_at = str(error), now + min(_LONGEST_PAUSE_S, pause_s)
            raise
        self._problem = ""
        self._found[job, name] = time.monotonic(), question.asked_at, found
        return found

    def _asked(self, job: str, name: str, since: float) -> _Question:
        """A question that is ready. Raises SchedulerError where there is none.

        One that was asked before an end is for those who wait for it; the next one is asked after it.
        """
        now, question = time.monotonic(), self._questions.get((job, name))
        if question is not None and now > question.wanted_at + _UNWANTED_S:
            self._questions.pop((job, name)).close()
            question = None
        if question is None:
            if self._problem and now < self._ask_at:
                raise SchedulerError(self._problem, may_pass=True)
            is_answered = all(other.is_ready(0) for other in self._questions.values())
            question = self._questions[job, name] = _Question(self._scheduler, job)
            question.is_ready(_PATIENCE_S if is_answered else 0)
        if question.asked_at >= since:
            question.wanted_at = now
        if question.asked_at < since or not question.is_ready(0):
            raise NoAnswerYetError(_NO_ANSWER, may_pass=True)
        return question

    def close(self) -> None:
        """Ask no more."""
        for question in self._questions.values():
            question.close()
        if self._looking is not None:
            self._looking[1].close()
        self._questions, self._looking = {}, None

    @property
    def controller(self) -> float | None:
        """Since when the controller runs; of one that has just been started, the one before it."""
        now = self._controller()
        return self._started_at if now is None or abs(time.time() - now) < REGISTERED_S else now

    def may_be_forgotten(self, at: float, known: float | None = None) -> bool:
        """Whether the controller that answered at that time, on the monotonic clock, may have been started
        again, and forgot some acts, since this was made, or since `controller` was `known`.

        Raises NoAnswerYetError.
        """
        now = self._looked_at(at)
        return now is None or now != self._known(known)

    def has_new_controller(self, at: float, known: float | None) -> bool:
        """Whether that controller says that it was started again since then. Raises NoAnswerYetError."""
        now, before = self._looked_at(at), self._known(known)
        return None not in (now, before) and now != before

    def _known(self, known: float | None) -> float | None:
        return self._started_at if known is None else known

    def _looked_at(self, at: float) -> float | None:
        """Since when the controller runs, as it says at that time on the monotonic clock, or later.

        None where it does not tell. Raises NoAnswerYetError.
        """
        known_at, now = self._looked
        if known_at >= at:
            return now
        now = None
        with suppress(SchedulerError):
            self._looking = self._looking or (time.monotonic(), self._scheduler.ask_config())
        if self._looking is not None:
            asked_at, question = self._looking
            if not question.has_ended(_PATIENCE_S) and time.monotonic() < asked_at + ASK_S:
                raise NoAnswerYetError(_NO_ANSWER, may_pass=True)
            self._looking = None
            with closing(question), suppress(SchedulerError):
                now = self._scheduler.started_at(question)
        self._looked = max(time.monotonic(), at), now
        return now

    @property
    def is_new(self) -> bool:
        """Whether the controller was started again a moment ago: what its nodes run that it has forgotten, it
        ends as they register, but not where that was cancelled just before.

        Raises SchedulerError where it does not answer now.
        """
        try:
            with closing(self._scheduler.ask_config()) as question:
                now = self._scheduler.started_at(question, REGISTERED_S)
        except SchedulerError as error:
            if error.may_pass:
                raise
            return False
        return now != self._started_at and abs(time.time() - now) < REGISTERED_S

    def _controller(self) -> float | None:
        try:
            with closing(self._scheduler.ask_config()) as question:
                return self._scheduler.started_at(question, _CONTROLLER_S)
        except SchedulerError:
            return None
