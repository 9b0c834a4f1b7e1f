"""`--dependency=afterok:1:2,afterany:3`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .jobs import COMPLETED, Job, Submission


@dataclass
class Dependencies:
    """Looks at jobs that others wait for. One that is unknown is no obstacle."""

    jobs: dict[int, Job]
    submissions: dict[int, Submission]
    tasks: dict[int, dict[int | None, Job]]

    def look(self, submission: Submission) -> tuple[str, str | None]:
        """ "met", "waits" or "never", and how scontrol shows what is left of it."""
        if not submission.dependency:
            return "met", None
        one_is_enough = "?" in submission.dependency
        states: list[str] = []
        shown: list[str] = []
        for part in submission.dependency.replace("?", ",").split(","):
            kind, *ids = part.split(":")
            for job_id in ids or [""]:
                state = self._state(kind, job_id.partition("+")[0]) if ids else self._singleton(submission)
                states.append(state)
                if state != "met":
                    shown.append(f"{kind}:{job_id}({state})" if ids else f"{kind}({state})")
        enough: Callable[[Iterable[bool]], bool] = any if one_is_enough else all
        if enough(state == "met" for state in states):
            return "met", None
        can_be = enough(state != "failed" for state in states)
        return "waits" if can_be else "never", ("?" if one_is_enough else ",").join(shown)

    def _singleton(self, submission: Submission) -> str:
        """One after the other of a user's jobs with one name."""
        earlier = (
            item
            for item in self.submissions.values()
            if item.id < submission.id and (item.name, item.user) == (submission.name, submission.user)
        )
        for item in earlier:
            jobs = self.tasks[item.id].values()
            if item.waiting or not all(job.is_over and not job.completing for job in jobs):
                return "unfulfilled"
        return "met"

    def _state(self, kind: str, job_id: str) -> str:
        number, _, index = job_id.partition("_")
        if not number.isdecimal():
            return "met"
        submission = self.submissions.get(int(number))
        jobs = list(self.tasks.get(int(number), {}).values()) or [
            job for job in [self.jobs.get(int(number))] if job is not None
        ]
        if index.isdecimal():
            jobs = [job for job in jobs if job.index == int(index)]
        waiting = submission is not None and bool(submission.waiting)
        if kind == "after":
            return "unfulfilled" if waiting or any(job.started is None for job in jobs) else "met"
        if waiting or not all(job.is_over and not job.completing for job in jobs):
            return "unfulfilled"
        if not jobs:
            return "met"
        good = all(job.state == COMPLETED and job.code == 0 for job in jobs)
        if (kind in ("afterok", "aftercorr") and not good) or (kind == "afternotok" and good):
            return "failed"
        return "met"
