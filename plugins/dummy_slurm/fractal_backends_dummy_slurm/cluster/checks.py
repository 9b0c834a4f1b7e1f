"""Whether values from a JSON file are what they should be."""

from __future__ import annotations

import math
from typing import Any

_POSITIVE = (
    "cpus",
    "memory_mb",
    "max_minutes",
    "max_nodes",
    "max_array_size",
    "first_job_id",
    "max_job_count",
    "memory_interval_s",
    "minute_s",
    "nth",
    "times",
    "within",
)
"""Of these there must be some; other numbers may be 0."""
_KINDS: dict[str, tuple[str, tuple[type, ...]]] = {
    "str": ("a text", (str,)),
    "bool": ("true or false", (bool,)),
    "int": ("a whole number", (int,)),
    "float": ("a number", (int, float)),
    "list": ("a list", (list,)),
    "dict": ("an object", (dict,)),
}


def problem(name: str, value: Any, annotation: str) -> str | None:
    """What is wrong with a value, if anything. `annotation`: as in the code, `int | None`, `list[str]`."""
    kind, _, other = annotation.partition(" | ")
    if value is None and other == "None":
        return None
    outer, _, inner = kind.partition("[")
    expected, types = _KINDS[outer]
    fits = isinstance(value, types) and (outer == "bool" or not isinstance(value, bool))
    if not fits:
        return f"{name} must be {expected}, not {value!r}"
    if inner == "str]" and not _is_texts(value):
        return f"{name} must be a list of texts, not {value!r}"
    if inner == "str, list[str]]" and not all(map(_is_texts, value.values())):
        return f"{name} must have a list of texts for each name, not {value!r}"
    if outer in ("int", "float"):
        return _number_problem(name, value)
    return None


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _number_problem(name: str, value: float) -> str | None:
    if not math.isfinite(value):
        return f"{name} must be a finite number, not {value}"
    if name in _POSITIVE:
        return None if value > 0 else f"{name} must be more than 0, not {value}"
    return None if value >= 0 else f"{name} cannot be negative, and is {value}"
