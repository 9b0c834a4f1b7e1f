"""What the job script writes down on the compute node, a line for each thing that happened."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_NAME = re.compile(r"(\d+)_(\d+)\.receipt")
_TICKS_PER_S = 100
"""Of the clock ticks that Linux shows, on every architecture."""


@dataclass(frozen=True, slots=True)
class End:
    """How a unit's command ended."""

    exit_code: int
    signal: int
    uptime: float
    """When it was noted, by the clock of `Note.uptime`."""
    wall_s: float
    cpu_s: float
    peak_mb: float | None
    oom_kills: int
    """Processes that the kernel ended for want of memory; -1 where it does not tell."""
    has_output: bool

    @property
    def is_good(self) -> bool:
        """Whether the command succeeded."""
        return self.exit_code == 0 and self.signal == 0 and self.oom_kills <= 0


@dataclass
class Note:
    """What is known of a unit from receipts."""

    started_at: float | None = None
    """Seconds since the epoch, by the node's clock."""
    job: str = ""
    """The job that started it, or tried to with a step."""
    host: str = ""
    end: End | None = None
    refused: str = ""
    """Why it was not started: `claimed` (some job had started it before), `log`, `command`, `cancelled`,
    or `receipt`: its start could not be noted, so that it claims nothing."""
    said: str = ""
    """The shell's words on that."""
    step: int | None = None
    """What srun returned, where the unit was a step of its own,"""
    step_uptime: float = 0.0
    """and when that was noted, by the clock of `uptime`."""
    uptime: float = 0.0
    start: int = 0
    """In which start of its array task it was started."""

    @property
    def over_at(self) -> tuple[float, float]:
        """After what nothing more came of it: the start, and the time by the clock of `uptime`."""
        if self.end is not None:
            return self.start, self.end.uptime
        if self.refused:
            return 0, 0.0
        return (math.inf, 0.0) if self.step is None else (self.start, self.step_uptime)


@dataclass
class _Job:
    """What is known of an array task.

    On a node that the scheduler does not reach an earlier start may live on beside the last one.
    """

    host: str = "?"
    """Where it was last started."""
    starts: int = 0
    """How often the scheduler started it: again after a node failed, or after it forgot that it had."""
    start_on: dict[str, int] = field(default_factory=dict)
    """The number of each start, by its node and its process there."""
    booted: dict[str, float] = field(default_factory=dict)
    """When the node of each was started, in seconds since the epoch."""
    over: set[int] = field(default_factory=set)
    """The starts that came to their end."""
    begun: tuple[str, float] | None = None
    """The node and process of the last start, and when it began, by the clock of `Note.uptime`."""
    limit_s: int | None = None
    """How long each of its units may run."""
    short: set[int] = field(default_factory=set)
    """The starts in which a unit ran out of memory, and wrote down its end."""
    last: dict[int, str] = field(default_factory=dict)
    """The unit that began last in each start."""

    def begin(self, host: str) -> None:
        """Take in a start by this process of a node, unless it is known."""
        if host not in self.start_on or self.start_on[host] in self.over:
            self.starts += 1
            self.host, self.start_on[host] = _node(host), self.starts


@dataclass
class Receipts:
    """All that the array tasks of one submission wrote down."""

    notes: dict[str, Note] = field(default_factory=dict)
    jobs: dict[tuple[str, int], _Job] = field(default_factory=dict)
    """By job id and index of the array task."""
    numbers: set[str] = field(default_factory=set)
    """The ids of the jobs that wrote something down."""
    _halves: dict[str, str] = field(default_factory=dict)

    def take(self, name: str, text: str) -> list[str]:
        """Take in what was added to a file; the labels of the units that it tells of."""
        found = array_task_of(name)
        if found is None:
            return []
        job = self.jobs.setdefault(found, _Job())
        self.numbers.add(found[0])
        *lines, self._halves[name] = (self._halves.get(name, "") + text).split("\n")
        labels = [self._take_line(found[0], job, line.split()) for line in lines]
        return [label for label in labels if label]

    def _take_line(self, number: str, job: _Job, words: list[str]) -> str | None:
        try:
            match words:
                case ["begun", host, uptime]:  # before worker_init, and with the next line
                    job.begin(host)
                    if job.start_on[host] == job.starts:
                        job.begun = host, float(uptime)
                case ["job", host, *limit]:
                    job.begin(host)
                    job.limit_s = int(limit[0]) if limit else None
                case ["booted", host, since]:
                    job.booted[host] = float(since)
                case ["over", host]:
                    job.over.add(job.start_on.get(host, job.starts))
                case ["started", label, host, uptime]:
                    started_at = job.booted.get(host, 0.0) + float(uptime)
                    start = job.start_on.get(host, job.starts)
                    self.notes[label] = Note(
                        started_at, number, _node(host), uptime=float(uptime), start=start
                    )
                    if float(uptime) >= self._note(job.last.get(start, label)).uptime:
                        job.last[start] = label
                    return label
                case ["ended", label, *rest]:
                    note = self._note(label)
                    if note.end is None and note.job == number:
                        note.end = _end(note, rest)
                        if note.end.oom_kills > 0:
                            job.short.add(note.start)
                    return label
                case ["refused", label, _, why, *said]:
                    note = self._note(label)
                    note.refused, note.said, note.host = why, " ".join(said), note.host or job.host
                    return label
                case ["step", label, code, uptime]:
                    note = self._note(label)
                    note.step, note.step_uptime = int(code), float(uptime)
                    note.job, note.host = note.job or number, note.host or job.host
                    note.start = note.start or job.starts
                    return label
        except ValueError:  # a line that is not whole: an end that is not there is asked for elsewhere
            pass
        return None

    def _note(self, label: str) -> Note:
        return self.notes.setdefault(label, Note())

    def running(self) -> Iterator[tuple[str, int, str]]:
        """Job, index and node of all starts of array tasks that did not come to their end."""
        for (job, index), found in self.jobs.items():
            for host, start in found.start_on.items():
                if start not in found.over:
                    yield job, index, _node(host)

    def is_over(self, job: str, index: int) -> bool:
        """Whether the job script of an array task came to its end."""
        found = self.jobs.get((job, index))
        return found is not None and found.starts in found.over

    def starts(self, job: str, index: int) -> int:
        """How often the job script of an array task was started."""
        found = self.jobs.get((job, index))
        return found.starts if found is not None else 0

    def has_begun(self, job: str, index: int) -> bool:
        """Whether the job script of an array task was started."""
        return (job, index) in self.jobs

    def begun_at(self, job: str, index: int) -> float | None:
        """When the job script of an array task was last started, in seconds since the epoch, by its node's
        clock; None where that is not known."""
        found = self.jobs.get((job, index))
        if found is None or found.begun is None:
            return None
        host, uptime = found.begun
        return found.booted[host] + uptime if host in found.booted else None

    def began_beside_another(self, job: str, index: int) -> bool:
        """Whether an array task was started while an earlier start of it had not come to its end."""
        found = self.jobs.get((job, index), _Job())
        return not found.over.issuperset(range(1, found.starts))

    def ran_out_of_memory(self, job: str, index: int) -> bool:
        """Whether a unit did, in the last start of an array task, which went on."""
        found = self.jobs.get((job, index))
        return found is not None and found.starts in found.short

    def limit_of(self, job: str, index: int) -> int | None:
        """How long each unit of an array task may run, in seconds."""
        found = self.jobs.get((job, index))
        return found.limit_s if found is not None else None

    def was_started_again(self, note: Note, index: int) -> bool:
        """Whether the scheduler started an array task again after it had started this unit."""
        found = self.jobs.get((note.job, index))
        return found is not None and found.starts > note.start

    def went_on(self, label: str, index: int) -> bool:
        """Whether its array task started another unit after this one was over, in the same start."""
        note = self.notes[label]
        found = self.jobs.get((note.job, index), _Job())
        last = found.last.get(note.start, label)
        return last != label and (note.start, self.notes[last].uptime) >= note.over_at

    def was_cut_short(self, note: Note, index: int) -> bool:
        """Whether that was so before the start that ran this unit had come to its own end."""
        return self.was_started_again(note, index) and note.start not in self.jobs[note.job, index].over


def array_task_of(name: str) -> tuple[str, int] | None:
    """The job's id and the index of the array task that a receipt of this name is of."""
    match = _NAME.fullmatch(name)
    return (match[1], int(match[2])) if match else None


def _node(host: str) -> str:
    return host.partition("/")[0]


def _end(note: Note, words: list[str]) -> End:
    """Raises ValueError."""
    uptime, exit_code, signal, ticks, peak, kills, output = words
    return End(
        exit_code=int(exit_code),
        signal=int(signal),
        uptime=float(uptime),
        wall_s=max(0.0, round(float(uptime) - note.uptime, 2)),  # the clock's own hundredths
        cpu_s=max(0.0, float(ticks) / _TICKS_PER_S),
        peak_mb=float(peak) / (1 << 20) if float(peak) >= 0 else None,
        oom_kills=int(float(kills)),
        has_output=output == "1",
    )
