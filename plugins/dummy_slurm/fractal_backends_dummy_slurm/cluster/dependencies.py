"""`--dependency=afterok:1:2,afterany:3`."""

from __future__ import annotations

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
        shown: list[str] = []
        never = False
        for part in submission.dependency.replace("?", ",").split(","):
            kind, *ids = part.split(":")
            for job_id in ids:
                state = self._state(kind, job_id.partition("+")[0])
                never |= state == "failed"
                if state != "met":
                    shown.append(f"{kind}:{job_id}({state})")
        if not shown:
            return "met", None
        return "never" if never else "waits", ",".join(shown)

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
        if (kind == "afterok" and not good) or (kind == "afternotok" and good):
            return "failed"
        return "met"
