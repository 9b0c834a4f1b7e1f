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
        if self._controller.cluster.outgrows(submission):
            return "PartitionConfig"
        partition = self._controller.cluster.partitions[submission.partition]
        limit = partition.max_minutes
        if limit is not None and submission.minutes is not None and submission.minutes > limit:
            return "PartitionTimeLimit"
        most = partition.max_nodes or len(self._controller.cluster.members(partition))
        if submission.nodes > most:
            return "PartitionNodeLimit"
        most_jobs = self._controller.config.limits_of(submission.user).max_jobs
        if most_jobs is not None and self._controller.running_of(submission.user) >= most_jobs:
            return "AssocMaxJobsLimit"
        return None

    def _start(self, submission: Submission, job: Job | None) -> str | None:
        """A job, or the next task of an array. Returns why not."""
        reserved = self._reserved.setdefault(submission.partition, set())
        controller = self._controller
        if time.time() < submission.submitted + controller.config.start_delay_s:
            return "None"
        key = f"{job.id if job else submission.id}-{time.time_ns()}"
        nodes, reason = controller.cluster.place(submission, key, reserved)
        if not nodes:
            if reason == "Resources":
                reserved.update(controller.cluster.able(submission))
            return reason
        if job is None:
            job = controller.split(submission, submission.waiting[0])
        controller.start(job, submission, [node.name for node in nodes], key)
        return None
