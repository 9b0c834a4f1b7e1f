"""Jobs as commands show them: one row for all tasks of an array that wait, one for each other job."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from . import arrays, hostlist
from .arguments import Refused
from .controller import Controller
from .jobs import CANCELLED, PENDING, Job, Submission


@dataclass
class Record:
    """A job, or the tasks of an array that are no jobs of their own."""

    submission: Submission
    job: Job | None = None
    tasks: list[int] | None = None
    """Of those; None: of the job."""
    is_part: bool = False
    """Whether only these tasks were asked for, and maybe not all that wait."""

    @property
    def id(self) -> int:
        """The job's id; an array's own for tasks that wait."""
        return self.submission.id if self.job is None else self.job.id

    @property
    def shown_state(self) -> str:
        """As squeue shows it."""
        if self.job is not None:
            return self.job.shown_state
        return CANCELLED if self.submission.cancelled else PENDING

    @property
    def reason(self) -> str:
        """Why."""
        return self.submission.reason if self.job is None else self.job.reason

    @property
    def is_array(self) -> bool:
        """Whether it belongs to an array."""
        return self.submission.array is not None

    @property
    def index(self) -> str:
        """Of an array task; N/A where there is none."""
        if self.job is not None:
            return "N/A" if self.job.index is None else str(self.job.index)
        if self.tasks is None or self.tasks == [-1]:
            return "N/A"
        return arrays.show(self.tasks, 0 if self.is_part else self.submission.throttle)

    @property
    def name(self) -> str:
        """`12`, `12_3` or `12_[3-5%2]`."""
        if not self.is_array or self.index == "N/A":
            return str(self.submission.id)
        single = self.job is not None or self.index.isdecimal()
        return f"{self.submission.id}_{self.index}" if single else f"{self.submission.id}_[{self.index}]"

    @property
    def partition(self) -> str:
        """Where it runs or ran; before, all that were asked for."""
        return (self.job.partition if self.job else "") or self.submission.partition

    @property
    def cpus(self) -> int:
        """Those it was given; before, those that were asked for."""
        started = self.job is not None and self.job.nodes
        return self.submission.given_cpus if started else self.submission.all_cpus

    @property
    def nodes(self) -> str:
        """Where it runs or ran."""
        return hostlist.compress(self.job.nodes) if self.job is not None else ""

    @property
    def started(self) -> float | None:
        """When; of what was cancelled before, when that was."""
        return self.job.started if self.job is not None else self.submission.ended

    @property
    def ended(self) -> float | None:
        """When."""
        return self.job.ended if self.job is not None else self.submission.ended


def of_submission(controller: Controller, submission: Submission) -> Iterator[Record]:
    """Tasks that wait come first."""
    tasks = submission.waiting or submission.cancelled
    if tasks:
        yield Record(submission, None, list(tasks))
    for job in controller.jobs_of(submission):
        yield Record(submission, job)


def every(controller: Controller) -> Iterator[Record]:
    """All that there are."""
    for submission in controller.submissions.values():
        yield from of_submission(controller, submission)


def by_id(controller: Controller, text: str) -> list[Record]:
    """`12`, `12_3`, `12_[3,5-7]`. Raises ValueError for what is no id: each command has its
    own word for it."""
    number, underscore, rest = text.partition("_")
    job_id = int(number)
    submission = controller.submissions.get(job_id)
    if submission is None or (not underscore and job_id in controller.jobs and not submission.array):
        job = controller.jobs.get(job_id)
        return [] if job is None or underscore else [Record(controller.submissions[job.array_id], job)]
    records = list(of_submission(controller, submission))
    if not underscore:
        return records
    wanted = set(map(int, hostlist.expand(f"[{rest.strip('[]')}]")))
    chosen = []
    for record in records:
        if record.job is not None and record.job.index in wanted:
            chosen.append(record)
        elif record.job is None and (hit := sorted(wanted & set(record.tasks or ()))):
            chosen.append(Record(submission, None, hit, is_part=True))
    return chosen


def expand(records: Iterator[Record] | list[Record]) -> Iterator[Record]:
    """One for each task that waits."""
    for record in records:
        if record.job is None and record.tasks is not None:
            for index in record.tasks:
                yield Record(record.submission, None, [index], is_part=True)
        else:
            yield record


def is_on(record: Record, nodes: list[str]) -> bool:
    """Whether it runs or ran on one of some nodes."""
    return record.job is not None and not set(nodes).isdisjoint(record.job.nodes)


def nodes(command: str, option: str, text: str) -> list[str]:
    """The names in a list. Raises Refused."""
    try:
        return hostlist.expand(text)
    except ValueError as error:
        why = f"{command}: error: {error}\n{command}: error: '{text}' invalid entry for --{option}\n"
        raise Refused(why) from None


def names(text: str | None) -> set[str] | None:
    """A list with commas; None: all."""
    return None if text is None else {item for item in text.split(",") if item}


def split(text: str) -> list[str]:
    """At commas that are not in brackets."""
    items, depth = [""], 0
    for character in text:
        depth += {"[": 1, "]": -1}.get(character, 0)
        if character == "," and not depth:
            items.append("")
        else:
            items[-1] += character
    return [item for item in items if item]
