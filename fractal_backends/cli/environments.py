"""The Fractal tasks that are installed in Python environments."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, StrictStr, ValidationError

from ..errors import InvalidInputError
from ..models import Task, TaskType, describe, read_json
from . import _probe_environment

_DEADLINE_SECONDS = 60.0
_MANIFEST_VERSION = "2"


class TaskManifest(BaseModel):
    """What a manifest says of one task. Packages add keys of their own, which are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: StrictStr
    type: TaskType | None = None
    executable_non_parallel: StrictStr | None = None
    executable_parallel: StrictStr | None = None
    input_types: dict[str, Any] | None = None
    output_types: dict[str, Any] | None = None
    meta_non_parallel: dict[str, Any] | None = None
    meta_parallel: dict[str, Any] | None = None
    args_schema_non_parallel: dict[str, Any] | None = None
    args_schema_parallel: dict[str, Any] | None = None


class Manifest(BaseModel):
    """A package's `__FRACTAL_MANIFEST__.json`."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    manifest_version: StrictStr | int = _MANIFEST_VERSION
    args_schema_version: StrictStr | None = None
    task_list: list[Any]
    """Each item is read by itself: one task that is no good leaves the others."""


@dataclass(frozen=True, slots=True)
class ArgumentSchemas:
    """The JSON Schemas of a task's arguments, and which generation they are."""

    version: str | None = None
    non_parallel: dict[str, Any] | None = None
    parallel: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class FoundTask:
    """A task of a package that is installed in an environment, with its commands spelled out."""

    pkg_name: str
    version: str | None
    interpreter: str
    task: Task
    schemas: ArgumentSchemas


@dataclass(frozen=True, slots=True)
class PackageProblem:
    """What keeps a package's tasks, or one of them, from being found."""

    pkg_name: str
    text: str


@dataclass(frozen=True, slots=True)
class Environment:
    """A Python environment, as it was given, and what was found in it."""

    name: str
    interpreter: str
    tasks: list[FoundTask]
    problems: list[PackageProblem]


def find_tasks(
    environments: Sequence[str] = (), *, deadline_seconds: float = _DEADLINE_SECONDS
) -> list[Environment]:
    """The tasks in each of some Python environments: folders of venvs or interpreters, by default this one.

    No package is imported. A package whose manifest is no good is told of in its environment's `problems`.
    Raises InvalidInputError that names every environment that does not exist, has no interpreter, or whose
    interpreter fails or has not answered before the deadline.
    """
    found, problems = [], []
    for environment in dict.fromkeys(environments or [sys.executable]):
        try:
            found.append(_inspect(environment, deadline_seconds))
        except InvalidInputError as error:
            problems.append(str(error))
    if problems:
        raise InvalidInputError("Cannot look for tasks in these Python environments", problems)
    return found


def _inspect(environment: str, deadline_seconds: float) -> Environment:
    interpreter = _interpreter(environment)
    tasks: list[FoundTask] = []
    problems: list[PackageProblem] = []
    entries = _probe(environment, interpreter, deadline_seconds)
    for entry in sorted(entries, key=lambda entry: entry["pkg_name"].casefold()):
        for result in _read_manifest(Path(entry["path"]), entry["pkg_name"], entry["version"], interpreter):
            if isinstance(result, FoundTask):
                tasks.append(result)
            else:
                problems.append(result)
    return Environment(environment, interpreter, tasks, problems)


def _interpreter(environment: str) -> str:
    """The interpreter's absolute path. A symbolic link is kept: what it points to is in no venv."""
    path = os.path.expanduser(environment)
    if os.path.isdir(path):
        candidates = [str(Path(path).absolute() / "bin" / name) for name in ("python", "python3")]
    else:
        candidates = [str(Path(shutil.which(path) or path).absolute())]
    for candidate in candidates:
        if os.path.isfile(candidate) and os.access(candidate, os.X_OK):
            return candidate
    if os.path.exists(path) or os.path.lexists(candidates[0]):
        reason = "no interpreter that can be run"
    else:
        reason = "no such folder or interpreter"
    raise InvalidInputError(f"{environment}: {reason}; looked for {' and '.join(candidates)}")


def _probe(environment: str, interpreter: str, deadline_seconds: float) -> list[dict[str, str]]:
    """Where the environment's manifests are, by the word of its own interpreter."""
    try:
        process = subprocess.Popen(
            [interpreter, _probe_environment.__file__],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        raise InvalidInputError(f"{environment}: cannot run {interpreter}: {error.strerror}") from None
    with process:
        try:
            stdout, stderr = process.communicate(timeout=deadline_seconds)
        except BaseException as error:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            raise InvalidInputError(
                f"{environment}: {interpreter} did not answer within {deadline_seconds:g} seconds"
            ) from None
    _, mark, answer = stdout.decode(errors="replace").rpartition(_probe_environment.MARK)
    if not mark:
        last = (stderr.decode(errors="replace").strip().splitlines() or ["it printed no error"])[-1]
        raise InvalidInputError(
            f"{environment}: {interpreter} is no working Python from 3.8 on"
            f" (exit code {process.returncode}): {last}"
        )
    found: list[dict[str, str]] = json.JSONDecoder().raw_decode(answer)[0]
    return found


def _read_manifest(
    path: Path, pkg_name: str, version: str | None, interpreter: str
) -> Iterator[FoundTask | PackageProblem]:
    try:
        manifest = Manifest.model_validate(read_json(path))
    except InvalidInputError as error:
        yield PackageProblem(pkg_name, str(error))
        return
    except ValidationError as error:
        text = "; ".join(describe(error, Manifest))
        yield PackageProblem(pkg_name, f"{path} is no manifest: {text}")
        return
    if str(manifest.manifest_version) != _MANIFEST_VERSION:
        yield PackageProblem(
            pkg_name,
            f"{path} has manifest_version {manifest.manifest_version!r}; only {_MANIFEST_VERSION!r} is known",
        )
        return
    for index, item in enumerate(manifest.task_list):
        try:
            yield _read_task(item, manifest, path.parent, pkg_name, version, interpreter)
        except (ValidationError, InvalidInputError) as error:
            lines = describe(error, Task) if isinstance(error, ValidationError) else [str(error)]
            yield PackageProblem(pkg_name, f"{path}: task_list[{index}]: {'; '.join(lines)}")


def _read_task(
    item: Any, manifest: Manifest, folder: Path, pkg_name: str, version: str | None, interpreter: str
) -> FoundTask:
    declared = TaskManifest.model_validate(item)
    commands = {}
    for part in ("non_parallel", "parallel"):
        executable = getattr(declared, f"executable_{part}")
        if executable is not None:
            program = folder / executable
            if not program.is_file():
                raise InvalidInputError(f"{declared.name!r}: its executable {program} is not there")
            commands[part] = f"{shlex.quote(interpreter)} {shlex.quote(str(program))}"
    task = Task.model_validate(
        {
            "name": declared.name,
            "type": declared.type,
            "command_non_parallel": commands.get("non_parallel"),
            "command_parallel": commands.get("parallel"),
            "input_types": declared.input_types or {},
            "output_types": declared.output_types or {},
            "meta_non_parallel": declared.meta_non_parallel,
            "meta_parallel": declared.meta_parallel,
            "version": version,
            "pkg_name": pkg_name,
        }
    )
    schemas = ArgumentSchemas(
        manifest.args_schema_version,
        declared.args_schema_non_parallel if "non_parallel" in commands else None,
        declared.args_schema_parallel if "parallel" in commands else None,
    )
    return FoundTask(pkg_name, version, interpreter, task, schemas)
