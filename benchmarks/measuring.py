"""What the benchmarks share: rows of the table, fresh interpreters and a place for files."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

INNER = Path(__file__).parent / "inner"
"""Scripts that are run in fresh interpreters: a request as JSON on stdin, an answer as JSON on stdout."""


@dataclass(frozen=True)
class Row:
    """One measured value; `target` is what it may be at most (None: shown for comparison)."""

    what: str
    measured: float
    unit: str
    target: float | None = None
    note: str = ""

    @property
    def ok(self) -> bool:
        return self.target is None or self.measured <= self.target


@dataclass(frozen=True)
class Settings:
    """What the command line asks for."""

    folder: Path
    rounds: int | None
    """How often what is repeated is repeated; None: as each benchmark sees fit."""
    fractal_server: bool


def fresh(script: str, request: Mapping[str, Any], python: str = sys.executable) -> dict[str, Any]:
    """Run one of the inner scripts in an interpreter of its own."""
    result = subprocess.run(
        [python, str(INNER / script)],
        input=json.dumps(request),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


@contextmanager
def workspace() -> Iterator[Path]:
    """A folder, in memory where the system offers that: disks would be measured otherwise."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(
        prefix="fractal-benchmark-", dir=memory if memory.is_dir() else None
    ) as folder:
        yield Path(folder)


@contextmanager
def new_folder(parent: Path) -> Iterator[Path]:
    """An empty folder inside `parent`, gone afterwards."""
    folder = Path(tempfile.mkdtemp(dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def script(folder: Path, name: str, text: str) -> str:
    """A small program for the shell."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def native_no_op(folder: Path) -> str:
    """A program that does nothing: of our own where there is a C compiler, else the system's."""
    compiler = shutil.which("cc")
    if compiler is None:
        return shutil.which("true") or "/bin/true"
    (folder / "noop.c").write_text("int main(void) { return 0; }\n")
    subprocess.run([compiler, "-O2", "-o", str(folder / "noop"), str(folder / "noop.c")], check=True)
    return str(folder / "noop")


def parallel_workflow(command: str, **meta: Any) -> dict[str, Any]:
    """A workflow of one parallel task."""
    task = {"name": "Task", "type": "parallel", "command_parallel": command}
    return {"task_list": [{"task": task, "meta_parallel": meta}]}


def dataset(zarr_urls: list[str]) -> dict[str, Any]:
    """A dataset of images without attributes."""
    return {"zarr_dir": "/data", "images": [{"zarr_url": url} for url in zarr_urls]}
