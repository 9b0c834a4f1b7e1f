"""For pytest: runs on a real SLURM, units on one that is made up, and a site file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest

from slurm_lab import SlurmLab
from tests.helpers.plugins import open_folder
from tests.helpers.slurm_pair import Pair
from tests.helpers.slurm_runs import SlurmRun, StartRun
from tests.helpers.slurm_sites import Site, differences, dummy_site, real_site


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that all users may enter."""
    with open_folder() as folder:
        yield folder


@pytest.fixture
def pair() -> Pair:
    """Units a and b of an array task."""
    return Pair()


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


StandIn = Callable[[str, str], None]


@pytest.fixture
def stand_in(slurm_lab: SlurmLab, place: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """Puts lines of shell in the place of one of SLURM's commands, which is then "$real"."""
    folder = place / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def make(command: str, lines: str) -> None:
        script = folder / f".{command}"
        script.write_text(f"#!/bin/sh\nreal={slurm_lab.folder}/bin/{command}\n{lines}\n")
        script.chmod(0o755)
        script.rename(folder / command)  # it may be about to be called

    return make


class Same(Protocol):
    """Runs a scenario on a real SLURM and on the dummy, and fails where not the same is seen."""

    def __call__(self, scenario: Callable[[Site], Any], **config: Any) -> None: ...


@pytest.fixture
def same(slurm_lab: SlurmLab, place: Path) -> Same:
    """The real one is the test's lab; the dummy is set up like it, and with `config`."""

    def compare(scenario: Callable[[Site], Any], **config: Any) -> None:
        folders = [place / "real", place / "dummy"]
        for folder in folders:
            folder.mkdir(mode=0o755)
        with ThreadPoolExecutor(1) as pool:
            real = pool.submit(scenario, real_site(slurm_lab, folders[0]))
            with dummy_site(slurm_lab, folders[1], place / "cluster", **config) as site:
                seen = scenario(site)
        must_be_the_same(real.result(), seen)

    return compare


class Begun:
    """Jobs that are on a real SLURM and on the dummy for a while before somebody looks at them."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self._jobs: dict[str, list[tuple[Site, str]]] = {}

    def begin(self, name: str, lab: SlurmLab, script: str, *options: str, **config: Any) -> None:
        """Submit a job to both; the dummy is set up like the real one, and with `config`."""
        folders = [self._folder / f"{name}-{kind}" for kind in ("real", "dummy")]
        for folder in folders:
            folder.mkdir()
        dummy = dummy_site(lab, folders[1], self._folder / name, **config)
        sites = [real_site(lab, folders[0]), self._stack.enter_context(dummy)]
        self._jobs[name] = [(site, site.submit(script, *options)) for site in sites]

    def must_be_the_same(self, name: str, scenario: Callable[[Site, str], Any]) -> None:
        """What is seen of the job on both."""
        must_be_the_same(*(scenario(site, job) for site, job in self._jobs[name]))


def must_be_the_same(real: Any, dummy: Any) -> None:
    """Fails with all that differs."""
    found = differences(real, dummy)
    assert not found, "\n".join(["the dummy differs", *found])


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Writes the site file that the environment names; without that there is none."""

    def write(content: Any) -> None:
        path = tmp_path / "site.json"
        path.write_text(json.dumps(content))
        monkeypatch.setenv("FRACTAL_SLURM_CONFIG_FILE", str(path))
        monkeypatch.chdir(tmp_path)

    monkeypatch.delenv("FRACTAL_SLURM_CONFIG_FILE", raising=False)
    return write
