"""Execute units as processes of this machine, through a supervisor process."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ..interface import Cause, Outcome, Unit
from .supervisor_process import STOP, Channel

_NO_ERRNO = 0
"""Where Python itself refuses, such as an empty name."""
_NOT_A_COMMAND = (
    errno.ENOENT,
    errno.EACCES,
    errno.ENOEXEC,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    _NO_ERRNO,
)

# Imported, not run as a script, so that there is byte code of it; without its package, which takes longer.
_START = (
    "import sys; sys.path.insert(0, sys.argv[1]); import supervisor_process; "
    "supervisor_process.main(int(sys.argv[2]))"
)
_SPARE_FILES = 16
"""Left for the runner's own files."""


class _Process:
    """One supervisor process and the channels to it."""

    def __init__(self, umask: int) -> None:
        self._control, theirs = socket.socketpair()
        with theirs:
            self.popen = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _START, str(Path(__file__).parent), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                umask=umask,
                start_new_session=True,  # a terminal's Ctrl-C is the runner's to handle
            )
        self._changed = threading.Condition()
        self._free: list[Channel] = []
        self._all: list[Channel] = []
        self._closed = False

    def take_channel(self) -> Channel:
        """A channel of the caller's own; waits for one where no more files may be opened."""
        with self._changed:
            while self._all and not (self._closed or self._free or _may_open_files()):
                self._changed.wait()
            if self._closed:
                raise ConnectionResetError
            return self._free.pop() if self._free else self._open_channel()

    def _open_channel(self) -> Channel:
        ours, theirs = socket.socketpair()
        channel = Channel(ours)
        self._all.append(channel)
        with theirs:
            socket.send_fds(self._control, [b"channel"], [theirs.fileno()])
        return channel

    def give_back(self, channel: Channel) -> None:
        with self._changed:
            self._free.append(channel)
            self._changed.notify()

    def ask_to_stop(self) -> None:
        with contextlib.suppress(OSError):
            self._control.send(STOP)

    def close(self) -> None:
        """Wait until the process is gone, and all that it started, and free what belongs to it."""
        with contextlib.suppress(OSError):
            self._control.recv(1)  # closes when the supervisor is gone; its guard may have gone before
        self.popen.wait()
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._control.close()
            for channel in self._all:
                channel.close()


def _may_open_files() -> bool:
    """Whether another channel leaves enough of the files that this process may have open."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return limit == resource.RLIM_INFINITY or len(os.listdir("/proc/self/fd")) + _SPARE_FILES <= limit


class Supervisor:
    """Starts units as processes, measures them, and ends them with everything that descends from them.

    `execute` may be called from many threads; each call waits for its unit without using the CPU. If the
    supervisor process dies its units are ended and count as lost, and the next call starts a new one.
    """

    def __init__(self, umask: int = -1) -> None:
        """`umask` of the units; -1: that of this process."""
        self._umask = umask
        self._lock = threading.Lock()
        self._process: _Process | None = None
        self._stopping = False

    def execute(self, unit: Unit, on_start: Callable[[int], None] = lambda _: None) -> Outcome:
        """Run a unit's command to its end. `on_start` is called with its process id."""
        with self._lock:
            if self._stopping:
                return Outcome(Cause.CANCELLED)
            if self._process is None:
                self._process = _Process(self._umask)
            process = self._process
        try:
            channel = process.take_channel()
            channel.send(_request(unit))
            answer = channel.receive()
            if answer[0] == "started":
                on_start(int(answer[1]))
                answer = channel.receive()
            process.give_back(channel)
        except OSError as error:
            return self._no_answer(process, error)
        outcome = _outcome(unit, answer)
        if outcome.cause is Cause.CANCELLED and not self._stopping:
            return replace(outcome, cause=Cause.LOST, info="The supervisor process was told to end.")
        return outcome

    def stop(self) -> None:
        """End everything; when it returns nothing that was started still runs. Later units are cancelled."""
        with self._lock:
            self._stopping = True
            process = self._process
        if process is not None:
            process.ask_to_stop()
            self._close(process)

    def _no_answer(self, process: _Process, error: OSError) -> Outcome:
        if not isinstance(error, ConnectionError):
            return Outcome(Cause.LAUNCH_FAILED, f"Cannot reach the supervisor process: {error}.")
        self._close(process)
        if self._stopping:
            return Outcome(Cause.CANCELLED)
        return Outcome(Cause.LOST, "The supervisor process that ran the unit was ended.")

    def _close(self, process: _Process) -> None:
        with self._lock:
            if self._process is process:
                process.close()
                self._process = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


def _request(unit: Unit) -> tuple[Any, ...]:
    return (
        [os.fsencode(part) for part in unit.command],
        {os.fsencode(name): os.fsencode(value) for name, value in unit.env.items()},
        os.fsencode(unit.log_file),
    )


def _outcome(unit: Unit, answer: tuple[object, ...]) -> Outcome:
    match answer:
        case ("ended", int(status), float(wall), float(cpu), int(peak_kb), bool(stopped)):
            code = os.waitstatus_to_exitcode(status)
            cause = Cause.CANCELLED if stopped else Cause.of_returncode(code)
            exit_code, number = (code, None) if code >= 0 else (None, -code)
            return Outcome(cause, "", exit_code, number, wall, cpu, peak_kb / 1024)
        case ("failed", "command", int(number)) if number in _NOT_A_COMMAND:
            command = unit.task_command[0]
            return Outcome(
                Cause.INVALID_COMMAND,
                f'Command "{command}" is not valid. Hint: make sure that it is executable.',
            )
        case ("failed", "command", int(number)):
            return Outcome(Cause.LAUNCH_FAILED, f"Cannot start the command: {os.strerror(number)}.")
        case ("failed", "log", int(number)):
            path = Path(unit.log_file)
            return Outcome(Cause.LAUNCH_FAILED, f"Cannot write the log {path}: {os.strerror(number)}.")
        case _:  # ("refused",)
            return Outcome(Cause.CANCELLED)
