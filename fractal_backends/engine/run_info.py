"""The arguments of a run: which the backend heeds, and whether they are what they should be."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import InvalidInputError, UnsupportedArgumentError
from ..interface import OPTIONAL_ARGUMENTS, BackendAttributes, RunInfo, Support

_PATHS = ("workflow_dir_local", "workflow_dir_remote", "user_cache_dir")


def make_run_info(
    backend: type[BackendAttributes],
    workflow_dir_local: str | os.PathLike[str],
    logger_name: str,
    **arguments: Any,
) -> RunInfo:
    """A new run, with the optional arguments of the interface that the backend heeds.

    Raises UnsupportedArgumentError for one that it refuses, InvalidInputError for those that are wrong.
    """
    heeded = {name: value for name, value in arguments.items() if _counts(backend, name, value)}
    _check_values({"workflow_dir_local": workflow_dir_local, "logger_name": logger_name, **heeded}, backend)
    local = Path(workflow_dir_local).absolute()
    remote, cache = heeded.pop("workflow_dir_remote", None), heeded.pop("user_cache_dir", None)
    run = RunInfo(
        id=uuid.uuid4().hex,
        workflow_dir_local=local,
        workflow_dir_remote=Path(remote).absolute() if remote else local,
        logger_name=logger_name,
        user_cache_dir=None if cache is None else os.fspath(cache),
        **heeded,
    )
    _check_arguments(backend, run)
    return run


def _counts(backend: type[BackendAttributes], name: str, value: Any) -> bool:
    """Whether an argument is given, and not declared as ignored."""
    return value is not None and backend.arguments.get(name) != Support.IGNORED


def _check_values(arguments: dict[str, Any], backend: type[BackendAttributes]) -> None:
    """Raises InvalidInputError for values of wrong types, and for texts that nothing could be told.

    One that is refused whatever its value is left to `_check_arguments`.
    """
    problems = [
        f"{name} {problem}"
        for name, value in arguments.items()
        if name in ("workflow_dir_local", "workflow_dir_remote")
        or backend.arguments.get(name) != Support.REFUSED
        for problem in _problems(value, is_path=name in _PATHS)
    ]
    if len(problems) == 1:
        raise InvalidInputError(problems[0])
    if problems:
        raise InvalidInputError("The arguments of the run are not valid", problems)


def _problems(value: Any, *, is_path: bool) -> Iterator[str]:
    text = os.fspath(value) if is_path and isinstance(value, os.PathLike) else value
    if not isinstance(text, str):
        yield f"must be {'a text or a Path' if is_path else 'a text'}, not {value!r}"
    elif "\0" in text:
        yield f"must not hold a NUL character, as it does at index {text.index(chr(0))}"
    else:
        try:
            os.fsencode(text)
        except UnicodeEncodeError as error:
            yield f"must be text that can be encoded, which it cannot at index {error.start}"


def _check_arguments(backend: type[BackendAttributes], run: RunInfo) -> None:
    """Raises UnsupportedArgumentError for an argument that the backend declares as refused, InvalidInputError
    for a cache folder that is not absolute."""
    name = backend.name.replace("_", " ").capitalize()
    for argument in OPTIONAL_ARGUMENTS:
        if backend.arguments[argument] != Support.REFUSED:
            continue
        if argument == "workflow_dir_remote":
            if run.workflow_dir_remote != run.workflow_dir_local:
                raise UnsupportedArgumentError(
                    f"{name} backend does not support different directories:"
                    f" workflow_dir_local is {run.workflow_dir_local},"
                    f" workflow_dir_remote is {run.workflow_dir_remote}"
                )
        elif getattr(run, argument) is not None:
            raise UnsupportedArgumentError(f"{name} backend does not support {argument}")
    if run.user_cache_dir is not None and not os.path.isabs(run.user_cache_dir):
        raise InvalidInputError(f"user_cache_dir must be an absolute path, not {run.user_cache_dir!r}")
