"""Broken in the files of a run."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, ClassVar
from unittest import mock

from fractal_backends_local import LocalBackend

from fractal_backends import RunInfo, RunResult, Unit, UnitExecutor
from fractal_backends.engine.folder import RunFolder, _replace, write_new
from fractal_backends.models import task_slug
from tests.conformance.broken import caught_by
from tests.conformance.broken.plain import PlainBackend, PlainExecutor
from tests.conformance.broken.tools import WithEngine


@caught_by("FILE-001", "only white space in a task's name is replaced in the name of its folder")
class PunctuationInFolderNames(WithEngine):
    changes: ClassVar = {"folder.task_slug": lambda name: "_".join(name.lower().split())}


def _write_in_ascii(path: str, data: bytes) -> None:
    text = json.dumps(json.loads(data), ensure_ascii=False)
    write_new(path, text.encode("ascii", errors="replace"))


@caught_by("FILE-001", "relative folders are taken to be relative to another one")
class RelativeElsewhere(LocalBackend):
    async def process_workflow(self, *, workflow_dir_local: Path, **arguments: Any) -> RunResult:
        folder = Path(tempfile.gettempdir()) / workflow_dir_local
        return await super().process_workflow(workflow_dir_local=folder, **arguments)


@caught_by("FILE-002", "letters that the locale does not have are lost in the arguments")
class ArgumentsInTheLocale(WithEngine):
    changes: ClassVar = {"planning.write_new": _write_in_ascii}


@caught_by("FILE-003", "what units write to stderr is dropped")
class StderrDropped(PlainBackend):
    def how(self, unit: Unit, log: BinaryIO) -> dict[str, Any]:
        return {**super().how(unit, log), "stderr": subprocess.DEVNULL}


@caught_by("FILE-003", "stdout and stderr are collected, and written one after the other")
class StreamsOneAfterTheOther(PlainBackend):
    def start(self, unit: Unit, log: BinaryIO) -> subprocess.Popen[bytes]:
        how = self.how(unit, log) | {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen(unit.command, **how)
        for text in process.communicate():
            log.write(text)
        return process


class _LogFiltered(PlainBackend):
    def filtered(self, log: bytes) -> bytes:
        raise NotImplementedError

    def start(self, unit: Unit, log: BinaryIO) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(unit.command, **self.how(unit, log) | {"stdout": subprocess.PIPE})
        log.write(self.filtered(process.communicate()[0]))
        return process


@caught_by("FILE-003", "colours are taken out of logs")
class ColoursRemoved(_LogFiltered):
    def filtered(self, log: bytes) -> bytes:
        return re.sub(rb"\x1b\[[0-9;]*[A-Za-z]", b"", log)


@caught_by("FILE-003", "blanks at both ends of logs are taken away")
class LogStripped(_LogFiltered):
    def filtered(self, log: bytes) -> bytes:
        return log.strip()


@caught_by("FILE-004", "the state files are written when the run is over")
class StateOnlyAtTheEnd(LocalBackend):
    async def process_workflow(self, **arguments: Any) -> RunResult:
        states: list[tuple[Any, ...]] = []
        save = RunFolder.save
        with mock.patch.object(RunFolder, "save", lambda *state: states.append(state)):
            try:
                return await super().process_workflow(**arguments)
            finally:
                save(*states[-1])


def _write_in_place(path: Path, chunks: Iterable[bytes]) -> None:
    with path.open("wb") as file:
        file.writelines(chunks)
    path.chmod(0o600)


@caught_by("FILE-005", "state files are written in place")
class StateFilesRewritten(WithEngine):
    changes: ClassVar = {"folder._replace": _write_in_place}


def _remove_and_rename(path: Path, chunks: Iterable[bytes]) -> None:
    temporary = path.with_suffix(".new")
    _write_in_place(temporary, chunks)
    path.unlink(missing_ok=True)
    temporary.rename(path)


@caught_by("FILE-005", "a state file is removed before the new one takes its place")
class StateFilesRemovedFirst(WithEngine):
    changes: ClassVar = {"folder._replace": _remove_and_rename}


@caught_by("FILE-006", "an empty output file is made before the unit starts")
class OutputFileMadeInAdvance(PlainBackend):
    def start(self, unit: Unit, log: BinaryIO) -> subprocess.Popen[bytes]:
        Path(unit.output_file).write_text("{}")
        return super().start(unit, log)


def _make_task_folder(folder: RunFolder, order: int, task_name: str) -> Path:
    path = folder.path / f"{order}_{task_slug(task_name)}"
    path.mkdir(mode=0o700, exist_ok=True)
    return path


@caught_by("FILE-006", "output files of an earlier time stay")
class StaleOutputsStay(WithEngine):
    changes: ClassVar = {"folder.RunFolder.make_task_folder": _make_task_folder}


@caught_by("FILE-007", "the umask decides who may read a log")
class LogsByTheUmask(PlainBackend):
    def open_log(self, unit: Unit) -> BinaryIO:
        return open(unit.log_file, "wb")


def _replace_for_all(path: Path, chunks: Iterable[bytes]) -> None:
    _replace(path, chunks)
    path.chmod(0o644)


@caught_by("FILE-007", "state files can be read by all")
class StateForAll(WithEngine):
    changes: ClassVar = {"folder._replace": _replace_for_all}


@caught_by("FILE-008", "the folder is emptied before a run")
class FolderEmptiedFirst(LocalBackend):
    async def process_workflow(self, *, workflow_dir_local: Path, **arguments: Any) -> RunResult:
        shutil.rmtree(workflow_dir_local, ignore_errors=True)
        return await super().process_workflow(workflow_dir_local=workflow_dir_local, **arguments)


@caught_by("FILE-008", "the run begins a new workflow.log, whatever is in the one that is there")
class LogBegunAnew(LocalBackend):
    async def process_workflow(self, *, workflow_dir_local: Path, **arguments: Any) -> RunResult:
        with contextlib.suppress(OSError):
            os.truncate(workflow_dir_local / "workflow.log", 0)
        return await super().process_workflow(workflow_dir_local=workflow_dir_local, **arguments)


@caught_by("FILE-009", "only the last folder of the path is made")
class ParentsNotMade(LocalBackend):
    async def process_workflow(self, *, workflow_dir_local: Path, **arguments: Any) -> RunResult:
        workflow_dir_local.mkdir(mode=0o700, exist_ok=True)
        return await super().process_workflow(workflow_dir_local=workflow_dir_local, **arguments)


@caught_by("FILE-009", "paths go through a shell as they are")
class PathsGivenToShell(PlainBackend):
    def start(self, unit: Unit, log: BinaryIO) -> subprocess.Popen[bytes]:
        line = f"{shlex.join(unit.task_command)} --args-json {unit.args_file} --out-json {unit.output_file}"
        return subprocess.Popen(line, shell=True, **self.how(unit, log))


@caught_by("FILE-010", "the script that starts a unit stays in the folder")
class ScriptsStay(PlainBackend):
    def start(self, unit: Unit, log: BinaryIO) -> subprocess.Popen[bytes]:
        script = Path(f"{unit.stem}.sh")
        script.write_text(f"exec {shlex.join(unit.command)}\n")
        return subprocess.Popen(["/bin/sh", str(script)], **self.how(unit, log))


class _TellsToStop(PlainExecutor):
    def cancel(self) -> None:
        if not self._cancelled.is_set() and self._running:
            (self._folder / "stop").touch()
        super().cancel()


@caught_by("FILE-010", "the file that tells units to stop stays after a cancel")
class StopFileStays(PlainBackend):
    def open(self, run: RunInfo) -> UnitExecutor:
        return _TellsToStop(self, run)
