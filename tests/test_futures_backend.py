"""Pools of `concurrent.futures` as backends."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import resource_tracker
from pathlib import Path

import pytest

from conftest import DEADLINE_S, eventually
from fractal_backends import (
    Cause,
    FuturesBackend,
    JobExecutionError,
    RunInfo,
    TaskExecutionError,
    UnitEvent,
    UnitState,
    hookimpl,
)
from tests.helpers.futures_lab import STAY, Lab
from tests.helpers.processes import is_alive


class ProcessesBackend(FuturesBackend):
    name = "processes"
    interface_version = 1

    def open_pool(self, run: RunInfo) -> Executor:
        return ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"))


class ThreadsBackend(FuturesBackend):
    name = "threads"
    interface_version = 1

    def open_pool(self, run: RunInfo) -> Executor:
        return ThreadPoolExecutor(2)


@pytest.fixture(scope="module", autouse=True)
def resource_tracker_process() -> None:
    """Processes that are spawned come with one of these, which stays as long as the interpreter does."""
    resource_tracker.ensure_running()


@pytest.fixture(params=[ProcessesBackend, ThreadsBackend])
def backend(request: pytest.FixtureRequest) -> type[FuturesBackend]:
    kind: type[FuturesBackend] = request.param
    return kind


def _own_child_above(pid: int) -> int:
    """The process that this one started and that the given one descends from."""
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])
    return pid if parent == os.getpid() else _own_child_above(parent)


def test_a_workflow_runs(lab: Lab, backend: type[FuturesBackend]) -> None:
    init = """
        items = [{"zarr_url": url, "init_args": {"factor": n}} for n, url in enumerate(args["zarr_urls"])]
        json.dump({"parallelization_list": items}, open(sys.argv[4], "w"))
    """
    compute = """
        new = {"zarr_url": args["zarr_url"] + "-new", "origin": args["zarr_url"],
               "attributes": {"factor": args["init_args"]["factor"]}}
        json.dump({"image_list_updates": [new]}, open(sys.argv[4], "w"))
    """
    both = {
        "name": "Both",
        "type": "compound",
        "command_non_parallel": lab.command(init),
        "command_parallel": lab.command(compute),
        "output_types": {"new": True},
    }
    result = lab.run(backend(), lab.task("print('seen', name)"), {"task": both}, images=3)
    assert result["images"][3:] == [
        {
            "zarr_url": f"/data/{n}-new",
            "origin": f"/data/{n}",
            "attributes": {"factor": n},
            "types": {"new": True},
        }
        for n in range(3)
    ]
    assert [entry["status"] for entry in result["history"]] == ["done", "done"]
    assert (lab.run_folder / "0_each" / "0_par_0000001.log").read_text() == "seen 1\n"
    assert lab.observer.causes == [Cause.DONE] * 7
    for outcome in lab.observer.by_unit.values():
        assert outcome.exit_code == 0
        assert outcome.wall_s is not None
        assert 0 < outcome.wall_s < 60
        assert outcome.peak_mb is not None
        assert 1 < outcome.peak_mb < 100


def test_a_unit_that_fails_does_not_stop_the_others(lab: Lab, backend: type[FuturesBackend]) -> None:
    source = """
        print("unit", name)
        json.dump({"image_list_updates": [{"zarr_url": args["zarr_url"], "types": {"ok": True}}]},
                  open(sys.argv[4], "w"))
        sys.exit(3 if name == "1" else 0)
    """
    with pytest.raises(TaskExecutionError, match=r"(?s)exit code 3.*unit 1\n.*1 of 4 units failed") as caught:
        lab.run(backend(), lab.task(source), images=4)
    assert (caught.value.workflow_task_order, caught.value.task_name) == (0, "Each")
    assert lab.observer.causes == [Cause.DONE, Cause.TASK_ERROR, Cause.DONE, Cause.DONE]
    images = json.loads((lab.run_folder / "images.json").read_text())
    assert [image["types"] for image in images] == [{"ok": True}, {}, {"ok": True}, {"ok": True}]


def test_a_command_that_is_none(lab: Lab, backend: type[FuturesBackend]) -> None:
    with pytest.raises(TaskExecutionError, match='Command "no-such-command" is not valid'):
        lab.run(
            backend(),
            {"task": {"name": "No", "type": "parallel", "command_parallel": "no-such-command"}},
            images=2,
        )
    assert lab.observer.causes == [Cause.INVALID_COMMAND] * 2


def test_units_that_run_are_seen_to_run(lab: Lab, backend: type[FuturesBackend]) -> None:
    started: list[str] = []

    class Starts:
        @hookimpl
        def unit_changed(self, event: UnitEvent) -> None:
            if event.state is UnitState.STARTED:
                started.append(event.unit.label)

    async def look_at_work() -> None:
        run = asyncio.ensure_future(lab.start(backend(observers=[Starts()]), [lab.task(STAY)], 2))
        assert await asyncio.to_thread(eventually, lambda: len(started) == 2)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(run, DEADLINE_S)

    asyncio.run(look_at_work())
    assert sorted(started) == ["0_par_0000000", "0_par_0000001"]


def test_cancelling_leaves_nothing(lab: Lab, backend: type[FuturesBackend]) -> None:
    async def cancel_at_work() -> None:
        run = asyncio.ensure_future(lab.start(backend(), [lab.task(STAY)], 5))
        assert await asyncio.to_thread(lab.at_work, 2)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(run, DEADLINE_S)

    asyncio.run(cancel_at_work())
    assert not any(is_alive(pid) for pair in lab.pids().values() for pid in pair)
    assert lab.observer.causes == [Cause.CANCELLED] * 5
    assert len(lab.pids()) == 2, "units were started after the cancellation"
    assert not list(lab.run_folder.glob(".*")), "a file of the machinery is left"


def test_what_had_ended_before_a_cancellation_is_kept(lab: Lab, backend: type[FuturesBackend]) -> None:
    source = """
    if name == "0":
        update = {"zarr_url": args["zarr_url"], "types": {"ok": True}}
        json.dump({"image_list_updates": [update]}, open(sys.argv[4], "w"))
        sys.exit()
    """

    async def cancel_at_work() -> None:
        run = asyncio.ensure_future(lab.start(backend(), [lab.task(source + STAY)], 3))
        assert await asyncio.to_thread(lab.at_work, 2)
        assert await asyncio.to_thread(eventually, lambda: len(lab.observer.by_unit) == 1)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(run, DEADLINE_S)

    asyncio.run(cancel_at_work())
    assert lab.observer.causes == [Cause.DONE, Cause.CANCELLED, Cause.CANCELLED]
    images = json.loads((lab.run_folder / "images.json").read_text())
    assert [image["types"] for image in images] == [{"ok": True}, {}, {}]


def test_units_of_a_killed_worker_are_lost(lab: Lab) -> None:
    run = lab.in_thread(ProcessesBackend(), lab.task(STAY), images=5)
    assert lab.at_work(2)
    os.kill(_own_child_above(lab.pids()["0"][0]), signal.SIGKILL)
    with pytest.raises(JobExecutionError, match=r"lost\. BrokenProcessPool(?s:.*)5 of 5 units failed"):
        run.result(DEADLINE_S)
    assert set(lab.observer.causes) <= {Cause.LOST, Cause.LAUNCH_FAILED}
    assert eventually(lambda: not any(is_alive(pid) for pair in lab.pids().values() for pid in pair))
    assert len(lab.pids()) == 2
    assert not list(lab.run_folder.glob(".*"))


def test_a_unit_whose_supervisor_is_killed_is_lost_alone(lab: Lab, backend: type[FuturesBackend]) -> None:
    source = STAY.replace("60", "60 if name == '0' else 0")
    run = lab.in_thread(backend(), lab.task(source), images=4)
    assert eventually(lambda: len(lab.observer.by_unit) == 3 and "0" in lab.pids())
    pid, supervisor = lab.pids()["0"]
    os.kill(supervisor, signal.SIGKILL)
    with pytest.raises(JobExecutionError, match=r"lost\.(?s:.*)1 of 4 units failed"):
        run.result(DEADLINE_S)
    assert lab.observer.causes == [Cause.LOST, Cause.DONE, Cause.DONE, Cause.DONE]
    assert not is_alive(pid), "the unit outlives the verdict"


def test_a_unit_that_is_killed_says_by_which_signal(lab: Lab, backend: type[FuturesBackend]) -> None:
    with pytest.raises(JobExecutionError, match=r"Task failed with returncode=-9 \(SIGKILL"):
        lab.run(backend(), lab.task("os.kill(os.getpid(), 9)"), images=1)
