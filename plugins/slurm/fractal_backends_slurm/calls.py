"""Commands of the scheduler that are called, waited for and ended."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from threading import Event
from typing import BinaryIO

TIMEOUT_S = 180.0
"""SLURM's own time-outs are shorter, and so is what sbatch tries where the queue is full."""
ASK_S = 60.0
"""For so long an answer is waited for before a submission; then SLURM is asked again, or done without."""
_RETRY = re.compile(
    r"timed out|unable to contact|connection (refused|reset)|temporarily|try again|zero bytes|communication"
    r"|socket|slurm_\w*(msg|send|recv|receive)|message (connect|send|receive)|broken pipe|resolution"
    r"|not connected|no route to host|(network|host) is (down|unreachable)"
    r"|submit limit|too many|MaxJobCount|QOSMaxSubmit|AssocMaxSubmit|slurm_load|not responding|I/O error"
    r"|inactive or drain|authentication error",
    re.IGNORECASE,
)
"""Of errors that say nothing about the request. It may have got there all the same."""
_FAILED = re.compile(r"(job submission|allocation) (failed|failure): ", re.IGNORECASE)
_SAYS_WHY = re.compile(rf"{_FAILED.pattern}|error: (Assoc|QOS)\w+$", re.IGNORECASE)
_SLEEPS = re.compile(r",? sleeping and retrying")
"""What sbatch says where the queue is full, before it tries again for two minutes."""
_NO_ROOM = re.compile(r"submit limit|MaxJobCount|MaxSubmit|unable to accept job", re.IGNORECASE)
"""Of refusals for the number of jobs that there would be."""
_TOO_LARGE = re.compile(r"\b(QOS|Assoc)(?!\w*(Submit|Jobs))\w*(Limit|NotSatisfied)\b")
"""Limits of accounts for each job, which are not about the number of jobs, though SLURM says so as well."""
_BY_SIGNAL = range(128 + 1, 128 + signal.NSIG)
"""What a shell makes of signals that ended a command. (SLURM's commands exit with 255 by themselves.)"""
_MOST_PRINTED = 10_000
_LOOK_S = 0.2
_LOOK_SHARE, _SHORTEST_LOOK_S = 0.05, 0.0005
"""How long a command is left alone: a share of the time that it has taken so far."""
_NAMES = ("sbatch", "squeue", "scontrol", "sacct", "scancel", "sinfo")


AsUser = Callable[[str | None], list[str]]
"""What stands before a command that a user is to execute; None: the runner itself."""


class SchedulerError(Exception):
    """The scheduler did not do as asked; the message is what it said."""

    def __init__(self, message: str, *, may_pass: bool) -> None:
        super().__init__(message)
        self.may_pass = may_pass
        """Whether asking again can help. It may also have done what it was asked for."""

    @property
    def lacks_room(self) -> bool:
        """Whether it was refused for the number of jobs that there would be: fewer may be accepted."""
        return self.may_pass and _NO_ROOM.search(str(self)) is not None


class Call:
    """A command that was begun, to be closed.

    Raises SchedulerError where it cannot be begun.
    """

    def __init__(self, command: Sequence[str], env: Mapping[str, str], stdin: bytes = b"") -> None:
        self.output = self.errors = ""
        """What it answered, and what it said to people, once it has ended."""
        self._program = next(word for word in command if Path(word).name in _NAMES)
        name = Path(self._program).name
        user = next((command[place + 3] for place, word in enumerate(command) if word == "sudo"), None)
        self._name = f"{name} as the user {user}" if user else name
        self._can_be_ended = user is None
        """Whether nothing of it goes on once it is closed."""
        self._begun = time.monotonic()
        with ExitStack() as files:
            try:
                # Files rather than pipes: nobody has to read while it runs.
                given, self._stdout, self._stderr = (
                    files.enter_context(tempfile.TemporaryFile()) for _ in range(3)
                )
                given.write(stdin)
                given.seek(0)
                self._process = subprocess.Popen(
                    command,
                    stdin=given,
                    stdout=self._stdout,
                    stderr=self._stderr,
                    env=dict(env),
                    start_new_session=True,
                )
            except OSError as error:
                raise SchedulerError(f"{self._name} cannot be called: {error}", may_pass=False) from error
            self._files = files.pop_all()

    def has_ended(self, wait_s: float) -> bool:
        """Whether it ends within so many seconds."""
        end = time.monotonic() + wait_s
        while self._process.poll() is None:
            now = time.monotonic()
            if now >= end:
                return False
            # Popen.wait would look ever more rarely, and notice most ends half as late again.
            time.sleep(min(end - now, max(_LOOK_SHARE * (now - self._begun), _SHORTEST_LOOK_S)))
        return True

    @property
    def printed(self) -> str:
        """What it answered so far."""
        return os.pread(self._stdout.fileno(), _MOST_PRINTED, 0).decode(errors="replace").strip()

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    @property
    def is_overdue(self) -> bool:
        """Whether there is no point in waiting longer."""
        return time.monotonic() > self._begun + TIMEOUT_S

    def answer(self, wait_s: float, *, stop: Event | None = None, grace_s: float = 0) -> str:
        """What it printed. Raises SchedulerError where it failed, or has not ended after so long, or
        `grace_s` after `stop` was set."""
        end = time.monotonic() + wait_s
        until = ""
        while not self.has_ended(min(_LOOK_S, max(0.0, end - time.monotonic()))):
            self._must_not_sleep()
            if stop is not None and stop.is_set() and not until:
                end, until = min(end, time.monotonic() + grace_s), "before the run was cancelled"
            if time.monotonic() >= end:
                until = until or f"within {time.monotonic() - self._begun:.0f} s"
                raise SchedulerError(f"{self._name} did not answer {until}", may_pass=True)
        answer, self.errors = _text(self._stdout), _text(self._stderr).strip()
        self.output = answer.strip()
        if code := self._process.returncode:
            message = self.errors or (self.output if code > 0 else "") or told_end(code)
            was_killed = (code < 0 or code in _BY_SIGNAL) and not _FAILED.search(message)
            decisive = _decisive(message)
            may_pass = was_killed or (_RETRY.search(decisive) and not _TOO_LARGE.search(decisive))
            raise SchedulerError(
                f"{self._name}: {with_hint(_plain(message), self._program)}", may_pass=bool(may_pass)
            )
        return answer

    def _must_not_sleep(self) -> None:
        """One that was told to come again is not waited for: who asked can do that, and go on meanwhile."""
        words = os.pread(self._stderr.fileno(), 2_000, 0).decode(errors="replace")
        if self._can_be_ended and (found := _SLEEPS.search(words)):
            raise SchedulerError(f"{self._name}: {_plain(words[: found.start()])}", may_pass=True)

    def close(self) -> None:
        """End it, whatever it does. What another user's sudo runs ends by itself."""
        try:
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)  # its group, because it may be a site's wrapper
            self._process.wait()
        except PermissionError:
            threading.Thread(target=self._process.wait, daemon=True).start()
        self._files.close()


def as_user(user: str | None) -> list[str]:
    """An `AsUser`: by sudo."""
    return ["sudo", "-n", "-u", user, "--"] if user is not None else []


def with_hint(message: str, program: str) -> str:
    """What sudo said of a program, with what to do about it; anything else as it is."""
    if not message.startswith("sudo: "):
        return message
    return (
        f"{message}; sudo has to allow {program}, as the documentation of the slurm backend has it"
        " under `As another user`"
    )


def _decisive(message: str) -> str:
    """Where a submission failed, the lines that say why: a site's own words may be among the others."""
    lines = message.splitlines()
    return "\n".join(filter(_SAYS_WHY.search, lines)) if any(map(_FAILED.search, lines)) else message


def told_end(code: int) -> str:
    """How a command ended, for people."""
    return f"ended by signal {-code}" if code < 0 else f"ended with exit code {code}"


def _text(file: BinaryIO) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def _plain(message: str) -> str:
    """Without the names of commands that each line begins with, and without the way to more help."""
    said = [line for line in message.splitlines() if not line.startswith('Try "')]
    lines = [re.sub(rf"^({'|'.join(_NAMES)}|allocation failure): (error: )?", "", line) for line in said]
    return "\n".join(lines)[:2_000]
