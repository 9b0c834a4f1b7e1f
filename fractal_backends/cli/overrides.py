"""`--option KEY=VALUE` and `--set PATH=VALUE`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ..errors import InvalidInputError


def parse_options(items: Sequence[str]) -> dict[str, Any]:
    """Options as given on the command line. Raises InvalidInputError for one that has no `=`."""
    pairs = [_split(item, "--option", "KEY=VALUE") for item in items]
    return {key: _value(text) for key, text in pairs}


def apply_overrides(document: Any, items: Sequence[str]) -> None:
    """Set values in a workflow's document; a path begins with the index of a task.

    Raises InvalidInputError that tells of every path which does not fit, and what there is instead.
    """
    problems = []
    for item in items:
        path, text = _split(item, "--set", "PATH=VALUE")
        try:
            _set(document, path.split("."), _value(text))
        except LookupError as error:
            problems.append(f"--set {item}: {error.args[0]}")
    if problems:
        raise InvalidInputError("Cannot change the workflow", problems)


def _split(item: str, option: str, form: str) -> tuple[str, str]:
    key, separator, text = item.partition("=")
    if not separator or not key:
        raise InvalidInputError(f"{option} {item!r} must have the form {form}")
    return key, text


def _value(text: str) -> Any:
    """JSON where it is JSON, else the text itself: `4`, `true`, `[1, 2]`, `DAPI`."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _set(document: Any, path: list[str], value: Any) -> None:
    target = document.get("task_list") if isinstance(document, dict) else None
    if not isinstance(target, list):
        raise LookupError("the workflow has no task_list")
    if len(path) == 1:
        raise LookupError("the path must go on behind the task's index, as in 0.args_parallel.x")
    for position, part in enumerate(path[:-1]):
        target = _step(target, part, ".".join(path[: position + 1]))
    if isinstance(target, dict):
        target[path[-1]] = value
    else:
        target[_index(target, path[-1], ".".join(path))] = value


def _step(target: Any, part: str, path: str) -> Any:
    if isinstance(target, list):
        following = target[_index(target, part, path)]
    else:
        following = target.get(part)
        if following is None:
            following = target[part] = {}
    if not isinstance(following, dict | list):
        raise LookupError(f"{path} is {json.dumps(following)}, nothing can be set inside it")
    return following


def _index(target: list[Any], part: str, path: str) -> int:
    if not part.isdecimal() or int(part) >= len(target):
        raise LookupError(
            f"{path}: there is a list with the indices 0 to {len(target) - 1} here, not {part!r}"
        )
    return int(part)
