"""Units with a verdict, until their files are where they belong."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from fractal_backends import Cause, Outcome, Unit, UnitEvent, UnitState

from .places import Place, PlaceError

_WITH_FILES = (Cause.DONE, Cause.TASK_ERROR, Cause.KILLED, Cause.OUT_OF_MEMORY, Cause.TIME_LIMIT)
"""How units end whose files are wanted."""


@dataclass
class _Ending:
    unit: Unit
    outcome: Outcome
    has_output: bool
    since: float


class Endings:
    """Brings the files of units home; `patience_s`: for how long one may be missing that was written."""

    def __init__(self, place: Place, patience_s: float) -> None:
        self._place = place
        self._patience_s = patience_s
        self._waiting: list[_Ending] = []

    def __len__(self) -> int:
        """How many units still have files that are to come."""
        return len(self._waiting)

    def add(self, unit: Unit, outcome: Outcome, *, has_output: bool) -> None:
        """A unit ended; `has_output`: and wrote an output."""
        self._waiting.append(_Ending(unit, outcome, has_output, time.monotonic()))

    def bring_home(self) -> Iterator[UnitEvent]:
        """The ends of units whose files are here, or will not come any more."""
        if not self._waiting:
            return
        problem = ""
        try:
            self._place.fetch([ending.unit for ending in self._waiting])
        except PlaceError as error:
            problem = str(error)
        now = time.monotonic()
        waiting = []
        for ending in self._waiting:
            missing = ending.has_output and not os.path.lexists(ending.unit.output_file)
            is_done = ending.outcome.cause is Cause.DONE
            if ending.outcome.cause not in _WITH_FILES or not (problem or (missing and is_done)):
                yield UnitEvent(ending.unit, UnitState.ENDED, ending.outcome)
            elif now - ending.since <= self._patience_s:
                waiting.append(ending)
            elif is_done:
                info = problem or "It wrote an output, which does not show up as a regular file."
                lost = replace(ending.outcome, cause=Cause.LOST, info=info)
                yield UnitEvent(ending.unit, UnitState.ENDED, lost)
            else:
                told = replace(ending.outcome, info=f"{ending.outcome.info} {problem}".strip())
                yield UnitEvent(ending.unit, UnitState.ENDED, told)
        self._waiting = waiting
