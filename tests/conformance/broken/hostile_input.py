"""Broken where input is not what one expects."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, ClassVar
from urllib.parse import unquote

from fractal_backends import Cause, Outcome, Unit
from fractal_backends.engine.folder import RunFolder, write_new
from fractal_backends.engine.outputs import OutputT, read_output
from fractal_backends.engine.verdicts import Failure
from fractal_backends.models import Image
from tests.conformance.broken import caught_by
from tests.conformance.broken.plain import PlainBackend
from tests.conformance.broken.tools import WithEngine


def _make_task_folder(folder: RunFolder, order: int, task_name: str) -> Path:
    slug = "".join(letter if letter.isalnum() or letter in "./" else "_" for letter in task_name.lower())
    path = folder.path / f"{order}_{slug}"
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


@caught_by("HOST-001", "slashes and dots stay in the names of folders")
class SlashesInFolderNames(WithEngine):
    changes: ClassVar = {"folder.RunFolder.make_task_folder": _make_task_folder}


@caught_by("HOST-002", "logs are copied as text in UTF-8")
class LogsAsText(PlainBackend):
    def start(self, unit: Unit, log: BinaryIO) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(unit.command, **{**self.how(unit, log), "stdout": subprocess.PIPE})
        for line in process.communicate()[0].decode().splitlines(keepends=True):
            log.write(line.encode())
        return process


@caught_by("HOST-002", "the error holds the whole log")
class WholeLogInTheError(WithEngine):
    changes: ClassVar = {"verdicts.LOG_END_BYTES": 1 << 24}


def _with_json(unit: Unit, model: type[OutputT]) -> OutputT:
    path = Path(unit.output_file)
    with suppress(OSError, ValueError):
        path.write_text(json.dumps(json.loads(path.read_bytes())))
    return read_output(unit, model)


@caught_by("HOST-003", "deep nesting is more than the reader of outputs can take")
class OutputsReadWithRecursion(WithEngine):
    changes: ClassVar = {"run.read_output": _with_json}


def _without_nan(unit: Unit, model: type[OutputT]) -> OutputT:
    path = Path(unit.output_file)
    if path.exists():
        path.write_bytes(path.read_bytes().replace(b"NaN", b"null"))
    return read_output(unit, model)


@caught_by("HOST-003", "NaN is taken for null")
class NanTaken(WithEngine):
    changes: ClassVar = {"run.read_output": _without_nan}


def _write_expanded(path: str, data: bytes) -> None:
    write_new(path, os.path.expandvars(data))


@caught_by("HOST-004", "variables of the environment are put into arguments")
class ArgumentsExpanded(WithEngine):
    changes: ClassVar = {"planning.write_new": _write_expanded}


@caught_by("HOST-005", "who opens a FIFO waits for ever")
class FifoIsWaitedFor(WithEngine):
    changes: ClassVar = {"outputs.open_regular": partial(open, mode="rb")}


def _unquoted(images: Iterable[Image]) -> Iterable[dict[str, Any]]:
    return ({"zarr_url": unquote(image.zarr_url)} for image in images)


@caught_by("HOST-006", "URLs are taken for quoted ones")
class UrlsUnquoted(WithEngine):
    changes: ClassVar = {"run.image_arguments": _unquoted}


def _with_real_paths(unit: Unit, model: type[OutputT]) -> OutputT:
    path = Path(unit.output_file)
    output = json.loads(path.read_bytes()) if path.exists() else {}
    for update in output.get("image_list_updates", ()):
        if update["zarr_url"].startswith("/"):
            update["zarr_url"] = os.path.normpath(update["zarr_url"])
    path.write_text(json.dumps(output))
    return read_output(unit, model)


@caught_by("HOST-006", "a URL with '..' is resolved instead of refused")
class UpwardUrlsResolved(WithEngine):
    changes: ClassVar = {"run.read_output": _with_real_paths}


def _whole_log(failure: Failure) -> list[str]:
    return [Path(failure.unit.log_file).read_text(errors="replace")[-8_000:]]


@caught_by("HOST-007", "a log that is gone is an error of its own")
class MissingLogCrashes(WithEngine):
    changes: ClassVar = {"verdicts._log_end": _whole_log}


@caught_by("HOST-007", "the arguments file is needed again when the unit has ended")
class ArgumentsReadAgain(PlainBackend):
    def verdict(self, unit: Unit, returncode: int) -> Outcome:
        if not Path(unit.args_file).is_file():
            return Outcome(Cause.LOST, "its arguments are gone")
        return super().verdict(unit, returncode)


@caught_by("HOST-008", "the words of a command are joined and split at white space")
class WordsSplitAgain(PlainBackend):
    def start(self, unit: Unit, log: BinaryIO) -> subprocess.Popen[bytes]:
        return subprocess.Popen(" ".join(unit.command).split(), **self.how(unit, log))


@caught_by("HOST-008", "a command line has at most 4,096 characters")
class CommandsCut(PlainBackend):
    def start(self, unit: Unit, log: BinaryIO) -> subprocess.Popen[bytes]:
        line = shlex.join(unit.command)
        if len(line) > 4096:
            raise OSError(7, "Argument list too long")
        return super().start(unit, log)
