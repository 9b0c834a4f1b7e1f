"""SLURM's commands: what is asked of them, and what they answer.

No answer, and an answer that cannot be understood, is a `SchedulerError`, never an empty answer.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import time
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from .calls import ASK_S, TIMEOUT_S, AsUser, Call, SchedulerError, as_user, told_end

_INDICES = re.compile(r"(\d+)(?:-(\d+)(?::(\d+))?)?", re.ASCII)
_JOB_ID = re.compile(r"^(\d+)(?:;.*)?$", re.ASCII | re.MULTILINE)
"""A line of sbatch's answer; the cluster's name may follow."""
_GONE = re.compile(r"invalid job id", re.IGNORECASE)
REST = -1
"""Stands for the index of all array tasks of a job that waited, and were cancelled one by one: SLURM keeps
one record of them."""
_NO_INDEX = ("", "N/A", "4294967294")
"""How its commands show that."""
_ACCOUNT_S = 15.0
"""For so long accounting is asked for a job that the controller does not know: there may be no accounting."""
_SUBMIT_S = 3.0
"""For so long the answer to a submission is waited for in a hurry."""
_IS_CALLED = "sbatch is called"
"""What says so where commands come before it."""
_QUEUE_FIELDS = ("%F", "%K", "%T", "%j", "%N", "%P", "%r")  # the reason last: it may hold anything
_QUEUE_FORMAT = "|".join(_QUEUE_FIELDS)
_NOT_FOR_COMMANDS = re.compile(
    r"SLURM_(?!(CONF|CONF_SERVER|JWT)$)|(SQUEUE|SCANCEL|SINFO|SACCT|SCONTROL)_|SBATCH_(CLUSTERS|WAIT|ERROR|INPUT)$"
)
"""Settings of a job that the runner may be, and of a person who asks for a part of what there is."""


@dataclass(frozen=True, slots=True)
class JobState:
    """What the scheduler says of an array task."""

    state: str
    reason: str = ""
    nodes: str = ""
    exit_code: int | None = None
    signal: int | None = None
    started_at: float | None = None
    """Since when it runs or ran, in seconds since the epoch, by the controller's clock, where it tells."""
    cancelled_by: int | None = None
    """The user id of whoever cancelled it, where that is known."""
    of_controller: bool = False
    """Whether it is the controller's word: accounting may think for ever that a job runs."""
    partition: str = ""
    """The partition, or the list of those that one is to be chosen from."""
    may_change: bool = False
    """Whether accounting has yet to hear of it: it is late by some seconds."""


States = dict[str, dict[int, JobState]]
"""Of each job array the state of each array task."""


class Scheduler:
    """A cluster as its commands show it. `commands`: their folder (None: PATH); `env` is added to theirs;
    `as_user`: how other users submit, cancel, and reach their files."""

    def __init__(
        self,
        commands: Path | None = None,
        env: Mapping[str, str] | None = None,
        *,
        as_user: AsUser = as_user,
    ) -> None:
        self.commands = commands
        self.env = dict(env or {})
        self.as_user = as_user
        self.hurry = Event()
        """Set for a while by who wants no more answers: none is waited for then, but for some seconds to that
        of sbatch, to know what to cancel."""

    @property
    def key(self) -> tuple[str, tuple[tuple[str, str], ...]]:
        """Equal for all that ask the same cluster."""
        places = [(name, os.environ.get(name, "")) for name in ("SLURM_CONF", "SLURM_CONF_SERVER")]
        return (f"{self.commands}", (*places, *sorted(self.env.items())))

    def check(self) -> None:
        """Raises SchedulerError where there is no SLURM here.

        SLURM's commands take a minute each to say that the file of SLURM_CONF is not there.
        """
        conf = os.environ.get("SLURM_CONF")
        if self.commands is None and conf and not os.path.exists(conf):
            raise SchedulerError(f"SLURM_CONF names {conf}, which is not there", may_pass=False)
        for name in ("sbatch", "squeue", "scancel"):
            self._path(name)

    def submit(
        self,
        script: bytes,
        arguments: Sequence[str],
        *,
        user: str | None,
        before: Sequence[str] = (),
    ) -> str:
        """Submit a job script; the job's id. `before`: commands of a shell to execute first, where the runner
        is, each of which has to succeed.

        Raises SchedulerError; whatever it says, the job may have been accepted.
        """
        command = [*self.as_user(user), self._path("sbatch"), "--parsable", *arguments]
        if before:
            # The job script, and what says its id, are not theirs.
            lines = [
                "exec 3<&0 4>&1 </dev/null >&2",
                *map(_must_succeed, before),
                f'echo "{_IS_CALLED}" >&4; exec "$@" <&3 >&4 3<&- 4>&-',
            ]
            command = ["/bin/sh", "-c", "\n".join(lines), "sh", *command]
        with closing(self._call(command, script)) as call:
            try:
                answer = call.answer(TIMEOUT_S, stop=self.hurry, grace_s=_SUBMIT_S)
            except SchedulerError as error:
                if before and not call.printed.startswith(_IS_CALLED):
                    raise self._not_called(call) from error
                after = f" (after pre_submission_commands: {'; '.join(before)})" if before else ""
                raise SchedulerError(f"{error}{after}", may_pass=error.may_pass) from error
            if before and not call.printed.startswith(_IS_CALLED):
                raise self._not_called(call)
        answer = answer.removeprefix(f"{_IS_CALLED}\n")
        # A site's wrapper may say something of its own, numbers too.
        numbers: list[str] = _JOB_ID.findall(answer)
        if len(numbers) != 1:
            raise SchedulerError(f"sbatch answered {answer[:200]!r}, not one job id", may_pass=True)
        return numbers[0]

    def _not_called(self, call: Call) -> SchedulerError:
        if self.hurry.is_set():
            return SchedulerError("sbatch was not called: the run is cancelled", may_pass=True)
        printed = f"; they printed: {call.errors[-2_000:]}" if call.errors else ""
        code = call.exit_code
        ended = "did not end" if code is None else f"{'were ' if code < 0 else ''}{told_end(code)}"
        why = call.printed or f"they {ended} before sbatch was called"
        return SchedulerError(f"pre_submission_commands: {why}{printed}", may_pass=False)

    def try_out(self, script: bytes, arguments: Sequence[str], *, user: str | None) -> str:
        """What `sbatch --test-only` says of a job. Raises SchedulerError."""
        command = [*self.as_user(user), self._path("sbatch"), "--test-only", *arguments]
        return self._run(command, script, wait_s=ASK_S, with_errors=True).strip()

    def ask(self, jobs: Iterable[str]) -> Call:
        """Begin to ask for the states of all array tasks of some jobs. Raises SchedulerError."""
        return self._call(self._squeue("--jobs", ",".join(jobs)))

    def states(self, question: Call, names: Mapping[str, str]) -> States:
        """The answer to `ask`: states of array tasks that are still known; `names` of jobs, to tell them from
        others that were given the same id. Raises SchedulerError."""
        try:
            answer = question.answer(0)
        except SchedulerError as error:
            if _GONE.search(str(error)):
                return {}
            raise
        found: States = {}
        for job, index, state, name, nodes, partition, reason in rows_of(answer, len(_QUEUE_FIELDS)):
            if names.get(job, name) != name:
                continue
            found.setdefault(job, {})[_index(index)] = JobState(state, reason, nodes, partition=partition)
        return found

    def find(self, name: str) -> list[str]:
        """The ids of the jobs of this name, whose submissions got no answer.

        Raises SchedulerError, whatever it is one that may pass: there may be a job.
        """
        try:
            rows = rows_of(self._run(self._squeue("--name", name), wait_s=ASK_S), len(_QUEUE_FIELDS))
        except SchedulerError as error:
            raise SchedulerError(str(error), may_pass=True) from error
        if rows:
            return list(dict.fromkeys(row[0] for row in rows))
        try:
            accounted = self._run(self._sacct(f"--name={name}", "JobID"), wait_s=_ACCOUNT_S)
        except SchedulerError:  # there is no accounting, or it is not there now
            return []
        ids = dict.fromkeys(line.partition("|")[0].partition("_")[0] for line in accounted.splitlines())
        return [number for number in ids if number.isdigit()]

    def ask_controller(self, job: str) -> Call:
        """Begin to ask for the array tasks of a job. Raises SchedulerError."""
        return self._call([self._path("scontrol"), "show", "job", "--oneliner", job])

    def controlled(self, question: Call, name: str, wait_s: float = 0) -> dict[int, JobState]:
        """The answer to `ask_controller`: the array tasks of a job of this name, as long as it keeps them.

        Raises SchedulerError.
        """
        try:
            answer = question.answer(wait_s)
        except SchedulerError as error:
            if _GONE.search(str(error)):
                return {}
            raise
        if "JobId=" not in answer:
            raise SchedulerError(f"scontrol answered {answer[:200]!r}", may_pass=True)
        found = {}
        for line in answer.splitlines():
            fields = dict(re.findall(r"(\w+)=(\S*)", line))
            index, state = fields.get("ArrayTaskId", ""), fields.get("JobState", "")
            if (index in _NO_INDEX or index.isdigit()) and state and fields.get("JobName") == name:
                code, number = _exit(fields.get("ExitCode", ""))
                nodes, reason = fields.get("NodeList", "").removeprefix("(null)"), fields.get("Reason", "")
                started_at = _point(fields.get("StartTime", ""))
                found[_index(index)] = JobState(
                    state, reason, nodes, code, number, started_at, of_controller=True
                )
        return found

    def ask_accounting(self, job: str) -> Call:
        """Begin to ask for the array tasks of a job. Raises SchedulerError."""
        return self._call(self._sacct(f"--jobs={job}", "JobID,JobName,State,ExitCode,NodeList,Reason"))

    def accounted(self, question: Call, name: str) -> dict[int, JobState]:
        """The answer to `ask_accounting`, of a job of this name. Raises SchedulerError."""
        found: dict[int, JobState] = {}
        for number, of_name, state, exit_code, nodes, reason in rows_of(question.answer(0), 6):
            # That a job waits is the controller's to say: it may have forgotten it.
            if of_name == name and state != "PENDING":
                code, signal = _exit(exit_code)
                word, _, by = state.partition(" by ")
                user = int(by) if by.isdigit() else None
                indices = number.partition("_")[2]
                for index in _indices(indices):
                    if indices.isdigit() or index not in found:
                        found[index] = JobState(word, reason, nodes, code, signal, cancelled_by=user)
        return found

    def others(self, jobs: Iterable[str], names: Container[str]) -> set[str]:
        """Of the ids of jobs those that are of jobs with other names. Raises SchedulerError."""
        try:
            answer = self._run(self._squeue("--jobs", ",".join(jobs)), wait_s=ASK_S)
            rows = rows_of(answer, len(_QUEUE_FIELDS))
        except SchedulerError as error:
            if _GONE.search(str(error)):
                return set()
            raise
        return {job for job, _, _, name, *_ in rows if name not in names}

    def cancel(self, jobs: Sequence[str], *, user: str | None, wait_s: float = TIMEOUT_S) -> None:
        """Cancel jobs or array tasks (`4711`, `4711_3`); those that have ended are left alone.

        Raises SchedulerError.
        """
        command = [*self.as_user(user), self._path("scancel"), "--quiet", *jobs]
        with closing(self._call(command)) as call:
            call.answer(wait_s, stop=self.hurry)

    def ask_config(self) -> Call:
        """Begin to ask for the settings of the site. Raises SchedulerError."""
        return self._call([self._path("scontrol"), "show", "config"])

    def started_at(self, question: Call, wait_s: float = 0) -> float:
        """The answer to `ask_config`: when the controller was started, in seconds since the epoch, by its own
        clock; 0 where it does not tell. Raises SchedulerError."""
        return _point(self._settings(question, wait_s).get("BOOT_TIME", "")) or 0.0

    def config(self) -> dict[str, str]:
        """The settings of the site, by name. Raises SchedulerError."""
        with closing(self.ask_config()) as question:
            return self._settings(question, ASK_S)

    def _settings(self, question: Call, wait_s: float) -> dict[str, str]:
        config = question.answer(wait_s, stop=self.hurry)
        return dict(re.findall(r"^(\w+)\s*=\s*(.*?)\s*$", config, re.MULTILINE))

    def ask_of_nodes(self, format: str, *which: str) -> Call:
        """Begin to ask `sinfo`. Raises SchedulerError."""
        return self._call([self._path("sinfo"), "--noheader", f"--format={format}", *which])

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
            raise SchedulerError(
                f"The command {name!r} is not found: is SLURM installed on this machine, and in PATH?",
                may_pass=False,
            )
        return found

    def _call(self, command: Sequence[str], stdin: bytes = b"") -> Call:
        env = {name: value for name, value in os.environ.items() if not _NOT_FOR_COMMANDS.match(name)}
        return Call(command, {**env, **self.env, "SLURM_BITSTR_LEN": "0"}, stdin)

    def _run(
        self,
        command: Sequence[str],
        stdin: bytes = b"",
        *,
        wait_s: float = TIMEOUT_S,
        with_errors: bool = False,
    ) -> str:
        with closing(self._call(command, stdin)) as call:
            answer = call.answer(wait_s, stop=self.hurry)
            return answer + call.errors if with_errors else answer


def _must_succeed(command: str) -> str:
    """Lines of shell that end it where the command fails, and say so in the place of sbatch's answer."""
    failed = shlex.quote(f"{command!r} failed with exit code")
    return (
        f'{command}\nfb_code=$?; [ "$fb_code" = 0 ] || {{ echo {failed} "$fb_code" >&4; exit "$fb_code"; }}'
    )


def rows_of(answer: str, fields: int) -> list[list[str]]:
    """Raises SchedulerError where a line is not of this form."""
    rows = [line.split("|", fields - 1) for line in answer.splitlines() if line.strip()]
    for row in rows:
        if len(row) != fields:
            raise SchedulerError(f"It answered {'|'.join(row)[:200]!r}", may_pass=True)
    return rows


def _index(text: str) -> int:
    """The index of an array task. Raises SchedulerError."""
    if text in _NO_INDEX:
        return REST
    if not text.isdigit():
        raise SchedulerError(f"squeue answered {text[:200]!r} for the index of an array task", may_pass=True)
    return int(text)


def _indices(text: str) -> Iterator[int]:
    """Of array tasks: `7`, or `[7-9,12-20:4%2]` of those that never had a job of their own."""
    if text in _NO_INDEX:
        yield REST
    for part in text.strip("[]").partition("%")[0].split(","):
        if match := _INDICES.fullmatch(part):
            first, last, step = match.groups()
            yield from range(int(first), int(last or first) + 1, int(step or 1))


def _exit(text: str) -> tuple[int | None, int | None]:
    """Of `3:0`, exit code and signal."""
    code, _, signal = text.partition(":")
    return (int(code), int(signal)) if code.isdigit() and signal.isdigit() else (None, None)


def _point(text: str) -> float | None:
    """Of a time as SLURM writes it, seconds since the epoch; None where it is not known."""
    try:
        return time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return None
