"""From the workflow file that Fractal exports to this package's own form, with commands spelled out."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InvalidInputError
from .environments import ArgumentSchemas, Environment, FoundTask, find_tasks

_IDENTITY = ("pkg_name", "version", "name")
_COMMANDS = ("command_non_parallel", "command_parallel")
_PHASES = {"dev": -4, "a": -3, "b": -2, "c": -1, "rc": -1, "": 0}


@dataclass(frozen=True, slots=True)
class ResolvedWorkflow:
    """A workflow in this package's own form, still to be validated, and what its arguments must be like."""

    document: Any
    schemas: list[ArgumentSchemas | None]
    """One for each item of `task_list`; None where the workflow itself spells the commands out."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    pkg_name: str
    version: str | None
    name: str


def resolve_workflow(document: Any, environments: Sequence[str], source: str) -> ResolvedWorkflow:
    """Give the tasks of an exported workflow what their packages' manifests say of them.

    Tasks that have commands are left alone, and so is whatever has another shape than a workflow: validating
    the result tells what is wrong with it. The environments are looked into if there is a task to resolve.
    Raises InvalidInputError that tells of every task which is in none of them, or of every environment that
    cannot be used; `source` says there where the document comes from.
    """
    items = document.get("task_list") if isinstance(document, dict) else None
    if not isinstance(items, list):
        return ResolvedWorkflow(document, [])
    wanted = [_wanted(item) for item in items]
    found = find_tasks(environments) if any(wanted) else []
    resolved: list[Any] = []
    schemas: list[ArgumentSchemas | None] = []
    problems = []
    for index, (item, want) in enumerate(zip(items, wanted, strict=True)):
        task = _newest(_matches(want, found)) if want else None
        if want and not task:
            problems.append(f"task_list[{index}]: {_missing(want, found)}")
        resolved.append({**item, "task": _merged(task, item["task"])} if task else item)
        schemas.append(task.schemas if task else None)
    if problems:
        raise InvalidInputError(
            f"{source}: tasks that are in none of the Python environments that were looked into"
            " (`--task-env ENV` names another one: the folder of a venv, or an interpreter)",
            problems,
        )
    return ResolvedWorkflow({**document, "task_list": resolved}, schemas)


def _wanted(item: Any) -> _Wanted | None:
    task = item.get("task") if isinstance(item, dict) else None
    if not isinstance(task, dict) or any(task.get(command) is not None for command in _COMMANDS):
        return None
    pkg_name, version, name = (task.get(key) for key in _IDENTITY)
    if isinstance(pkg_name, str) and isinstance(name, str) and isinstance(version, str | None):
        return _Wanted(pkg_name, version, name)
    return None


def _merged(found: FoundTask, given: dict[str, Any]) -> dict[str, Any]:
    """The task as its manifest has it; what the workflow says beyond the task's identity goes on top."""
    own = {key: value for key, value in given.items() if value is not None and key not in _IDENTITY}
    return {**found.task.model_dump(mode="json", exclude_none=True), **own}


def _matches(want: _Wanted, environments: Iterable[Environment]) -> list[FoundTask]:
    return [
        task
        for task in _of_package(want.pkg_name, environments)
        if task.task.name == want.name and want.version in (None, task.version)
    ]


def _of_package(pkg_name: str, environments: Iterable[Environment]) -> list[FoundTask]:
    return [
        task
        for environment in environments
        for task in environment.tasks
        if _normalise(task.pkg_name) == _normalise(pkg_name)
    ]


def _newest(tasks: Sequence[FoundTask]) -> FoundTask | None:
    """Of several with the same version the first, which is in the environment that was given first."""
    return max(tasks, key=lambda task: _version_key(task.version), default=None)


def _version_key(version: str | None) -> tuple[Any, ...]:
    """Orders versions as PEP 440 does, as far as packages use it; what is no version comes first."""
    match = re.match(r"v?(?:(\d+)!)?(\d+(?:\.\d+)*)[-_.]?(dev|a|b|c|rc)?(.*)", (version or "").lower())
    if match is None:
        return (-1,)
    epoch, release, phase, rest = match.groups(default="")
    numbers = [int(number) for number in re.findall(r"\d+", rest)]
    return int(epoch or 0), [int(number) for number in release.split(".")], _PHASES[phase], numbers


def _normalise(pkg_name: str) -> str:
    return re.sub(r"[-_.]+", "-", pkg_name).lower()


def _missing(want: _Wanted, environments: Sequence[Environment]) -> str:
    """What was looked for, where, and the nearest there is."""
    version = "in any version" if want.version is None else want.version
    places = ", ".join(environment.interpreter for environment in environments)
    reasons = [
        problem.text
        for environment in environments
        for problem in environment.problems
        if _normalise(problem.pkg_name) == _normalise(want.pkg_name)
    ]
    if reasons and not _of_package(want.pkg_name, environments):
        reasons.insert(0, "the package is there, but no good")
    else:
        reasons.insert(0, _nearest(want, environments))
    return f"looked for task {want.name!r} of {want.pkg_name} {version} in {places}: " + "; ".join(reasons)


def _nearest(want: _Wanted, environments: Sequence[Environment]) -> str:
    package = _of_package(want.pkg_name, environments)
    if not package:
        names = sorted({task.pkg_name for environment in environments for task in environment.tasks})
        return _near("the package is not there", want.pkg_name, names, "package with Fractal tasks")
    same = [task for task in package if want.version in (None, task.version)]
    if same:
        return _near("it has no such task", want.name, [task.task.name for task in same], "task")
    versions = {task.version or "unknown": task.interpreter for task in package}
    text = "versions that are there: " + ", ".join(f"{key} (in {place})" for key, place in versions.items())
    names = [task.task.name for task in package]
    return text if want.name in names else _near(f"{text}, without such a task", want.name, names, "task")


def _near(text: str, wanted: str, names: Sequence[str], what: str) -> str:
    folded = {name.casefold(): name for name in names}
    near = difflib.get_close_matches(wanted.casefold(), folded, n=1)
    if near:
        return f"{text}, the nearest {what} is {folded[near[0]]!r}"
    if not names:
        return f"{text}, nor any other {what}"
    return f"{text}, what is there: " + ", ".join(map(repr, dict.fromkeys(names)))
