"""What the accounting database knows: later than the controller, and longer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from .jobs import NODE_FAIL, PENDING, REQUEUED, Job, Submission

_NOT_OVER = (PENDING, "RUNNING")


@dataclass
class Row:
    """A run of a job."""

    job: Job
    submission: Submission
    state: str
    since: float


@dataclass
class Accounting:
    """Every version of every run of a job, in order; an id that was used twice is two jobs."""

    lag_s: float
    _runs: dict[tuple[int, float, int], list[Row]] = field(default_factory=dict)
    _submissions: dict[tuple[int, float], tuple[float, Submission]] = field(default_factory=dict)
    _current: dict[int, Submission] = field(default_factory=dict)

    def saw(self, entry: dict[str, Any]) -> None:
        """An entry of the journal."""
        if "submission" in entry:
            submission = Submission(**entry["submission"])
            key = (submission.id, submission.submitted)
            since = self._submissions[key][0] if key in self._submissions else entry["t"]
            self._submissions[key] = (since, submission)
            self._current[submission.id] = submission
        elif "job" in entry:
            job = Job(**entry["job"])
            of = self._current.get(job.array_id)
            if of is not None:
                self._saw_job(entry["t"], job, of)

    def _saw_job(self, when: float, job: Job, of: Submission) -> None:
        if job.restarts and (earlier := self._runs.get((job.id, of.submitted, job.restarts - 1))):
            last = earlier[-1]
            if last.state in _NOT_OVER:  # it was requeued
                ending = NODE_FAIL if job.reason == "NodeDown" else REQUEUED
                ended = Job(**{**vars(last.job), "ended": when})
                earlier.append(Row(ended, of, ending, when))
        self._runs.setdefault((job.id, of.submitted, job.restarts), []).append(Row(job, of, job.state, when))

    def rows(self, now: float) -> Iterator[Row]:
        """Of each run what is known at this time, oldest job first."""
        for key in sorted(self._runs):
            known = [row for row in self._runs[key] if row.since <= now - self.lag_s]
            if known:
                yield known[-1]

    def waiting(self, now: float) -> Iterator[tuple[Submission, list[int]]]:
        """Tasks of arrays that are no jobs of their own."""
        started: dict[tuple[int, float], set[int | None]] = {}
        for row in self.rows(now):
            key = (row.job.array_id, row.submission.submitted)
            started.setdefault(key, set()).add(row.job.index)
        for key, (since, submission) in self._submissions.items():
            tasks = submission.cancelled or submission.waiting
            left = [index for index in tasks if index not in started.get(key, ())]
            if left and since <= now - self.lag_s:
                yield submission, left
