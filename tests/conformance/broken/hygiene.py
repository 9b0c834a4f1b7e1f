"""Broken in what is left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import tempfile
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from fractal_backends_local import LocalBackend
from fractal_backends_local.backend import LocalExecutor

from fractal_backends import RunInfo, RunResult, Unit, UnitExecutor
from tests.conformance.broken import caught_by
from tests.conformance.broken.plain import PlainBackend, PlainExecutor
from tests.conformance.broken.tools import WithExecutor

SHARED_MEMORY = Path("/dev/shm")


class _EndsItsGroup(subprocess.Popen[bytes]):
    """A unit's process, with whose end that of its process group comes."""

    def wait(self, timeout: float | None = None) -> int:
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        os.killpg(self.pid, signal.SIGKILL)  # not reaped yet, so the group cannot be somebody else's
        return super().wait(timeout)


@caught_by("HYG-001", "what left its unit's process group is not found")
class DaemonsNotFound(PlainBackend):
    def start(self, unit: Unit, log: BinaryIO) -> subprocess.Popen[bytes]:
        return _EndsItsGroup(unit.command, **self.how(unit, log))


class _EndsByEnvironment(PlainExecutor):
    """Ends what has the mark of the run in its environment."""

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if _mark(self._folder).encode() in (entry / "environ").read_bytes().split(b"\0"):
                    os.kill(int(entry.name), signal.SIGKILL)


def _mark(folder: Path) -> str:
    return f"PLAIN_RUN={folder}"


@caught_by("HYG-001", "what has emptied its environment is not found")
class FoundByEnvironment(PlainBackend):
    def open(self, run: RunInfo) -> UnitExecutor:
        return _EndsByEnvironment(self, run)

    def start(self, unit: Unit, log: BinaryIO) -> subprocess.Popen[bytes]:
        name, _, value = _mark(Path(unit.stem).parent.parent).partition("=")
        return _EndsItsGroup(unit.command, **self.how(replace(unit, env={**unit.env, name: value}), log))


class _LeftAfterAFailure(LocalExecutor):
    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if kind is None:
            super().__exit__(kind, error, traceback)


@caught_by("HYG-002", "after an error nothing is tidied up")
class NothingTidiedUp(WithExecutor):
    executor = _LeftAfterAFailure


@caught_by("HYG-003", "what a unit left in its process group goes on")
class GroupsGoOn(PlainBackend):
    pass


def _wait_for_ever() -> None:
    threading.Event().wait()


@caught_by("HYG-004", "each run has a thread that tells of its progress, and stays")
class ThreadForEachRun(LocalBackend):
    def open(self, run: RunInfo) -> UnitExecutor:
        threading.Thread(target=_wait_for_ever, daemon=True).start()
        return super().open(run)


@caught_by("HYG-004", "a thread waits for the end of a run that was cancelled, and misses it")
class ThreadForEachCancel(LocalBackend):
    async def process_workflow(self, **arguments: Any) -> RunResult:
        try:
            return await super().process_workflow(**arguments)
        except asyncio.CancelledError:
            threading.Thread(target=_wait_for_ever, daemon=True).start()
            raise


@caught_by("HYG-005", "each run opens a file, and closes it with the process")
class FileForEachRun(LocalBackend):
    _files: ClassVar[list[Any]] = []

    def open(self, run: RunInfo) -> UnitExecutor:
        self._files.append((run.workflow_dir_local / "history.json").open())
        return super().open(run)


@caught_by("HYG-005", "a pipe to a unit that failed stays open")
class PipeForEachFailure(LocalBackend):
    _pipes: ClassVar[list[Any]] = []

    async def process_workflow(self, **arguments: Any) -> RunResult:
        try:
            return await super().process_workflow(**arguments)
        except Exception:
            self._pipes.append(os.pipe())
            raise


@caught_by("HYG-006", "each run has workers that wait for more when it is over")
class WorkersForEachRun(LocalBackend):
    _workers: ClassVar[list[Any]] = []

    def open(self, run: RunInfo) -> UnitExecutor:
        self._workers.append(subprocess.Popen(["cat"], stdin=subprocess.PIPE))
        return super().open(run)


@caught_by("HYG-006", "a run that is cancelled leaves its helper")
class HelperForEachCancel(LocalBackend):
    async def process_workflow(self, **arguments: Any) -> RunResult:
        helper = subprocess.Popen(["sleep", "60"], start_new_session=True)
        try:
            result = await super().process_workflow(**arguments)
        except Exception:
            helper.kill()
            helper.wait()
            raise
        helper.kill()
        helper.wait()
        return result


@caught_by("HYG-007", "each run has a temporary file, which stays")
class TemporaryFileForEachRun(LocalBackend):
    def open(self, run: RunInfo) -> UnitExecutor:
        os.close(tempfile.mkstemp(prefix="run-")[0])
        return super().open(run)


@caught_by("HYG-007", "each run has a file in a folder of the user's, and leaves it there")
class FileInTheHome(LocalBackend):
    def open(self, run: RunInfo) -> UnitExecutor:
        folder = Path.home() / ".cache" / "broken-backend"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / run.id).touch()
        return super().open(run)


@caught_by("HYG-007", "what a run shares with its workers stays in shared memory")
class SharedMemoryForEachRun(LocalBackend):
    def open(self, run: RunInfo) -> UnitExecutor:
        (SHARED_MEMORY / f"{self.name}-{run.id}").touch()  # see `test_broken_backends`
        return super().open(run)


@caught_by("HYG-007", "a log is written to the working folder")
class LogInTheWorkingFolder(LocalBackend):
    def open(self, run: RunInfo) -> UnitExecutor:
        with Path("fractal.log").open("a") as log:
            log.write(f"run {run.id} starts\n")
        return super().open(run)


@caught_by("HYG-008", "the working folder becomes the run's")
class WorkingFolderChanged(LocalBackend):
    def open(self, run: RunInfo) -> UnitExecutor:
        os.chdir(run.workflow_dir_local)
        return super().open(run)


@caught_by("HYG-008", "the cache folder becomes a variable of the process, for all later runs too")
class CacheDirOfTheProcess(LocalBackend):
    def open(self, run: RunInfo) -> UnitExecutor:
        if run.user_cache_dir:
            os.environ["FRACTAL_CACHE_DIR"] = run.user_cache_dir
        return super().open(run)


@caught_by("HYG-006", "children are never waited for")
class ZombiesLeft(LocalBackend):
    def open(self, run: RunInfo) -> UnitExecutor:
        if os.fork() == 0:
            os._exit(0)
        return super().open(run)
