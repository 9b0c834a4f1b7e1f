"""The backend under test, as the tests see it: its runs take place in a runner process."""

from __future__ import annotations

import itertools
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from . import processes, stacks
from .declared import Declared
from .ended import Ended as Ended, Failure as Failure, read_json as read_json
from .runner import serve_in_thread
from .settings import Chance, Settings
from .violations import violation
from .workflows import Json, dataset as make_dataset

_WORDS = 3_000
_FOR_CANCEL = 0.5
"""Of a test's time: 30 s, unless another deadline was asked for."""
_FOR_RUNNER = ("form", "object", "options", "observe", "spoil", "together")
_keys = itertools.count(1)


class Deadline:
    """The seconds that a test has."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.for_cancel = seconds * _FOR_CANCEL
        """The seconds that a cancel may take."""
        self._end = time.monotonic() + seconds

    def extend(self, seconds: float) -> None:
        """Give the test more time; what a cancel may take stays."""
        self.seconds += seconds
        self._end += seconds

    @property
    def left(self) -> float:
        """Seconds that are left, never less than 0."""
        return max(0.0, self._end - time.monotonic())


class Runner:
    """A runner process, or a thread that does the same, and the connection to it."""

    def __init__(
        self,
        backend: str,
        options: Json,
        log: Path,
        *,
        in_process: bool = False,
        env: Json | None = None,
        cwd: Path | None = None,
        stdin: int = subprocess.DEVNULL,
        **settings: Any,
    ) -> None:
        self._log = log
        self._before = processes.descendants(os.getpid())
        self._connection, theirs = socket.socketpair()
        self._runs: dict[str, Run] = {}
        self.process: subprocess.Popen[bytes] | None = None
        if in_process:
            serve_in_thread(backend, options, theirs)
        else:
            given = {"backend": backend, "options": options, "connection": theirs.fileno(), **settings}
            with theirs, log.open("ab") as output:
                self.process = subprocess.Popen(
                    [sys.executable, "-m", "fractal_backends.conformance.runner", json.dumps(given)],
                    stdin=stdin,
                    stdout=output,
                    stderr=output,
                    pass_fds=[theirs.fileno()],
                    env={**os.environ, **(env or {})},
                    cwd=cwd,
                    process_group=0,  # a backend that signals its own group must not end the suite
                )
        self._reader = threading.Thread(target=self._read, name="conformance-reader", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The process that awaits the runs."""
        return self.process.pid if self.process else os.getpid()

    def send(self, run: Run, do: str, **request: Any) -> None:
        """Tell the runner to do something about a run."""
        self._runs[run.key] = run
        try:
            self._connection.sendall(json.dumps({"do": do, "run": run.key, **request}).encode() + b"\n")
        except OSError:
            run.answers.put(None)

    def set_clock(self, offset_s: float, deadline: Deadline) -> None:
        """Let the runner's clock jump."""
        run = Run(self, Path(), deadline, "the clock jumps")
        self.send(run, "clock", offset_s=offset_s)
        run.wait()

    def stacks(self) -> str:
        """Where the runner's threads are, and what it wrote to stdout and stderr before."""
        if not self.process:
            return "its threads are in this process"
        before = self._log.read_bytes()
        self.process.send_signal(signal.SIGUSR1)
        processes.eventually(lambda: stacks.is_whole(self._dump(len(before))), 1)
        words = before[-_WORDS:].decode(errors="replace").strip()
        return stacks.told(self._dump(len(before))) + (f"\nits last words:\n{words}" if words else "")

    def _dump(self, start: int) -> str:
        return self._log.read_bytes()[start:].decode(errors="replace")

    def last_words(self) -> str:
        """The end of what the runner wrote to stdout and stderr, for a person to read."""
        words = self._log.read_text(errors="replace")[-_WORDS:].strip() if self._log.exists() else ""
        return f"its last words:\n{words}" if words else "it wrote nothing"

    def how_it_ended(self) -> str:
        """The exit code of a runner that has ended, or the signal that ended it."""
        code = self.process.wait() if self.process else 0
        return f" with exit code {code}" if code >= 0 else f" by signal {-code}"

    def state(self, deadline: Deadline) -> Json:
        """What the runner's process as a whole has: see `runner`."""
        run = Run(self, Path(), deadline, "the runner tells of itself")
        self.send(run, "state")
        state: Json = run.wait().answer["result"]
        return state

    def kill(self) -> None:
        """End the runner as if its machine had gone."""
        if self.process:
            self.process.kill()
            self.process.wait()

    def close(self) -> None:
        """End the runner, and all that is below it or was left by it."""
        self._connection.shutdown(socket.SHUT_RDWR)
        self.kill()
        if self.process:
            processes.end_all(processes.descendants(os.getpid()) - self._before)
        self._reader.join()
        self._connection.close()

    def _read(self) -> None:
        with self._connection.makefile("rb") as lines:
            try:
                for line in lines:
                    answer = json.loads(line)
                    self._runs[answer["run"]].take(answer)
            except OSError:
                pass
        for run in list(self._runs.values()):
            run.answers.put(None)


@dataclass
class Run:
    """A run that was started."""

    runner: Runner
    folder: Path
    deadline: Deadline
    what: str
    """For a person to read."""
    name: str = "the run"
    key: str = field(default_factory=lambda: str(next(_keys)))
    answers: queue.SimpleQueue[Json | None] = field(default_factory=queue.SimpleQueue)
    request: Path | None = None
    """The file with all that it was given."""
    events: list[Json] = field(default_factory=list)
    """What happened to the units, where that was asked for."""
    started: float = field(default_factory=time.monotonic)
    _ended: Ended | None = None
    _cancelled: float | None = None
    """When that was."""

    def take(self, answer: Json) -> None:
        """An answer of the runner."""
        if "event" in answer:
            self.events.append(answer["event"])
        else:
            self.answers.put(answer["ended"])

    def wait(self) -> Ended:
        """How it ends; a violation where it does not in time."""
        if self._ended is None:
            seconds, what = self._time_left()
            try:
                answer = self.answers.get(timeout=seconds)
            except queue.Empty:
                violation(
                    f"{self.name} to end within {what}",
                    f"it is still under way; in the process that awaits it\n{self.runner.stacks()}",
                )
            if answer is None:
                violation(
                    "the process that awaits the run to go on",
                    f"it ended{self.runner.how_it_ended()}; {self.runner.last_words()}",
                )
            self._ended = Ended(self.folder, answer, time.monotonic() - self.started, self.name)
        return self._ended

    def _time_left(self) -> tuple[float, str]:
        """For how long to wait for its end, and the whole of that time, for a person to read."""
        left = self.deadline.left
        if self._cancelled is not None:
            bound = self.deadline.for_cancel
            of_bound = self._cancelled + bound - time.monotonic()
            if of_bound < left:
                return max(0.0, of_bound), f"the {bound:g} s that a cancel may take"
        return left, f"the {self.deadline.seconds:g} s that the test has"

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self._ended is not None or not self.answers.empty()

    def cancel(self) -> None:
        """Cancel the task that awaits it; its end has to come in the time that a cancel may take."""
        if self._cancelled is None:
            self._cancelled = time.monotonic()
        self.runner.send(self, "cancel")


class Subject:
    """The backend under test, for one test."""

    def __init__(
        self,
        folder: Path,
        deadline: Deadline,
        make_runner: Callable[..., Runner],
        declared: Declared,
        settings: Settings,
        chance: Chance,
    ) -> None:
        self.folder = folder
        self.deadline = deadline
        self.declared = declared
        self.settings = settings
        self.arguments = settings.arguments
        """Values to use for the optional arguments, such as a user that there is."""
        self.chance = chance
        self.runs: list[Run] = []
        self._requests = folder / "requests"
        self._requests.mkdir()
        self._numbers = itertools.count(1)
        self._make_runner = make_runner
        self._runners: list[Runner] = []

    @cached_property
    def runner(self) -> Runner:
        """The runner that is used if none is named; tests share it."""
        return self._make_runner()

    def new_runner(self, **settings: Any) -> Runner:
        """A runner for this test alone: `env`, `cwd`, `stdin`, `umask`, `unprivileged`, `limits` (see
        `resource`), `ignored_signals`, `blocked_signals`."""
        self._runners.append(self._make_runner(new=True, **settings))
        return self._runners[-1]

    def start(
        self,
        tasks: Sequence[Json],
        images: Iterable[Any] = (),
        *,
        folder: Path | str | None = None,
        runner: Runner | None = None,
        filters: Json | None = None,
        dataset: Json | None = None,
        what: str = "",
        **request: Any,
    ) -> Run:
        """Start a run in a folder of its own; all that it is given is written down in `requests`.

        Keywords: arguments of `process_workflow`, and `form`, `object`, `options`, `observe`, `spoil` and
        `together` for the runner (see `runner`).
        """
        runner = runner or self.runner
        place = self.folder / (folder or f"run-{len(self.runs) + 1}")
        for_runner: Json = {name: request.pop(name) for name in _FOR_RUNNER if name in request}
        if not self.declared.takes_units:
            for_runner.pop("observe", None)
        if "object" in for_runner:
            for_runner["object"] = f"{self.folder}: {for_runner['object']}"  # no other test's
        arguments: Json = {
            "workflow": {"task_list": list(tasks)},
            "dataset": dataset or make_dataset(images, **({"filters": filters} if filters else {})),
            "workflow_dir_local": str(place),
            "logger_name": "conformance",
            **{key: str(value) if isinstance(value, Path) else value for key, value in request.items()},
        }
        text = what or _summary(tasks, arguments["dataset"])
        run = Run(runner, place, self.deadline, text, f"run {len(self.runs) + 1}")
        self.runs.append(run)
        run.request = self._requests / f"{next(self._numbers)}.json"
        options = {**self.settings.options, **for_runner.get("options", {})}
        request = {**for_runner, "arguments": arguments, "options": options}
        run.request.write_text(json.dumps(request, indent=1))
        runner.send(run, "start", arguments=arguments, **for_runner)
        return run

    def run(self, tasks: Sequence[Json], images: Iterable[Any] = (), **request: Any) -> Ended:
        """Start a run and wait for its end; keywords as for `start`."""
        return self.start(tasks, images, **request).wait()

    def adopt(self, units: Sequence[Json], folder: Path, runner: Runner | None = None) -> Run:
        """Give units, as their events have them, to an executor with no run around it."""
        runner = runner or self.runner
        what = f"an executor is given {len(units)} units that were started before"
        run = Run(runner, folder, self.deadline, what)
        self.runs.append(run)
        place = {name: str(folder) for name in ("workflow_dir_local", "workflow_dir_remote")}
        runner.send(run, "adopt", units=list(units), info={**place, "logger_name": "conformance"})
        return run

    def room_for(self, units: int) -> Json:
        """The keyword for `start` that lets so many units run at once, where that can be asked for."""
        if "concurrency_limit" not in self.declared.capabilities:
            return {}
        return {"options": self.declared.asking_for("concurrency_limit", units)}

    def eventually(
        self, condition: Callable[[], bool], expected: str, got: str = "it did not happen"
    ) -> None:
        """Something has to come true while the test has time."""
        if not processes.eventually(condition, self.deadline.left):
            violation(f"{expected}, within the {self.deadline.seconds:g} s that the test has", got)

    def before_the_end(self, condition: Callable[[], bool], expected: str) -> None:
        """Something has to come true while runs are under way."""
        self.eventually(lambda: condition() or all(run.is_over for run in self.runs), expected)
        if not condition():
            violation(expected, f"it did not: {self.runs[-1].name} is over, {self.runs[-1].wait().summary}")

    def wait_for(self, path: Path) -> Path:
        """A file that a unit makes has to appear."""
        self.before_the_end(path.exists, f"a unit to run and make the file {path.name}")
        return path

    def must_be_dead(self, lock: Path, when: str, grace_s: float = 0.0) -> None:
        """Nothing that took the lock (see `task_program.alive`) may be alive."""
        if not processes.eventually(lambda: not processes.is_held(lock), grace_s):
            holders = "; ".join(processes.holders(lock)) or "a process that is not of this machine"
            violation(f"nothing that descends from the unit to be alive {when}", f"there is {holders}")

    def close(self) -> None:
        """End what this test alone used."""
        for runner in self._runners:
            runner.close()


def _summary(tasks: Sequence[Json], dataset: Json) -> str:
    kinds = ", ".join(
        task["task"].get("type", "?") for task in tasks[:5] if isinstance(task, dict) and "task" in task
    )
    more = f" and {len(tasks) - 5} more" if len(tasks) > 5 else ""
    return f"tasks: {kinds or 'none'}{more}; {len(dataset.get('images', ()))} images"
