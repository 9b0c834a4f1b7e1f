"""Execute units as processes of this machine, through a supervisor process."""

from __future__ import annotations

import contextlib
import errno
import marshal
import os
import signal
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
from . import supervisor_process
from .supervisor_process import MAX_PACKET, STOP

_NOT_A_COMMAND = (errno.ENOENT, errno.EACCES, errno.ENOEXEC, errno.ENOTDIR, errno.EISDIR)


class _Process:
    """One supervisor process and the channels to it."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.popen = subprocess.Popen(
                [sys.executable, "-I", "-S", supervisor_process.__file__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # a terminal's Ctrl-C is the runner's to handle
            )
        self._free: list[socket.socket] = []
        self._all: list[socket.socket] = []
        self.pids: set[int] = set()
        """The commands under way."""

    def take_channel(self) -> socket.socket:
        with contextlib.suppress(IndexError):
            return self._free.pop()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._all.append(ours)
        with theirs:
            socket.send_fds(self._control, [b"channel"], [theirs.fileno()])
        return ours

    def give_back(self, channel: socket.socket) -> None:
        self._free.append(channel)

    def ask_to_stop(self) -> None:
        with contextlib.suppress(OSError):
            self._control.send(STOP)

    def close(self) -> None:
        """Wait for the process, see to it that nothing is left, free what belongs to it."""
        self.popen.wait()
        # It leaves nothing behind, unless it was itself killed: then its units are orphans.
        orphans = {pid for pid in self.pids if _leads_a_group(pid)}
        supervisor_process.send_signal(supervisor_process.descendants(orphans) | orphans, signal.SIGKILL)
        for pid in orphans:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
        for channel in (self._control, *self._all):
            channel.close()


def _leads_a_group(pid: int) -> bool:
    try:
        return os.getpgid(pid) == pid
    except ProcessLookupError:
        return False


class Supervisor:
    """Starts units as processes, measures them, and ends them with everything that descends from them.

    `execute` may be called from many threads; each call waits for its unit without using the CPU. If the
    supervisor process dies its units are ended and count as lost, and the next call starts a new one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: _Process | None = None
        self._stopping = False

    def execute(self, unit: Unit, on_start: Callable[[int], None] = lambda _: None) -> Outcome:
        """Run a unit's command to its end. `on_start` is called with its process id."""
        with self._lock:
            if self._stopping:
                return Outcome(Cause.CANCELLED)
            if self._process is None:
                self._process = _Process()
            process = self._process
        pid = 0
        try:
            channel = process.take_channel()
            channel.send(_request(unit))
            answer = _receive(channel)
            if answer[0] == "started":
                pid = int(answer[1])
                process.pids.add(pid)
                on_start(pid)
                answer = _receive(channel)
            process.give_back(channel)
        except OSError as error:
            return self._no_answer(process, error)
        process.pids.discard(pid)
        return _outcome(unit, answer)

    def stop(self) -> None:
        """End everything; when it returns nothing that was started still runs. Later units are cancelled."""
        with self._lock:
            self._stopping = True
            process = self._process
        if process is not None:
            process.ask_to_stop()
            self._close(process)

    def _no_answer(self, process: _Process, error: OSError) -> Outcome:
        if error.errno == errno.EMSGSIZE:
            return Outcome(Cause.LAUNCH_FAILED, "The command and its environment are too long to be started.")
        if not isinstance(error, ConnectionError):
            return Outcome(Cause.LAUNCH_FAILED, f"Cannot reach the supervisor process: {error}.")
        self._close(process)
        if self._stopping:
            return Outcome(Cause.CANCELLED)
        code = process.popen.returncode
        return Outcome(Cause.LOST, f"The supervisor process that ran the unit ended (returncode={code}).")

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


def _request(unit: Unit) -> bytes:
    return marshal.dumps(
        (
            [os.fsencode(part) for part in unit.command],
            {os.fsencode(name): os.fsencode(value) for name, value in unit.env.items()},
            os.fsencode(unit.log_file),
        )
    )


def _receive(channel: socket.socket) -> tuple[Any, ...]:
    message = channel.recv(MAX_PACKET)
    if not message:
        raise ConnectionResetError
    answer: tuple[Any, ...] = marshal.loads(message)  # noqa: S302 - from our own child
    return answer


def _outcome(unit: Unit, answer: tuple[object, ...]) -> Outcome:
    match answer:
        case ("ended", int(status), float(wall), float(cpu), int(peak_kb), bool(stopped)):
            outcome = Outcome.exited(os.waitstatus_to_exitcode(status))
            cause = Cause.CANCELLED if stopped else outcome.cause
            return replace(outcome, cause=cause, wall_s=wall, cpu_s=cpu, peak_mb=peak_kb / 1024)
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
