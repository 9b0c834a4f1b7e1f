"""A SLURM, real or not, as its commands show it: what they say, without what differs from place to place."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fractal_backends_dummy_slurm import Lease

from slurm_lab import MemoryKill, Settings, SlurmLab

_STABLE = (
    "JobState",
    "Reason",
    "Dependency",
    "Requeue",
    "Restarts",
    "ExitCode",
    "ArrayTaskId",
    "ArrayTaskThrottle",
)
_FIRST = 700_001
"""A job's id that nobody takes for another number."""
PLAIN_LINES = {"FirstJobId": str(_FIRST)}
ACCOUNTED = Settings(accounting=True, memory_kill=MemoryKill.POLL, lines=PLAIN_LINES)
PATIENT = Settings(accounting=True, memory_kill=MemoryKill.POLL, lines={**PLAIN_LINES, "KillWait": "8"})
"""Where processes that are told to end have time to say something, also on a busy machine."""
KERNEL = Settings(memory_kill=MemoryKill.CGROUP, lines=PLAIN_LINES)
_ENDS = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")
_DEADLINE_S = 30.0


@dataclass(frozen=True)
class Answer:
    """Of a command."""

    code: int
    out: str
    err: str


@dataclass
class Site:
    """One SLURM. `folder` is where jobs write; `env` the environment of its commands."""

    env: Mapping[str, str]
    nodes: Sequence[str]
    folder: Path
    accounting: bool
    numbers: dict[str, str] = field(default_factory=dict)
    """What stands for each job id."""

    def run(self, words: Sequence[str], script: str = "") -> Answer:
        """Run a command."""
        ended = subprocess.run(
            words,
            input=script,
            check=False,
            capture_output=True,
            text=True,
            timeout=90,
            cwd=self.folder,
            env={**self.env, "SLURM_BITSTR_LEN": "0"},
        )
        return Answer(ended.returncode, ended.stdout, ended.stderr)

    def call(self, *words: str, script: str = "") -> Answer:
        """Run a command, and hide what differs in what it says."""
        answer = self.run(words, script)
        return Answer(answer.code, self.plain(answer.out), self.plain(answer.err))

    def submit(self, script: str, *options: str) -> str:
        """The id of a job that must be accepted."""
        places = (f"--chdir={self.folder}", f"--output={self.folder}/%A_%a.out")
        answer = self.run(["sbatch", "--parsable", *places, *options], f"#!/bin/sh\n{script}\n")
        assert answer.code == 0, answer.err
        job = answer.out.strip()
        self.numbers[job] = f"<job {len(self.numbers) + 1}>"
        return job

    def plain(self, text: str) -> str:
        """Without ids, times, hosts and places."""
        text = text.replace(str(self.folder), "<folder>")
        for name in sorted(self.nodes, key=len, reverse=True):
            text = re.sub(rf"\b{name}\b", f"<node {self.nodes.index(name) + 1}>", text)
        text = re.sub(re.escape(self.nodes[0][:-1]) + r"\[([\d,-]+)\]", r"<nodes \1>", text)
        text = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", "<time>", text)
        text = re.sub(r"\((\d+) > (\d+)\)", "(<bytes> > <bytes>)", text)
        text = re.sub(r"(JOB|STEP|StepId=|[Jj]ob|on job id) ?\d+", r"\1 <id>", text)
        text = re.sub(r"(primary\)) at \S+", r"\1 at <host>", text)
        text = text.replace("/usr/bin/", "")
        for job, number in self.numbers.items():
            text = re.sub(rf"\b{job}(?=\b|_)", number, text)
        return text

    def queue(self, job: str) -> list[str]:
        """Rows of squeue, without the nodes that jobs happen to get."""
        answer = self.call(
            *("squeue", "--noheader", "--array", "--states=all"),
            *(f"--jobs={job}", "--format=%F|%K|%T|%j|%N|%r"),
        )
        return sorted(some_node(answer.out).splitlines()) or [answer.err, str(answer.code)]

    def states(self, job: str) -> list[str]:
        """Of all its array tasks."""
        return [row.split("|")[2] for row in self.queue(job) if row.count("|") >= 5]

    def control(self, job: str) -> list[dict[str, str]]:
        """What scontrol tells of it."""
        answer = self.call("scontrol", "show", "job", "--oneliner", job)
        rows = []
        for line in answer.out.splitlines():
            fields = dict(re.findall(r"(?<!\S)(\w+)=(\S*)", line))
            row = {name: fields[name] for name in _STABLE if name in fields}
            row["has nodes"] = str(fields.get("NodeList", "") not in ("", "(null)"))
            rows.append(row)
        return sorted(rows, key=str)

    def accounted(self, job: str, *options: str) -> list[str]:
        """What sacct tells of it."""
        words = ("sacct", "--noheader", "--parsable2", "--allocations", "--starttime=now-30days", *options)
        answer = self.call(*words, f"--jobs={job}", "--format=JobID,JobName,State,ExitCode,NodeList")
        return sorted(some_node(answer.out).splitlines())

    def wait(self, condition: Callable[[], bool], deadline_s: float = _DEADLINE_S) -> None:
        """Until it holds."""
        end = time.monotonic() + deadline_s
        while not condition():
            assert time.monotonic() < end, "it does not come"
            time.sleep(0.05)

    def wait_for_end(self, job: str) -> None:
        """Until nothing of a job waits or runs."""
        self.wait(lambda: bool(states := self.states(job)) and all(state in _ENDS for state in states))

    def _wait_for_accounting(self, job: str) -> None:
        """Until all is on record: a job that ends at once is called `allocation` until its start is."""
        if self.accounting:
            late = re.compile(r"\|(RUNNING|PENDING|allocation)\|")
            jobs = len(self.control(job))
            self.wait(lambda: len(rows := self.accounted(job)) >= jobs and not any(map(late.search, rows)))

    def wait_for_state(self, job: str, state: str) -> None:
        """Until one of its array tasks is in it."""
        self.wait(lambda: state in self.states(job))

    def wait_for_reason(self, job: str, reason: str = "") -> None:
        """Until it waits for this, or for whatever."""
        self.wait(
            lambda: all(
                row.endswith(f"|{reason}") if reason else not row.endswith(("|None", "|Priority"))
                for row in self.queue(job)
            )
        )

    def wait_for_reason_of_waiting(self, job: str) -> None:
        """Until all of its array tasks that wait are waiting for others of them."""
        self.wait(lambda: all("PENDING" not in row or "JobArrayTaskLimit" in row for row in self.queue(job)))

    def view(self, job: str, *options: str) -> dict[str, Any]:
        """All that the commands tell of a job."""
        seen: dict[str, Any] = {"squeue": self.queue(job), "scontrol": self.control(job)}
        if self.accounting:
            seen["sacct"] = self.accounted(job, *options)
        return seen

    def output(self, job: str) -> str:
        """What a job wrote, its array tasks one after the other."""
        paths = sorted(self.folder.glob(f"{job}_*.out"))
        return some_node(self.plain("".join(path.read_text() for path in paths))) if paths else "no file"

    def ended(self, jobs: Mapping[str, str]) -> dict[str, Any]:
        """All that is seen of jobs once they have ended, and once accounting knows it."""
        for job in jobs.values():
            self.wait_for_end(job)
            self._wait_for_accounting(job)
        return {what: {**self.view(job), "output": self.output(job)} for what, job in jobs.items()}


def some_node(text: str) -> str:
    """Without the nodes that jobs happen to get."""
    return re.sub(r"<nodes? [\d,-]+>", "<node>", text)


def differences(real: Any, dummy: Any, where: str = "") -> list[str]:
    """Where two things differ, item by item."""
    if isinstance(real, dict) and isinstance(dummy, dict) and real.keys() == dummy.keys():
        return [line for key in real for line in differences(real[key], dummy[key], f"{where}/{key}")]
    if isinstance(real, list) and isinstance(dummy, list) and len(real) == len(dummy):
        pairs = enumerate(zip(real, dummy, strict=True))
        return [line for index, pair in pairs for line in differences(*pair, f"{where}/{index}")]
    return [] if real == dummy else [f"{where}:\n    real  {real!r}\n    dummy {dummy!r}"]


def real_site(lab: SlurmLab, folder: Path) -> Site:
    """A real one."""
    return Site({**os.environ, **lab.env}, lab.nodes, folder, lab.settings.accounting)


@contextmanager
def dummy_site(lab: SlurmLab, folder: Path, state: Path, **config: Any) -> Iterator[Site]:
    """A dummy that is set up like a real one."""
    settings = lab.settings
    accounts = {"root": ["root"], **{name: ["*"] for name in settings.accounts}}
    sizes = {"cpus": settings.cpus, "memory_mb": settings.memory_mb}
    last = {"cpus": settings.cpus_of_last} if settings.cpus_of_last else {}
    values = {
        "nodes": [
            *({"name": name, "features": ["plain"], **sizes} for name in lab.nodes[:-1]),
            {"name": lab.nodes[-1], "features": ["gpu"], "gpus": 2, **sizes, **last},
        ],
        "partitions": [
            {"name": "main", "nodes": "ALL", "default": True},
            {"name": "small", "nodes": lab.nodes[0], "max_minutes": 5},
        ],
        "accounts": accounts if settings.accounting else None,
        "accounting": settings.accounting,
        "memory_kill": settings.memory_kill.value,
        "first_job_id": _FIRST,
        **config,
    }
    with Lease(state, values) as lease:
        env = {**os.environ, "PATH": f"{lease.commands}:{os.environ['PATH']}"}
        yield Site(env, lab.nodes, folder, settings.accounting)
    if (state / "controller").exists():  # a job still waits
        subprocess.run([lease.commands / "dummyctl", "stop"], check=True)
