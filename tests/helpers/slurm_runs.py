"""Runs on SLURM that go on while a test does something to them; each unit is a small shell script."""

from __future__ import annotations

import asyncio
import shlex
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from conftest import eventually
from fractal_backends import Cause, Outcome, RunResult, UnitEvent, UnitState, get_backend, hookimpl
from slurm_lab import SlurmLab

LONG_S = 90.0
"""Nothing in these tests may take longer."""
POLL_S = 0.5
TASK = """\
url=$(sed -n 's/.*"zarr_url": *"\\([^"]*\\)".*/\\1/p' "$2")
name=${url##*/} folder=FOLDER args=$2 out=$4
echo "$name $SLURMD_NODENAME ${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID $$" >>"$folder/started"
wait_for() { while [ ! -e "$folder/$1" ]; do sleep 0.05; done; }
. "$folder/units/$name"
"""
HOG = "python3 -c 'x = bytearray(300 << 20)'"
"""A process that needs 300 MB, for a moment."""
SLOW_HOG = "python3 -c 'import time; x = bytearray(300 << 20); time.sleep(30)'"
"""One that keeps them long enough for somebody who looks every second."""


class Watcher:
    """Keeps what is told of a run."""

    def __init__(self) -> None:
        self.events: list[UnitEvent] = []

    @hookimpl
    def unit_changed(self, event: UnitEvent) -> None:
        self.events.append(event)


class SlurmRun:
    """A run in a thread of its own, of units that are named by their images."""

    def __init__(
        self, folder: Path, units: Mapping[str, str], options: Mapping[str, Any], backend: str = "slurm"
    ) -> None:
        self.folder = folder
        self._backend = backend
        self.names = list(units)
        self.error: BaseException | None = None
        self.result: RunResult | None = None
        self._watcher = Watcher()
        self._units = units
        self._options = {"poll_interval": POLL_S, "receipt_deadline": 5, **options}
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[RunResult] | None = None

    def write(self) -> dict[str, Any]:
        """Make the scripts; workflow and dataset, to be run with."""
        (self.folder / "units").mkdir(parents=True)
        for name, script in self._units.items():
            (self.folder / "units" / name).write_text(script + "\n")
        (self.folder / "started").touch()
        (self.folder / "started").chmod(0o666)
        program = self.folder / "task.sh"
        program.write_text(TASK.replace("FOLDER", shlex.quote(str(self.folder))))
        task = {"name": "Task", "type": "parallel", "command_parallel": f"/bin/sh {program}"}
        return {
            "workflow": {"task_list": [{"task": task}]},
            "dataset": {
                "zarr_dir": "/data",
                "images": [{"zarr_url": f"/data/{name}"} for name in self.names],
            },
            "workflow_dir_local": self.folder / "run",
            "logger_name": "tests",
        }

    def start(self, **arguments: Any) -> None:
        """Begin; `arguments` of process_workflow."""
        given = {**self.write(), **arguments}
        backend = get_backend(self._backend, options=self._options, observers=[self._watcher])

        async def process() -> RunResult:
            self._task = asyncio.current_task()
            result: RunResult = await backend.process_workflow(**given)
            return result

        loop = self._loop = asyncio.new_event_loop()

        def run() -> None:
            try:
                self.result = loop.run_until_complete(process())
            except BaseException as error:
                self.error = error
            finally:
                loop.close()

        self._thread = threading.Thread(target=run, name="slurm-run")
        self._thread.start()

    def cancel(self) -> None:
        """As a server does."""
        assert self._loop is not None
        with suppress(RuntimeError):  # it is over
            self._loop.call_soon_threadsafe(lambda: self._task.cancel() if self._task else None)

    def wait(self, deadline_s: float = LONG_S) -> None:
        """Until the run is over; it is cancelled if that takes too long."""
        assert self._thread is not None
        self._thread.join(deadline_s)
        if self._thread.is_alive():
            story = self.story()
            self.cancel()
            self._thread.join(LONG_S)
            raise AssertionError(f"the run took longer than {deadline_s} s: {story}")

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self._thread is not None and not self._thread.is_alive()

    def open(self, gate: str) -> None:
        """Let units go on that wait for it."""
        (self.folder / gate).touch()

    # -- what happened ------------------------------------------------------------------------------------

    @property
    def events(self) -> list[UnitEvent]:
        """Of units, in order."""
        return list(self._watcher.events)

    def name(self, event: UnitEvent) -> str:
        """Which unit it is about."""
        return self.names[event.unit.component or 0]

    @property
    def outcomes(self) -> dict[str, Outcome]:
        """Of the units that ended."""
        return {self.name(event): event.outcome for event in self.events if event.outcome is not None}

    @property
    def causes(self) -> dict[str, str]:
        """How they ended, by name."""
        return {name: str(outcome.cause) for name, outcome in self.outcomes.items()}

    @property
    def handles(self) -> dict[str, str]:
        """The last handle of each unit that has one."""
        return {self.name(event): event.handle for event in self.events if event.handle}

    def started(self) -> list[list[str]]:
        """What units wrote when they started: name, node, array task and process id."""
        lines = (self.folder / "started").read_text().splitlines()
        return [line.split() for line in lines]

    def place_of(self, name: str) -> list[str]:
        """The node, array task and process id of a unit, once it has started."""
        found: list[list[str]] = []

        def there() -> bool:
            found[:] = [fields[1:] for fields in self.started() if fields[0] == name]
            return bool(found) or self.is_over

        assert eventually(there, LONG_S), f"{name} did not start: {self.story()}"
        assert found, f"the run is over and {name} did not start: {self.story()}"
        return found[0]

    def told_started(self, name: str) -> bool:
        """Whether it was said that a unit started."""
        return any(self.name(e) == name and e.state is UnitState.STARTED for e in self.events)

    def story(self) -> str:
        """For people, when it is not as it should be."""
        events = [
            f"{event.time:.2f} {self.name(event)} {event.state} {event.handle or ''} {event.info}"
            + (f" {event.outcome}" if event.outcome else "")
            for event in self.events
        ]
        return "\n".join(["", *events, f"started: {self.started()}", f"error: {self.error!r}"])

    # -- what must be so ----------------------------------------------------------------------------------

    def must_end(self, deadline_s: float = LONG_S, **causes: Cause) -> None:
        """Each unit as given, and all others well; none ran twice, and no file of the submission is left."""
        self.wait(deadline_s)
        expected = {name: str(causes.get(name, Cause.DONE)) for name in self.names}
        assert self.causes == expected, self.story()
        ends = [event for event in self.events if event.state is UnitState.ENDED]
        assert len(ends) == len(self.names), self.story()
        self.must_have_run_once()

    def must_have_run_once(self) -> None:
        """No unit started twice; those that ended well did start."""
        names = [fields[0] for fields in self.started()]
        assert len(names) == len(set(names)), f"started twice: {self.story()}"
        done = {name for name, outcome in self.outcomes.items() if outcome.cause is Cause.DONE}
        assert done <= set(names), f"never started, but done: {self.story()}"

    def must_leave_no_files(self, remote: Path | None = None) -> None:
        """Nothing of what the submissions needed."""
        hidden = (remote or self.folder / "run") / ".slurm"
        assert not hidden.exists(), list(hidden.rglob("*"))


class StartRun(Protocol):
    """Starts a run of the units, and ends it with the test."""

    def __call__(
        self,
        units: Mapping[str, str],
        options: Mapping[str, Any] | None = None,
        **arguments: Any,
    ) -> SlurmRun: ...


def until_asked_again(lab: SlurmLab, times: int = 2, deadline_s: float = LONG_S) -> None:
    """Wait until the backend has begun to ask for the state of its jobs this many times more."""
    before = len(lab.calls("squeue"))
    assert eventually(lambda: len(lab.calls("squeue")) >= before + times, deadline_s), lab.calls()


def at_least(seconds: float, since: float) -> None:
    """Let time go by where SLURM itself counts it."""
    time.sleep(max(0.0, since + seconds - time.monotonic()))
