"""Faults: processes that stand between the runner and its units are killed."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Any

from .. import processes
from ..expectations import Subject, must_equal, not_judged, requirement, violation
from ..subject import read_json
from ..traces import Gate
from ..workflows import Json, image, parallel, updates

_TELL_S = 0.5
"""How long a backend has to hear of a unit's end, where it does not say that it did, and of a worker's."""


@requirement("FAULT-007")
def test_killed_workers(subject: Subject) -> None:
    """Runs two units. When the first has ended and the second runs, kills a process that stands between the
    second and the process that awaits the run; each of those that a run started in a run of its own."""
    subject.run([parallel()], ["a"])  # what lives as long as the runner is there from now on
    killed = 0
    while _Scene(subject, f"killed-{killed + 1}").kill_between(killed):
        killed += 1
    if not killed:
        not_judged("no process of a run stands between its units and the process that awaits it")


class _Scene:
    """A run of a unit that has ended and one that waits at a gate."""

    def __init__(self, subject: Subject, name: str) -> None:
        self._subject = subject
        self._gate = Gate(subject, name)
        self._trace, self._lock, self._about = (
            subject.folder / f"{name}-{what}" for what in ("trace", "lock", "about")
        )
        self._since = processes.ticks_now()
        do = {"a": self._steps("a"), "b": self._steps("b")}
        self._run = subject.start([parallel(do), parallel()], ["a", "b"], folder=f"{name}-run", observe=True)
        self._gate.must_come("b")
        subject.before_the_end(lambda: "a ended" in self._traced(), "the first unit to end")
        processes.eventually(lambda: any(event["state"] == "ended" for event in self._run.events), _TELL_S)

    def _steps(self, name: str) -> list[list[Any]]:
        waits = [["describe", str(self._about)], *self._gate.steps("b")] if name == "b" else []
        return [
            ["append", str(self._trace), f"{name} began"],
            ["alive", str(self._lock)],
            *waits,
            updates({"zarr_url": name, "attributes": {"by": name}}),
            ["append", str(self._trace), f"{name} ended"],
        ]

    def _traced(self) -> list[str]:
        return self._trace.read_text().splitlines() if self._trace.exists() else []

    def kill_between(self, place: int) -> bool:
        """Kill the one at this place, the nearest to the unit being 0, and look at what becomes of the run.

        Returns False, when the run is over, if there is none at this place.
        """
        between = self._between()
        if place < len(between):
            command = processes.command_line(between[place])[:100]
            self._run.what += f"; killed: the process {place + 1} above the second unit, `{command}…`"
            os.kill(between[place], signal.SIGKILL)
            processes.eventually(lambda: self._run.is_over, _TELL_S)
        self._gate.let("b")  # it may have come to no harm
        self._must_end_truly()
        return place < len(between)

    def _between(self) -> list[int]:
        """The processes of this run above the second unit, the nearest first."""
        unit = read_json(self._about)
        if unit["machine"] != processes.machine():
            self._run.cancel()
            self._run.wait()
            not_judged("units run on another machine or in a container, where the suite cannot kill anything")
        found = []
        for pid in processes.ancestors(unit["pid"]):
            if pid in (os.getpid(), self._run.runner.pid):
                break
            with contextlib.suppress(OSError):  # it has ended, or is another user's
                os.kill(pid, 0)
                if processes.started_at(pid) >= self._since:
                    found.append(pid)
        return found

    def _must_end_truly(self) -> None:
        ended = self._run.wait()
        traced = self._traced()
        must_equal(traced.count("b began"), 1, "how often the unit was started whose worker was killed")
        if ended.succeeded and "b ended" not in traced:
            violation("a run whose unit was lost with its worker to raise an error", "it succeeded")
        if not ended.succeeded:
            ended.failure.must_be("JobExecutionError", "0_par_0000001")
        by_b: Json = {"by": "b"} if ended.succeeded else {}
        must_equal(ended.images, [image("a", by="a"), image("b", **by_b)], "the images afterwards")
        self._subject.must_be_dead(self._lock, "after the run")
