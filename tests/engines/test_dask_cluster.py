"""What can become of a dask cluster while a run is under way."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from conftest import DEADLINE_S, eventually
from fractal_backends import Backend, JobExecutionError, get_backend
from fractal_backends.execution import futures
from tests.engines.conftest import DaskCluster, started_dask_cluster
from tests.helpers.processes import is_alive, pid_in
from tests.helpers.workflows import parallel, process


def _backend(address: str) -> Backend:
    backend = get_backend("dask", options={"scheduler": address})
    assert isinstance(backend, Backend)
    return backend


async def _start(folder: Path, cluster: DaskCluster) -> asyncio.Task[object]:
    """A run whose unit does not end by itself."""
    steps = [["pid", str(folder / "pid")], ["hang"]]
    backend = _backend(cluster.address)
    task = asyncio.ensure_future(process(folder / "run", [parallel(steps)], "a", backend=backend))
    assert await asyncio.to_thread(eventually, (folder / "pid").exists)
    return task


def test_a_scheduler_that_dies_takes_the_units_with_it(tmp_path: Path, site: list[str]) -> None:
    async def kill(cluster: DaskCluster) -> None:
        task = await _start(tmp_path, cluster)
        cluster.scheduler.kill()
        with pytest.raises(JobExecutionError, match="lost"):
            await asyncio.wait_for(task, DEADLINE_S)

    with started_dask_cluster(tmp_path, workers=1) as cluster:
        asyncio.run(kill(cluster))
        assert not is_alive(pid_in(tmp_path / "pid"))


def test_a_run_whose_workers_are_gone_can_be_cancelled(
    tmp_path: Path, site: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dask waits for new workers, however long that takes."""
    monkeypatch.setattr(futures, "_GIVE_UP_S", 1.0)

    async def kill(cluster: DaskCluster) -> None:
        task = await _start(tmp_path, cluster)
        cluster.workers[0].kill()
        assert await asyncio.to_thread(eventually, lambda: not is_alive(pid_in(tmp_path / "pid")))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, DEADLINE_S)

    with started_dask_cluster(tmp_path, 1, "--no-nanny") as cluster:
        asyncio.run(kill(cluster))
