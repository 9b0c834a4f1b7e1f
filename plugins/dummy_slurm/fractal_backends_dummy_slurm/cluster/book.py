"""What the controller knows of submissions, jobs and nodes, and writes down."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from typing import Any

from . import jobs as states
from .accounting import Accounting
from .config import ClusterConfig
from .jobs import Job, Submission, as_dict
from .journal import Journal
from .nodes import Cluster


class Book:
    """Every change of a job goes through `save`."""

    def __init__(self, folder: str, config: ClusterConfig) -> None:
        self.config = config
        self.cluster = Cluster(config)
        self.journal = Journal(os.path.join(folder, "journal"))
        self.accounting = Accounting(config.accounting_lag_s)
        self.submissions: dict[int, Submission] = {}
        self.jobs: dict[int, Job] = {}
        self.tasks: dict[int, dict[int | None, Job]] = {}
        """The jobs of each submission."""
        self.pending: dict[int, dict[int, Job]] = {}
        """Those of each submission that wait."""
        self.active: dict[int, set[int]] = {}
        """Ids of those of each submission that run, or whose processes are still ending."""
        self.by_spool: dict[str, Job] = {}
        """By the folder of the run under way."""
        self.next_id = 1
        self.log: Callable[[str], None] = lambda _: None

    def count(self) -> int:
        """Records, as MaxJobCount counts them."""
        return len(self.jobs) + sum(len(submission.waiting) for submission in self.submissions.values())

    def count_of(self, user: str) -> int:
        """Jobs of a user that are not over."""
        of_user = [item for item in self.submissions.values() if item.user == user]
        alive = sum(not job.is_over for item in of_user for job in self.tasks[item.id].values())
        return alive + sum(len(item.waiting) for item in of_user)

    def running_of(self, user: str) -> int:
        """How many jobs of a user run."""
        return sum(len(ids) for key, ids in self.active.items() if self.submissions[key].user == user)

    def add(self, job: Job) -> None:
        """A new one."""
        self.jobs[job.id] = job
        self.tasks[job.array_id][job.index] = job

    def split(self, submission: Submission, index: int) -> Job:
        """A task of an array becomes a job of its own; the last one has the array's own id."""
        submission.waiting.remove(index)
        job_id = submission.id
        if submission.waiting:
            job_id, self.next_id = self.next_id, self.next_id + 1
        job = Job(job_id, submission.id, index, begin=submission.begin)
        self.add(job)
        return job

    def jobs_of(self, submission: Submission) -> Iterator[Job]:
        """Those that are jobs of their own."""
        yield from self.tasks[submission.id].values()

    def _index(self, job: Job) -> None:
        pending = self.pending.setdefault(job.array_id, {})
        active = self.active.setdefault(job.array_id, set())
        if job.state == states.PENDING:
            pending[job.id] = job
        else:
            pending.pop(job.id, None)
        if job.state == states.RUNNING or job.completing:
            active.add(job.id)
        else:
            active.discard(job.id)
        if job.spool:
            self.by_spool[job.spool] = job

    def save(self, job: Job) -> None:
        """Write down what has changed."""
        self._index(job)
        self.accounting.saw(self.journal.write(job=as_dict(job)))
        self.log(f"job {job.name} (id {job.id}) is {job.shown_state}, reason {job.reason}, on {job.nodes}")

    def save_submission(self, submission: Submission) -> None:
        """Write it down again."""
        self.accounting.saw(self.journal.write(submission=as_dict(submission)))

    def save_node(self, name: str) -> None:
        """Write it down."""
        node = self.cluster.nodes[name]
        kept = {key: getattr(node, key) for key in ("name", "state", "reason", "since", "back_at")}
        self.journal.write(node=kept)
        self.log(f"node {name} is {node.state} {node.reason}")

    def set_reason(self, item: Submission | Job, reason: str) -> None:
        """Why it waits."""
        if item.reason != reason:
            item.reason = reason
            self.save(item) if isinstance(item, Job) else self.save_submission(item)

    def replay(self) -> None:
        """Take in what the journal of an earlier controller has."""
        remembered, everything = self.journal.replay()
        for entry in everything:
            self.accounting.saw(entry)
        for entry in remembered:
            self._restore(entry)
        self._drop_what_is_empty()
        ever = [entry["submission"]["id"] for entry in everything if "submission" in entry]
        first = min(ever, default=self._first_id())  # what was forgotten leaves its ids to others
        known = (entry[kind]["id"] for entry in remembered for kind in ("submission", "job") if kind in entry)
        self.next_id = 1 + max(known, default=first - 1)

    def _drop_what_is_empty(self) -> None:
        """Arrays whose tasks were all cancelled as they waited, and which were forgotten since."""
        for key, item in list(self.submissions.items()):
            if not (self.tasks[key] or item.waiting or item.cancelled):
                self.drop(key)

    def _restore(self, entry: dict[str, Any]) -> None:
        if "submission" in entry:
            submission = Submission(**entry["submission"])
            self.submissions[submission.id] = submission
            self.tasks.setdefault(submission.id, {})
        elif "job" in entry:
            job = Job(**entry["job"])
            if (submission_ := self.submissions.get(job.array_id)) is not None:
                self.add(job)
                self._index(job)
                if job.index in submission_.waiting and job.index is not None:
                    submission_.waiting.remove(job.index)
        elif "gone" in entry:
            self.drop(entry["gone"])
        elif "node" in entry:
            node = self.cluster.nodes[entry["node"]["name"]]
            for name, value in entry["node"].items():
                setattr(node, name, value)

    def drop(self, job_id: int) -> None:
        """Know no more of a job, or of what is left of an array."""
        job = self.jobs.pop(job_id, None)
        array_id = job_id if job is None else job.array_id
        submission = self.submissions.get(array_id)
        if submission is None:
            return
        if job is not None:
            self.tasks[array_id].pop(job.index, None)
            self.pending[array_id].pop(job_id, None)
            self.active[array_id].discard(job_id)
        elif submission.cancelled:
            submission.cancelled = None
        if not (self.tasks[array_id] or submission.waiting or submission.cancelled):
            del self.tasks[array_id], self.submissions[array_id]
            self.pending.pop(array_id, None)
            self.active.pop(array_id, None)

    def forget(self, job: Job) -> None:
        """Its record vanishes."""
        self.journal.write(gone=job.id)
        self.log(f"job {job.name} is forgotten")
        self.drop(job.id)

    def _first_id(self) -> int:
        """Two clusters on one machine should not have the same ids: scripts look for processes by them."""
        return self.config.first_job_id or random.randrange(1_000, 60_000_000)  # noqa: S311
