"""The backends of `examples/engines`: installed for the tests, with a dask cluster that all of them use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from distributed import Client

from conftest import MARK, eventually
from tests.helpers.processes import ROOT

EXAMPLES = ROOT / "examples" / "engines"
ENTRY_POINTS = """
[fractal_backends]
process_pool = process_pool:ProcessPoolBackend
loky = on_loky:LokyBackend
dask = on_dask:DaskBackend
"""
START_S = 60.0
END_S = 10.0


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The folders of a distribution with the examples, which are on the import path."""
    folder = tmp_path_factory.mktemp("site")
    metadata = folder / "engines-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: engines\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    paths, before = [str(folder), str(EXAMPLES)], list(sys.path)
    sys.path[:0] = paths
    yield paths
    sys.path[:] = before


@dataclass
class DaskCluster:
    """A scheduler and its workers, processes of their own."""

    address: str
    scheduler: subprocess.Popen[bytes]
    workers: list[subprocess.Popen[bytes]]


@pytest.fixture(scope="module")
def dask_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskCluster]:
    """A cluster of two workers."""
    with started_dask_cluster(tmp_path_factory.mktemp("dask"), workers=2) as cluster:
        yield cluster


@contextmanager
def started_dask_cluster(folder: Path, workers: int, *worker_arguments: str) -> Iterator[DaskCluster]:
    """Start a cluster on free ports of this machine, and wait until all its workers are there."""
    file = folder / "scheduler.json"
    with ExitStack() as services:
        own_arguments = ("--port", "0", "--dashboard-address", "127.0.0.1:0", "--scheduler-file", str(file))
        scheduler = services.enter_context(_service(folder, "scheduler", *own_arguments))
        assert eventually(lambda: file.exists() and bool(file.read_text()), START_S), _log(folder)
        address = json.loads(file.read_text())["address"]
        own_arguments = (address, "--nthreads", "4", "--local-directory", str(folder), *worker_arguments)
        started = [services.enter_context(_service(folder, "worker", *own_arguments)) for _ in range(workers)]
        try:
            with Client(address, timeout=START_S, set_as_default=False) as client:
                client.wait_for_workers(workers, timeout=START_S)
        except TimeoutError:
            pytest.fail(_log(folder))
        yield DaskCluster(address, scheduler, started)


@contextmanager
def _service(folder: Path, kind: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that serves many tests, and so is not to be found among what one of them left."""
    env = {**os.environ, "TMPDIR": str(folder)}
    env.pop(MARK, None)
    command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", "--host", "127.0.0.1", *arguments]
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, start_new_session=True
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _log(folder: Path) -> str:
    return (folder / "log").read_text()
