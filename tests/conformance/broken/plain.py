"""A backend that has nothing from the local one, to be broken."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, BinaryIO

from fractal_backends import (
    Backend,
    Cause,
    Options,
    Outcome,
    RunInfo,
    Unit,
    UnitExecutor,
    WindowExecutor,
)


class PlainBackend(Backend):
    """Right, and written as many would write one: a thread waits for each unit's process."""

    name = "plain"
    interface_version = 1

    def open(self, run: RunInfo) -> UnitExecutor:
        return PlainExecutor(self, run)

    def open_log(self, unit: Unit) -> BinaryIO:
        fd = os.open(unit.log_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        return open(fd, "wb")

    def start(self, unit: Unit, log: BinaryIO) -> subprocess.Popen[bytes]:
        return subprocess.Popen(unit.command, **self.how(unit, log))

    def how(self, unit: Unit, log: BinaryIO) -> dict[str, Any]:
        """Keywords of `Popen`."""
        return {
            "stdin": subprocess.DEVNULL,
            "stdout": log,
            "stderr": subprocess.STDOUT,
            "env": {**os.environ, **unit.env},
            "process_group": 0,
            "preexec_fn": _reset_signals,
        }

    def verdict(self, unit: Unit, returncode: int) -> Outcome:
        return Outcome.exited(returncode)


ALL_SIGNALS = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}


def _reset_signals() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in ALL_SIGNALS:
        signal.signal(number, signal.SIG_DFL)


class PlainExecutor(WindowExecutor):
    """Units of one run."""

    def __init__(self, backend: PlainBackend, run: RunInfo) -> None:
        super().__init__()
        self._backend = backend
        self._folder = run.workflow_dir_local
        self._pool = ThreadPoolExecutor(4)
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()

    def submit(self, unit: Unit, options: Options) -> Future[Outcome]:
        return self._pool.submit(self._execute, unit)

    def _execute(self, unit: Unit) -> Outcome:
        with self._backend.open_log(unit) as log, self._lock:
            if self._cancelled.is_set():
                return Outcome(Cause.CANCELLED)
            try:
                process = self._backend.start(unit, log)
            except OSError as error:
                return Outcome(Cause.LAUNCH_FAILED, str(error))
            self._running.add(process)
        returncode = process.wait()
        with self._lock:
            self._running.remove(process)
        return (
            Outcome(Cause.CANCELLED) if self._cancelled.is_set() else self._backend.verdict(unit, returncode)
        )

    def cancel(self) -> None:
        super().cancel()
        with self._lock:
            for process in self._running:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        self._pool.shutdown()

    def __exit__(self, *_: object) -> None:
        self.cancel()
