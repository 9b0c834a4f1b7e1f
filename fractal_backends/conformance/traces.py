"""What units leave behind of themselves and what they wait for, for tests to read and to steer."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .subject import Subject, read_json
from .violations import must_equal, violation

QUIET_S = 0.2
"""For how long it is watched that something does not happen."""


def recorded(folder: Path) -> list[dict[str, Any]]:
    """The arguments of all units that ran and recorded them (see `task_program.record`), in unit order.

    They come without the steps that the unit was to take: those reached it.
    """
    paths = sorted(folder.iterdir()) if folder.exists() else ()
    found = [read_json(path) for path in paths if path.suffix != ".part"]
    return [{key: value for key, value in unit.items() if key != "do"} for unit in found]


def must_have_run(folder: Path, *expected: dict[str, Any]) -> None:
    """Units with just these arguments (see `recorded`) have to have run, in this order."""
    must_equal(recorded(folder), list(expected), "the arguments of the units that ran, in unit order,")


def must_not_have_run(trace: Path, what: str, seconds: float = 0.0) -> None:
    """What a unit makes as soon as it starts must not be there, nor come within some seconds."""
    stays(lambda: not trace.exists(), seconds, f"{what} not to start", "it started")


def stays(condition: Callable[[], bool], seconds: float, expected: str, got: str) -> None:
    """Something has to hold all the time for some seconds."""
    end = time.monotonic() + seconds
    while True:
        if not condition():
            violation(expected, got)
        if time.monotonic() > end:
            return
        time.sleep(0.005)


class Gate:
    """Where units say that they are there, and wait until they are let through."""

    def __init__(self, subject: Subject, name: str = "gate") -> None:
        self._subject = subject
        self._here, self._open = subject.folder / name, subject.folder / f"{name}-open"
        self._here.mkdir()
        self._open.mkdir()
        self.passed: set[str] = set()

    def steps(self, unit: str) -> list[list[str]]:
        """What a unit does to come and wait."""
        return [["touch", str(self._here / unit)], ["wait", str(self._open / unit)]]

    def let(self, *units: str) -> None:
        """Let units through, whether they have come or not."""
        self.passed.update(units)
        for unit in units:
            (self._open / unit).touch()

    def waiting(self) -> set[str]:
        """The units that have come and were not let through."""
        return {path.name for path in self._here.iterdir() if path.suffix != ".part"} - self.passed

    def must_come(self, *units: str) -> None:
        """These units have to be here at the same time."""
        self._subject.before_the_end(
            lambda: self.waiting() >= set(units),
            f"{' and '.join(units)} to run" + " at the same time" * (len(units) > 1),
        )

    def must_hold_at_least(self, units: int, when: str) -> None:
        """So many units have to wait here."""
        self._subject.before_the_end(
            lambda: len(self.waiting()) >= units, f"{_count(units)} to run at the same time {when}"
        )

    def must_hold(self, units: int, when: str) -> None:
        """So many units have to wait here, and then no more."""
        before = time.monotonic()
        self.must_hold_at_least(units, when)
        stays(
            lambda: len(self.waiting()) <= units,
            max(QUIET_S, time.monotonic() - before),  # where units take long to start
            f"no more than {_count(units)} to run at the same time {when}",
            "one more started",
        )


def _count(units: int) -> str:
    return "1 unit" if units == 1 else f"{units} units"
