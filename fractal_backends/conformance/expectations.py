"""What all tests of the suite begin with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import pytest

from .subject import Ended, Run, Subject
from .violations import must, must_begin, must_contain, must_equal, violation

__all__ = [
    "Ended",
    "Run",
    "Subject",
    "must",
    "must_begin",
    "must_contain",
    "must_equal",
    "not_judged",
    "requirement",
    "violation",
]


TestT = TypeVar("TestT", bound=Callable[..., Any])


def requirement(name: str) -> Callable[[TestT], TestT]:
    """Marks a test with the requirement that it judges."""
    return pytest.mark.requirement(name)


def not_judged(reason: str) -> NoReturn:
    """End a test without a verdict; the report says why."""
    pytest.skip(reason)
