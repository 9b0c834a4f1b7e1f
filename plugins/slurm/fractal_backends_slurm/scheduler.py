"""SLURM's commands: what is asked of them, and what they answer.

No answer, and an answer that cannot be understood, is a `SchedulerError`, never an empty answer.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .packing import SiteLimits
from .values import seconds

_TIMEOUT_S = 120.0
"""SLURM's own time-outs are shorter."""
_RETRY = re.compile(
    r"timed out|unable to contact|connection (refused|reset)|temporarily|try again|zero bytes|communication"
    r"|submit limit|too many|MaxJobCount|QOSMaxSubmit|AssocMaxSubmit|slurm_load|not responding|I/O error",
    re.IGNORECASE,
)
_GONE = re.compile(r"invalid job id", re.IGNORECASE)
_QUEUE_FIELDS = ("%F", "%K", "%T", "%j", "%N", "%r")  # the reason last: it may hold anything
_QUEUE_FORMAT = "|".join(_QUEUE_FIELDS)
_INHERITED = re.compile(r"SLURM_(?!CONF$)")
"""A runner that is a job itself must not hand its own job's settings on."""


class SchedulerError(Exception):
    """The scheduler did not do as asked; the message is what it said."""

    def __init__(self, message: str, *, may_pass: bool) -> None:
        super().__init__(message)
        self.may_pass = may_pass
        """Whether asking again can help. It may also have done what it was asked for."""


class CommandMissingError(SchedulerError):
    """The command is not installed here."""


@dataclass(frozen=True, slots=True)
class JobState:
    """What the scheduler says of an array task."""

    state: str
    reason: str = ""
    nodes: str = ""
    exit_code: int | None = None
    signal: int | None = None
    cancelled_by: int | None = None
    """The user id of whoever cancelled it, where that is known."""


States = dict[str, dict[int, JobState]]
"""Of each job array the state of each array task."""


class Scheduler:
    """A cluster as its commands show it. `commands`: their folder (None: PATH); `env` is added to theirs."""

    def __init__(self, commands: Path | None = None, env: Mapping[str, str] | None = None) -> None:
        self.commands = commands
        self.env = dict(env or {})

    @property
    def key(self) -> tuple[str, tuple[tuple[str, str], ...]]:
        """Equal for all that ask the same cluster."""
        conf = os.environ.get("SLURM_CONF", "")
        return (f"{self.commands}", (("SLURM_CONF", conf), *sorted(self.env.items())))

    def check(self) -> None:
        """Raises SchedulerError where there is no SLURM here."""
        for name in ("sbatch", "squeue", "scancel"):
            self._path(name)

    def submit(
        self, script: bytes, arguments: Sequence[str], *, user: str | None, before: Sequence[str] = ()
    ) -> str:
        """Submit a job script; the job's id. `before`: lines of shell to execute first, where the runner is.

        Raises SchedulerError; where that `may_pass` the job may have been accepted all the same.
        """
        command = [*as_user(user), self._path("sbatch"), "--parsable", *arguments]
        if before:
            command = ["/bin/sh", "-c", "\n".join([*before, 'exec "$@"']), "sh", *command]
        answer = self._run(command, script)
        number = answer.strip().rpartition("\n")[2].partition(";")[0]
        if not number.isdigit():
            raise SchedulerError(f"sbatch answered {answer[:200]!r}, not a job id", may_pass=True)
        return number

    def try_out(self, script: bytes, arguments: Sequence[str], *, user: str | None) -> str:
        """What `sbatch --test-only` says of a job. Raises SchedulerError."""
        command = [*as_user(user), self._path("sbatch"), "--test-only", *arguments]
        return self._run(command, script, with_errors=True).strip()

    def queue(self, jobs: Iterable[str], names: Mapping[str, str]) -> States:
        """The states of all array tasks that it still knows of these jobs; `names` of jobs, to tell them from
        others that were given the same id. Raises SchedulerError."""
        listed = ",".join(jobs)
        if not listed:
            return {}
        try:
            answer = self._run(self._squeue("--jobs", listed))
        except SchedulerError as error:
            if _GONE.search(str(error)):
                return {}
            raise
        found: States = {}
        for job, index, state, name, nodes, reason in _rows(answer, len(_QUEUE_FIELDS)):
            # N/A: what is left of an array all of whose waiting tasks were cancelled one by one
            if names.get(job, name) == name and index != "N/A":
                found.setdefault(job, {})[_index(index)] = JobState(state, reason, nodes)
        return found

    def find(self, name: str) -> str | None:
        """The id of the job of this name, whose submission got no answer. Raises SchedulerError."""
        rows = _rows(self._run(self._squeue("--name", name)), len(_QUEUE_FIELDS))
        if rows:
            return rows[0][0]
        try:
            accounted = self._run(self._sacct(f"--name={name}", "JobID"))
        except SchedulerError:  # there is no accounting, or it is not there now
            return None
        ids = [line.partition("|")[0].partition("_")[0] for line in accounted.splitlines()]
        return next((number for number in ids if number.isdigit()), None)

    def account_of(self, job: str) -> dict[int, JobState]:
        """How the array tasks of a job ended, as far as it is on record; the controller's word goes first."""
        found = self._accounted(job)
        for index, state in self._controlled(job).items():
            known = found.get(index, state)
            found[index] = replace(state, cancelled_by=known.cancelled_by)
        return found

    def _controlled(self, job: str) -> dict[int, JobState]:
        try:
            answer = self._run([self._path("scontrol"), "show", "job", "--oneliner", job])
        except SchedulerError:
            return {}
        found = {}
        for line in answer.splitlines():
            fields = dict(re.findall(r"(\w+)=(\S*)", line))
            index, state = fields.get("ArrayTaskId", ""), fields.get("JobState", "")
            if index.isdigit() and state:
                code, number = _exit(fields.get("ExitCode", ""))
                nodes, reason = fields.get("NodeList", ""), fields.get("Reason", "")
                found[int(index)] = JobState(state, reason, nodes, code, number)
        return found

    def _accounted(self, job: str) -> dict[int, JobState]:
        try:
            answer = self._run(self._sacct(f"--jobs={job}", "JobID,State,ExitCode,NodeList,Reason"))
        except SchedulerError:
            return {}
        found = {}
        for line in answer.splitlines():
            number, state, exit_code, nodes, reason = line.split("|", 4)
            index = number.partition("_")[2]
            if index.isdigit():
                code, signal = _exit(exit_code)
                word, _, by = state.partition(" by ")
                user = int(by) if by.isdigit() else None
                found[int(index)] = JobState(word, reason, nodes, code, signal, user)
        return found

    def cancel(self, jobs: Sequence[str], *, user: str | None) -> None:
        """Cancel jobs or array tasks (`4711`, `4711_3`); those that have ended are left alone.

        Raises SchedulerError.
        """
        self._run([*as_user(user), self._path("scancel"), "--quiet", *jobs])

    def limits(self, partition: str | None = None) -> SiteLimits:
        """What the site allows in a partition, or in its default one. Raises SchedulerError."""
        config = self._run([self._path("scontrol"), "show", "config"])
        values = dict(re.findall(r"^(\w+)\s*=\s*(.*?)\s*$", config, re.MULTILINE))
        command = [self._path("sinfo"), "--noheader", "--format=%P|%c|%m|%l"]
        rows = _rows(self._run([*command, *([f"--partition={partition}"] if partition else [])]), 4)
        if partition is None:
            rows = [row for row in rows if row[0].endswith("*")] or rows
        most = SiteLimits.max_array_size
        return SiteLimits(
            max_array_size=min(
                _number(values.get(key, "")) or most for key in ("MaxArraySize", "MaxJobCount")
            ),
            cpus_per_node=_largest(_number(cpus) for _, cpus, _, _ in rows),
            mem_mb_per_node=_largest(_number(memory) for _, _, memory, _ in rows),
            time_s=_largest(_seconds(time) for _, _, _, time in rows),
        )

    def _squeue(self, by: str, value: str) -> list[str]:
        command = [self._path("squeue"), "--noheader", "--array", "--states=all"]
        return [*command, f"{by}={value}", f"--format={_QUEUE_FORMAT}"]

    def _sacct(self, which: str, fields: str) -> list[str]:
        command = [
            self._path("sacct"),
            "--noheader",
            "--parsable2",
            "--allocations",
            "--starttime=now-30days",
        ]
        return [*command, which, f"--format={fields}"]

    def _path(self, name: str) -> str:
        if self.commands is not None:
            return str(self.commands / name)
        found = shutil.which(name)
        if found is None:
            raise CommandMissingError(
                f"The command {name!r} is not found: is SLURM installed on this machine, and in PATH?",
                may_pass=False,
            )
        return found

    def _run(self, command: Sequence[str], stdin: bytes = b"", *, with_errors: bool = False) -> str:
        env = {name: value for name, value in os.environ.items() if not _INHERITED.match(name)}
        env.update(self.env, SLURM_BITSTR_LEN="0")
        name = next(Path(word).name for word in command if Path(word).name in _NAMES)
        try:
            ended = subprocess.run(
                command,
                input=stdin,
                capture_output=True,
                timeout=_TIMEOUT_S,
                env=env,
                start_new_session=True,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise SchedulerError(f"{name} did not answer within {_TIMEOUT_S:g} s", may_pass=True) from None
        except OSError as error:
            raise SchedulerError(f"{name} cannot be called: {error}", may_pass=False) from error
        said = ended.stderr.decode(errors="replace").strip()
        answer = ended.stdout.decode(errors="replace")
        if ended.returncode:
            message = said or answer.strip() or f"exit code {ended.returncode}"
            raise SchedulerError(f"{name}: {_plain(message)}", may_pass=_RETRY.search(message) is not None)
        return answer + said if with_errors else answer


_NAMES = ("sbatch", "squeue", "scontrol", "sacct", "scancel", "sinfo")


def as_user(user: str | None) -> list[str]:
    """What stands before a command that another user is to execute."""
    return ["sudo", "-n", "-u", user, "--"] if user is not None else []


def _plain(message: str) -> str:
    """Without the names of commands that each line begins with."""
    lines = [re.sub(r"^(?!sudo)\w+: (error: )?", "", line) for line in message.splitlines()]
    return "\n".join(lines)[:2_000]


def _rows(answer: str, fields: int) -> list[list[str]]:
    """Raises SchedulerError where a line is not of this form."""
    rows = [line.split("|", fields - 1) for line in answer.splitlines() if line.strip()]
    for row in rows:
        if len(row) != fields:
            raise SchedulerError(f"It answered {'|'.join(row)[:200]!r}", may_pass=True)
    return rows


def _index(text: str) -> int:
    """The index of an array task. Raises SchedulerError."""
    if not text.isdigit():
        raise SchedulerError(f"squeue answered {text[:200]!r} for the index of an array task", may_pass=True)
    return int(text)


def _exit(text: str) -> tuple[int | None, int | None]:
    """Of `3:0`, exit code and signal."""
    code, _, signal = text.partition(":")
    return (int(code), int(signal)) if code.isdigit() and signal.isdigit() else (None, None)


def _number(text: str) -> int | None:
    match = re.match(r"\d+", text)
    return int(match[0]) if match else None


def _seconds(time: str) -> int | None:
    try:
        return seconds(time)
    except ValueError:  # infinite
        return None


def _largest(values: Iterable[int | None]) -> int | None:
    """None where one of them is not known, or has no bound."""
    known = list(values)
    return max(value for value in known if value is not None) if known and None not in known else None
