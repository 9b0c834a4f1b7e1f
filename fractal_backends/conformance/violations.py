"""Failures that can be read without the source of the test."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

_SHOWN = 2_000
_LABEL = 10


class Violation(AssertionError):
    """The backend did not do what a requirement asks for."""

    def __init__(self, expected: str, got: str) -> None:
        super().__init__(f"{paragraph('expected', expected)}\n{paragraph('got', got)}")
        self.expected = expected
        self.got = got


def paragraph(label: str, text: str) -> str:
    """A labelled part of a story, its later lines as far from the margin as its first."""
    return f"{label + ':':{_LABEL}}" + text.replace("\n", "\n" + " " * _LABEL)


def violation(expected: str, got: str) -> NoReturn:
    """The backend did something else."""
    raise Violation(expected, got)


def must(condition: bool, expected: str, got: Any = "not so") -> None:
    """What has to hold, in words, and what there is instead."""
    if not condition:
        violation(expected, got if isinstance(got, str) else shown(got))


def must_equal(got: Any, expected: Any, what: str) -> None:
    """Two values have to be the same JSON value; `what` names them for the reader."""
    if _canonical(got) != _canonical(expected):
        where = _first_difference(got, expected)
        violation(f"{what} to be {shown(expected)}", f"{shown(got)}{where}")


def must_contain(text: str, part: str, what: str) -> None:
    """A text has to hold a part."""
    must(part in text, f"{what} to hold {part!r}", shown(text))


def must_begin(text: str, start: str, what: str) -> None:
    """A text has to begin with another one."""
    must(text.startswith(start), f"{what} to begin with {start!r}", shown(text))


def must_name(text: str, number: int, what: str) -> None:
    """A text has to hold a number that is not a part of a name or of another number."""
    found = re.search(rf"(?<![\w.-]){number}(?![\w-])", text)
    must(found is not None, f"the message to name {what}, {number}", shown(text))


def shown(value: Any) -> str:
    """A value for a person to read, long ones by their beginning."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text):,} characters)"


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=repr)


def _first_difference(got: Any, expected: Any) -> str:
    """Where inside two lists or objects they first differ."""
    place, difference = _difference(got, expected, "")
    return f"\nfirst difference at {place}: {difference}" if place else ""


def _difference(got: Any, expected: Any, place: str) -> tuple[str, str]:
    inner: list[tuple[Any, Any, str]] = []
    if isinstance(got, list) and isinstance(expected, list):
        inner = [(*pair, f"{place}[{i}]") for i, pair in enumerate(zip(got, expected, strict=False))]
    elif isinstance(got, dict) and isinstance(expected, dict):
        shared = [key for key in expected if key in got]
        inner = [(got[key], expected[key], f"{place}.{key}" if place else str(key)) for key in shared]
    for mine, theirs, where in inner:
        if _canonical(mine) != _canonical(theirs):
            return _difference(mine, theirs, where)
    if isinstance(got, list) and isinstance(expected, list):
        return place or "the end", f"{len(got)} instead of {len(expected)} items"
    if isinstance(got, dict) and isinstance(expected, dict):
        keys, expected_keys = ", ".join(map(str, got)), ", ".join(map(str, expected))
        return place or "the top", f"the keys {keys or 'none'} instead of {expected_keys or 'none'}"
    return place, f"{shown(got)} instead of {shown(expected)}"
