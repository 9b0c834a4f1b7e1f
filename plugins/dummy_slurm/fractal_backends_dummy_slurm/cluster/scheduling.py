"""Which jobs start now, first come first served in each partition, and why the others wait."""

from __future__ import annotations

import time

from .controller import Controller
from .jobs import CANCELLED, Job, Submission

_AT_WORK_S = 0.02
"""For so long jobs are started in one go; then the controller answers others."""


class Scheduler:
    """See the module."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._reserved: dict[str, set[str]] = {}
        """Of each partition the nodes that wait for a job that came earlier."""

    def run(self) -> bool:
        """Start what can start. Returns whether there is more to start at once."""
        self._reserved = {}
        end = time.monotonic() + _AT_WORK_S
        for submission in list(self._controller.submissions.values()):
            for job in list(self._controller.pending.get(submission.id, {}).values()):
                self._try_job(job, submission)
            while submission.waiting and self._try_waiting(submission):
                if time.monotonic() > end:
                    return True
        return False

    def _try_job(self, job: Job, submission: Submission) -> None:
        reason = job.held or self._obstacle(submission, job.begin)
        if reason is None:
            reason = self._start(submission, job)
        if reason is not None:
            if reason == "DependencyNeverSatisfied" and submission.kill_on_invalid_dep:
                self._controller.end(job, CANCELLED, reason)
            else:
                self._controller.set_reason(job, reason)

    def _try_waiting(self, submission: Submission) -> bool:
        """Whether the next task of an array could start."""
        reason = submission.held or self._obstacle(submission, submission.begin)
        active = len(self._controller.active.get(submission.id, ()))
        if reason is None and 0 < submission.throttle <= active:
            reason = "JobArrayTaskLimit"
        if reason is None:
            reason = self._start(submission, None)
        if reason is None:
            return True
        if reason == "DependencyNeverSatisfied" and submission.kill_on_invalid_dep:
            submission.reason = reason
            self._controller.cancel_waiting(submission, None, None)
        else:
            self._controller.set_reason(submission, reason)
        return False

    def _obstacle(self, submission: Submission, begin: float | None) -> str | None:
        """What has nothing to do with what is free."""
        if begin is not None and begin > time.time():
            return "BeginTime"
        state, shown = self._controller.dependencies.look(submission)
        submission.dependency_shown = shown
        if state != "met":
            return "Dependency" if state == "waits" else "DependencyNeverSatisfied"
        limits = [self._limit(submission, name) for name in submission.partitions]
        if None not in limits:
            return limits[0]
        most_jobs = self._controller.config.limits_of(submission.user).max_jobs
        if most_jobs is not None and self._controller.running_of(submission.user) >= most_jobs:
            return "AssocMaxJobsLimit"
        return None

    def _limit(self, submission: Submission, name: str) -> str | None:
        """What a partition does not allow."""
        if self._controller.cluster.outgrows(submission, name):
            return "PartitionConfig"
        partition = self._controller.cluster.partitions[name]
        limit = partition.max_minutes
        if limit is not None and submission.minutes is not None and submission.minutes > limit:
            return "PartitionTimeLimit"
        most = partition.max_nodes or len(self._controller.cluster.members(partition))
        if submission.nodes > most:
            return "PartitionNodeLimit"
        return None

    def _start(self, submission: Submission, job: Job | None) -> str | None:
        """A job, or the next task of an array, in the first partition that can run it. Returns why not."""
        if time.time() < submission.submitted + self._controller.config.start_delay_s:
            return "None"
        reasons = []
        for name in submission.partitions:
            if self._limit(submission, name) is None:
                reason = self._start_in(name, submission, job)
                if reason is None:
                    return None
                reasons.append(reason)
        return next((reason for reason in reasons if reason in ("Resources", "Priority")), reasons[0])

    def _start_in(self, partition: str, submission: Submission, job: Job | None) -> str | None:
        reserved = self._reserved.setdefault(partition, set())
        controller = self._controller
        key = f"{job.id if job else submission.id}-{time.time_ns()}"
        nodes, reason = controller.cluster.place(submission, partition, key, reserved)
        if not nodes:
            if reason == "Resources":
                reserved.update(controller.cluster.able(submission, partition))
            return reason
        if job is None:
            job = controller.split(submission, submission.waiting[0])
        controller.start(job, submission, partition, [node.name for node in nodes], key)
        return None
