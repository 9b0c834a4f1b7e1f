"""A submission: units, spread over the array tasks of one job, and how later runners find them."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fractal_backends import Unit

from .packing import Packing
from .receipts import Receipts

FOLDER = ".slurm"
UNITS_FILE, SCRIPT_FILE = "units", "job.sh"
CANCELLED_FILE = "cancelled"
"""Where it is there, no unit begins; `LABEL.cancelled` is of one unit."""
_ON_ITS_WAY_S = 3.0
"""For so long a controller that answers may not have come to a submission from before."""
_TOKEN_BYTES = 6
_HANDLE = re.compile(
    rf"(\d+|\?)_(\d+)@(/.*/{re.escape(FOLDER)}/[0-9a-f]{{{2 * _TOKEN_BYTES}}})", re.ASCII | re.DOTALL
)


@dataclass
class Submission:
    """One job array, before and after the scheduler accepted it."""

    token: str
    folder: Path
    """As the compute nodes see it."""
    parts: dict[int, list[Unit]]
    """The units of each array task, by its index."""
    script: bytes = b""
    arguments: Sequence[str] = ()
    before: Sequence[str] = ()
    """Lines of shell for the submission itself."""
    attempt: int = 1
    packing: Packing | None = None
    """How its units were packed; None where an earlier runner did that."""
    job: str | None = None
    found: set[str] = field(default_factory=set)
    """Jobs of its name: several where an answer was lost, and it was tried again."""
    adopted: bool = False
    """Whether an earlier runner submitted it, maybe with more units than these."""
    try_at: float = 0.0
    """When to try again to submit it, on the monotonic clock."""
    tries: int = 0
    missing_since: float | None = None
    """Since when the queue is known to be without it, after the last try; on the same clock."""
    since: float = field(default_factory=time.monotonic)
    """When this runner made it or found it, on the same clock."""
    receipts: Receipts = field(default_factory=Receipts)

    @property
    def name(self) -> str:
        """The job's name, by which it is found where its id is not known."""
        return job_name(self.token)

    @property
    def may_come(self) -> bool:
        """Whether a try without an answer may be accepted yet."""
        seen = self.missing_since is not None and time.monotonic() > self.missing_since + _ON_ITS_WAY_S
        return self.job is None and self.tries > 0 and not seen

    @property
    def units(self) -> list[Unit]:
        """All units in it."""
        return [unit for part in self.parts.values() for unit in part]

    @property
    def jobs(self) -> list[str]:
        """The ids of the jobs that it became: more than one where an answer was lost."""
        return sorted({*([self.job] if self.job else []), *self.found, *self.receipts.numbers})

    def became(self, jobs: Iterable[str]) -> None:
        """Take in the jobs that were found by its name."""
        for job in jobs:
            self.job = self.job or job
            self.found.add(job)

    @property
    def targets(self) -> list[str]:
        """What to cancel: the jobs, or of an adopted submission only its own array tasks."""
        if self.adopted:
            return [f"{job}_{index}" for job in self.jobs for index in self.parts]
        return self.jobs

    def handle(self, index: int, job: str | None = None) -> str:
        """Of the units of an array task: all that another runner needs to adopt them."""
        return f"{job or self.job or '?'}_{index}@{self.folder}"


def job_name(token: str) -> str:
    """The name of the job of a submission."""
    return f"fractal-{token}"


def lay_out(units: Sequence[Unit], units_each: int, remote: Path, attempt: int = 1) -> Submission:
    """A new submission of units, so many in each array task."""
    token = secrets.token_hex(_TOKEN_BYTES)
    starts = range(0, len(units), units_each)
    parts = {index: list(units[start : start + units_each]) for index, start in enumerate(starts)}
    return Submission(token, remote / FOLDER / token, parts, attempt=attempt)


def units_file(units: Sequence[Unit]) -> bytes:
    """The labels of units, a line each."""
    return "".join(f"{unit.label}\n" for unit in units).encode()


@dataclass(frozen=True)
class Handle:
    """A handle that was read."""

    job: str | None
    index: int
    folder: Path

    @classmethod
    def read(cls, text: str) -> Handle:
        """Raises ValueError where it is not a handle of this backend."""
        match = _HANDLE.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is not the handle of a SLURM job")
        job, index, folder = match.groups()
        return cls(None if job == "?" else job, int(index), Path(folder))
