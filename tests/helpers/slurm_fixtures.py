"""For pytest: runs on a real SLURM."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from slurm_lab import SlurmLab
from tests.helpers.plugins import open_folder
from tests.helpers.slurm_runs import SlurmRun, StartRun


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that all users may enter."""
    with open_folder() as folder:
        yield folder


@pytest.fixture
def start_run(slurm_lab: SlurmLab, place: Path) -> Iterator[StartRun]:
    """Runs with the backend `slurm`, each in a folder of its own."""
    runs: list[SlurmRun] = []

    def start(
        units: Mapping[str, str], options: Mapping[str, Any] | None = None, **arguments: Any
    ) -> SlurmRun:
        run = SlurmRun(place / f"run-{len(runs)}", units, options or {})
        runs.append(run)
        run.start(**arguments)
        return run

    yield start
    for run in runs:
        run.cancel()
    for run in runs:
        run.wait()
