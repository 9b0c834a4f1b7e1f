"""Broken where something goes wrong around the units."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Any, BinaryIO, ClassVar

from fractal_backends_local.backend import LocalExecutor

from fractal_backends import (
    Cause,
    JobExecutionError,
    Options,
    Outcome,
    RunInfo,
    Unit,
    UnitEvent,
    UnitExecutor,
)
from fractal_backends.engine.folder import RunFolder
from fractal_backends.engine.outputs import InvalidOutputError, read_output
from tests.conformance.broken import caught_by
from tests.conformance.broken.plain import PlainBackend, PlainExecutor
from tests.conformance.broken.tools import Really, WithEngine, WithExecutor, WithUnits


@caught_by("FAULT-001", "a unit that is killed has an exit code, as shells tell it")
class KilledAsShellsTell(PlainBackend):
    def verdict(self, unit: Unit, returncode: int) -> Outcome:
        return Outcome.exited(returncode if returncode >= 0 else 128 - returncode)


class _BreaksWhenKilled(LocalExecutor):
    def run(self, units: Sequence[Unit], options: Options) -> Iterator[UnitEvent]:
        for event in super().run(units, options):
            yield event
            if event.outcome and event.outcome.cause is Cause.KILLED:
                self.cancel()


@caught_by("FAULT-001", "a unit that is killed takes its siblings with it")
class KilledWithItsSiblings(WithExecutor):
    executor = _BreaksWhenKilled


class _ToldOfStops(subprocess.Popen[bytes]):
    """Waits until something happens to the process, and takes that for its end."""

    def wait(self, timeout: float | None = None) -> int:
        _, status = os.waitpid(self.pid, os.WUNTRACED)
        return 0 if os.WIFSTOPPED(status) else os.waitstatus_to_exitcode(status)


@caught_by("FAULT-002", "a unit that is stopped is taken for one that ended")
class StoppedTakenForEnded(PlainBackend):
    def start(self, unit: Unit, log: BinaryIO) -> subprocess.Popen[bytes]:
        return _ToldOfStops(unit.command, **self.how(unit, log))


@caught_by("FAULT-002", "a unit that does nothing is taken for one that hangs, and ended")
class IdleTakenForHanging(PlainBackend):
    def start(self, unit: Unit, log: BinaryIO) -> subprocess.Popen[bytes]:
        process = super().start(unit, log)
        threading.Thread(target=_end_when_stopped, args=[process], daemon=True).start()
        return process


def _end_when_stopped(process: subprocess.Popen[bytes]) -> None:
    while process.returncode is None:
        state = Path(f"/proc/{process.pid}/stat").read_text().rpartition(") ")[2][0]
        if state == "T":
            process.kill()
        time.sleep(0.05)


class _Asks(PlainExecutor):
    def cancel(self) -> None:
        self._cancelled.set()
        with self._lock:
            for process in self._running:
                os.killpg(process.pid, SIGTERM)
        self._pool.shutdown()


@caught_by("FAULT-003", "units are asked to end, and waited for")
class UnitsAskedToEnd(PlainBackend):
    def open(self, run: RunInfo) -> UnitExecutor:
        return _Asks(self, run)


class _EndsTheLeader(PlainExecutor):
    def cancel(self) -> None:
        self._cancelled.set()
        with self._lock:
            for process in self._running:
                os.kill(process.pid, SIGKILL)
        self._pool.shutdown()


@caught_by("FAULT-003", "only the first process of a unit is ended")
class OnlyTheLeaderEnded(PlainBackend):
    def open(self, run: RunInfo) -> UnitExecutor:
        return _EndsTheLeader(self, run)


def _read_mended(unit: Unit, model: Any) -> Any:
    path = Path(unit.output_file)
    text = path.read_text() if path.exists() else "{}"
    for end in ("", "}", "]}", "}]}"):
        path.write_text(text + end)
        try:
            return read_output(unit, model)
        except InvalidOutputError as error:
            problem = error
    raise problem


@caught_by("FAULT-004", "what is missing at the end of an output is added")
class HalfOutputsMended(WithEngine):
    changes: ClassVar = {"run.read_output": _read_mended}


def _read_if_valid(unit: Unit, model: Any) -> Any:
    try:
        return read_output(unit, model)
    except InvalidOutputError:
        return model()


@caught_by("FAULT-004", "an output that is not JSON is none")
class BrokenOutputsAreNone(WithEngine):
    changes: ClassVar = {"run.read_output": _read_if_valid}


def _read_without_zeros(unit: Unit, model: Any) -> Any:
    path = Path(unit.output_file)
    if path.exists():
        path.write_bytes(path.read_bytes().rstrip(b"\0"))
    return read_output(unit, model)


@caught_by("FAULT-004", "zeros at the end of an output, as a crash leaves them, are passed over")
class ZerosPassedOver(WithEngine):
    changes: ClassVar = {"run.read_output": _read_without_zeros}


_save = RunFolder.save


def _try_to_save(*state: Any) -> None:
    try:
        _save(*state)
    except JobExecutionError:
        print("the state could not be saved")


@caught_by("FAULT-005", "a state that cannot be saved is a line in a log")
class UnsavedIsNoError(WithEngine):
    changes: ClassVar = {"folder.RunFolder.save": _try_to_save}


def _save_in_the_end(*state: Any) -> None:
    while True:
        try:
            return _save(*state)
        except JobExecutionError:
            time.sleep(0.1)


@caught_by("FAULT-005", "a state that cannot be saved is tried again, for ever")
class SavedInTheEnd(WithEngine):
    changes: ClassVar = {"folder.RunFolder.save": _save_in_the_end}


@caught_by("FAULT-005", "the system's errors on files come through as they are")
class BareErrorsOfFiles(WithEngine):
    changes: ClassVar = {
        "folder.reporting_disk_errors": nullcontext,
        "run.reporting_disk_errors": nullcontext,
    }


def _write_in_place(path: Path, chunks: Iterable[bytes]) -> None:
    with path.open("wb") as file:
        file.writelines(chunks)


@caught_by("FAULT-006", "where there is no room half a state file is left")
class HalfStateFile(WithEngine):
    changes: ClassVar = {"folder._replace": _write_in_place}


@caught_by("FAULT-006", "a full disk is a line in a log")
class FullDiskIsNoError(WithEngine):
    changes: ClassVar = {"folder.RunFolder.save": _try_to_save}


@caught_by("FAULT-007", "a unit whose worker died is waited for")
class DeadWorkersWaitedFor(WithUnits):
    def execute(self, unit: Unit, really: Really) -> Outcome:
        outcome = really(unit)
        while outcome.cause is Cause.LOST:
            time.sleep(1)
        return outcome


@caught_by("FAULT-007", "a unit whose worker died is done: it is not running any more")
class DeadWorkersAreDone(WithUnits):
    def execute(self, unit: Unit, really: Really) -> Outcome:
        outcome = really(unit)
        return Outcome.exited(0) if outcome.cause is Cause.LOST else outcome


@caught_by("FAULT-007", "a unit whose worker died is given to another worker")
class LostUnitsRunAgain(WithUnits):
    def execute(self, unit: Unit, really: Really) -> Outcome:
        outcome = really(unit)
        return really(unit) if outcome.cause is Cause.LOST else outcome


class _AllOrNothing(LocalExecutor):
    def run(self, units: Sequence[Unit], options: Options) -> Iterator[UnitEvent]:
        events = list(super().run(units, options))
        if any(event.outcome and event.outcome.cause is Cause.LOST for event in events):
            raise RuntimeError("a worker of the pool died")
        yield from events


@caught_by("FAULT-007", "when a worker dies all units of its task are lost")
class OneLostAllLost(WithExecutor):
    executor = _AllOrNothing


class _WatchesTheTime(LocalExecutor):
    poll_s = 0.05

    def run(self, units: Sequence[Unit], options: Options) -> Iterator[UnitEvent]:
        self._end = time.time() + 3_600
        return super().run(units, options)

    def poll(self) -> None:
        if time.time() > self._end:
            self._supervisor.stop()


@caught_by("FAULT-008", "a time limit is measured with the clock of the day")
class TimeLimitByTheClock(WithExecutor):
    executor = _WatchesTheTime


@caught_by("FAULT-008", "the moment to ask again is a time of the day")
class AsksByTheClock(WithUnits):
    def execute(self, unit: Unit, really: Really) -> Outcome:
        asked = time.time()
        outcome = really(unit)
        while time.time() < asked + 0.1:
            time.sleep(0.01)
        return outcome
