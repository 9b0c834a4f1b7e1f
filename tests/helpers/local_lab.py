"""Runs of the local backend: tasks made out of Python code, and units that stay at work."""

from __future__ import annotations

import asyncio
import sys
import textwrap
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fractal_backends_local import LocalBackend
from fractal_backends_local.machine import this_machine

from conftest import DEADLINE_S, eventually
from fractal_backends import Outcome, TaskReport, UnitEvent, hookimpl

CORES = this_machine().cores
MEMORY_MB = this_machine().memory_mb
VARIABLE = "FRACTAL_LOCAL_CONFIG_FILE"
OPTION = "parallel_tasks_per_job"


class Watcher:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[UnitEvent] = []
        self.reports: list[TaskReport] = []

    @hookimpl
    def unit_changed(self, event: UnitEvent) -> None:
        self.events.append(event)

    @hookimpl
    def task_ended(self, report: TaskReport) -> None:
        self.reports.append(report)

    @property
    def outcomes(self) -> list[Outcome]:
        return [event.outcome for event in self.events if event.outcome is not None]


class Lab:
    """Makes commands out of Python code and runs workflows with them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.watcher = Watcher()
        self._runs = 0

    def command(self, source: str) -> str:
        """A task's command; in its code `args` is what the unit was given."""
        head = "import json, os, sys, time\nargs = json.load(open(sys.argv[2]))\n"
        script = self.folder / f"task{len(list(self.folder.glob('task*.py')))}.py"
        script.write_text(head + textwrap.dedent(source))
        return f"{sys.executable} -S -E {script}"

    def task(self, source: str, **more: Any) -> dict[str, Any]:
        """A workflow task of one non-parallel unit."""
        task = {"name": "Solo", "type": "non_parallel", "command_non_parallel": self.command(source)}
        return {"task": task, **more}

    def new_folder(self) -> Path:
        self._runs += 1
        return self.folder / f"run{self._runs}"

    def run(
        self,
        *tasks: dict[str, Any],
        images: int | list[str] = 0,
        options: Mapping[str, Any] | None = None,
        folder: Path | None = None,
        **arguments: Any,
    ) -> Path:
        """Run a workflow; returns the run's folder."""
        names = [str(number) for number in range(images)] if isinstance(images, int) else images
        folder = folder or self.new_folder()
        backend = LocalBackend(options=options, observers=[self.watcher])
        asyncio.run(
            backend.process_workflow(
                workflow={"task_list": list(tasks)},
                dataset={"zarr_dir": "/data", "images": [{"zarr_url": f"/data/{name}"} for name in names]},
                workflow_dir_local=folder,
                logger_name=f"test-{folder}",
                **arguments,
            )
        )
        return folder


class Crew:
    """Units that stay at work until they are let go, and what they wrote down meanwhile."""

    SOURCE = """
        name = args["zarr_url"].rpartition("/")[2]
        folder = args["folder"]

        def note(sign):
            fd = os.open(f"{folder}/notes", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(fd, f"{sign} {name}\\n".encode())
            os.close(fd)

        note("+")
        end = time.monotonic() + 60
        while not (os.path.exists(f"{folder}/all") or os.path.exists(f"{folder}/go {name}")):
            assert time.monotonic() < end
            time.sleep(0.002)
        note("-")
    """

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._folder = lab.folder / "crew"
        self._folder.mkdir()
        self._threads = ThreadPoolExecutor()
        self._command = lab.command(self.SOURCE)

    def task(self, **meta: Any) -> dict[str, Any]:
        task = {"name": "Crew", "type": "parallel", "command_parallel": self._command}
        return {"task": task, "meta_parallel": meta, "args_parallel": {"folder": str(self._folder)}}

    def start(self, task: dict[str, Any], names: list[str], **more: Any) -> Future[Path]:
        """Begin a run with a unit for each of the names."""
        return self._threads.submit(self._lab.run, task, images=names, **more)

    def notes(self) -> list[tuple[str, str]]:
        path = self._folder / "notes"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(line[0], line[2:]) for line in lines]

    @property
    def inside(self) -> list[str]:
        """The units at work, in the order in which they began."""
        names: dict[str, None] = {}
        for sign, name in self.notes():
            if sign == "+":
                names[name] = None
            else:
                del names[name]
        return list(names)

    @property
    def most(self) -> int:
        """How many were at work at once."""
        now = most = 0
        for sign, _ in self.notes():
            now += 1 if sign == "+" else -1
            most = max(most, now)
        return most

    def has(self, number: int) -> bool:
        return eventually(lambda: len(self.inside) == number)

    def let_go(self, name: str) -> None:
        (self._folder / f"go {name}").touch()
        assert eventually(lambda: ("-", name) in self.notes())

    def let_all_go(self) -> None:
        (self._folder / "all").touch()

    def close(self) -> None:
        self.let_all_go()
        self._threads.shutdown()

    def measure(self, task: dict[str, Any], names: list[str], expected: int, **more: Any) -> Path:
        """Run units with `expected` at work all the time; the others come in one by one."""
        run = self.start(task, names, **more)
        while len(self.notes()) < 2 * len(names):
            left = len(names) - sum(sign == "-" for sign, _ in self.notes())
            assert self.has(min(expected, left)), f"at work: {self.inside}, not {expected}"
            self.let_go(self.inside[0])
        folder = run.result(DEADLINE_S)
        assert self.most == expected
        return folder


ConfigFile = Callable[[str], Path]
