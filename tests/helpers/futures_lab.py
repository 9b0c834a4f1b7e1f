"""Runs on pools of `concurrent.futures`: tasks made out of Python code, on any number of images."""

from __future__ import annotations

import asyncio
import sys
import textwrap
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from conftest import eventually
from fractal_backends import Cause, FuturesBackend, Outcome, RunResult, UnitEvent, hookimpl


class Outcomes:
    """An observer that keeps how units ended."""

    def __init__(self) -> None:
        self.by_unit: dict[str, Outcome] = {}

    @hookimpl
    def unit_changed(self, event: UnitEvent) -> None:
        if event.outcome is not None:
            assert event.unit.label not in self.by_unit
            self.by_unit[event.unit.label] = event.outcome

    @property
    def causes(self) -> list[Cause]:
        return [self.by_unit[label].cause for label in sorted(self.by_unit)]


class Lab:
    """Makes tasks out of Python code and runs them on any number of images."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run_folder = folder / "run"
        self.observer = Outcomes()

    def command(self, source: str) -> str:
        head = (
            "import json, os, sys, time\nfrom pathlib import Path\n"
            f"args, folder = json.load(open(sys.argv[2])), Path({str(self.folder)!r})\n"
            "name = args.get('zarr_url', '').rpartition('/')[2]\n"
        )
        script = self.folder / f"task{len(list(self.folder.glob('task*.py')))}.py"
        script.write_text(head + textwrap.dedent(source))
        return f"{sys.executable} -S -E {script}"

    def task(self, source: str, **more: Any) -> dict[str, Any]:
        task = {"name": "Each", "type": "parallel", "command_parallel": self.command(source), **more}
        return {"task": task}

    async def start(self, backend: FuturesBackend, tasks: list[Mapping[str, Any]], images: int) -> RunResult:
        backend.observers.append(self.observer)
        return await backend.process_workflow(
            workflow={"task_list": tasks},
            dataset={"zarr_dir": "/data", "images": [{"zarr_url": f"/data/{n}"} for n in range(images)]},
            workflow_dir_local=self.run_folder,
            logger_name="futures",
        )

    def run(self, backend: FuturesBackend, *tasks: Mapping[str, Any], images: int = 0) -> RunResult:
        return asyncio.run(self.start(backend, list(tasks), images))

    def pids(self) -> dict[str, tuple[int, int]]:
        """The process of each unit that runs `STAY`, and that process's parent."""
        found = {}
        for file in self.folder.glob("pid *"):
            pid, parent = file.read_text().split()
            found[file.name[4:]] = (int(pid), int(parent))
        return found

    def at_work(self, number: int) -> bool:
        return eventually(lambda: len(self.pids()) == number)

    def in_thread(self, backend: FuturesBackend, *tasks: Mapping[str, Any], images: int) -> Future[RunResult]:
        future: Future[RunResult] = Future()

        def work() -> None:
            try:
                future.set_result(self.run(backend, *tasks, images=images))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=work).start()
        return future


STAY = """
    (folder / f"new {name}").write_text(f"{os.getpid()} {os.getppid()}")
    (folder / f"new {name}").rename(folder / f"pid {name}")
    end = time.monotonic() + 60
    while time.monotonic() < end and not (folder / "end").exists():
        time.sleep(0.01)
"""
