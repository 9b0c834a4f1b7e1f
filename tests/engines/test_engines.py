"""The backends of `examples/engines` on their real engines."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from multiprocessing import resource_tracker
from pathlib import Path

import pytest
from loky.backend import resource_tracker as loky_resource_tracker

from conftest import DEADLINE_S, eventually
from fractal_backends import (
    Backend,
    Cause,
    JobExecutionError,
    RunResult,
    TaskExecutionError,
    UnitEvent,
    UnitState,
    get_backend,
    hookimpl,
)
from tests.engines.conftest import DaskCluster
from tests.helpers.processes import ended, is_alive, pid_in
from tests.helpers.side_by_side import side_by_side
from tests.helpers.workflows import (
    Json,
    StepsByImage,
    compound,
    names,
    parallel,
    process,
    run,
    saved,
    updates,
)

ENGINES = ("process_pool", "loky", "dask")
CHECK_S = 1800
Judged = subprocess.CompletedProcess[str]


class Events:
    """An observer that keeps what happened to the units."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.causes: dict[str, Cause] = {}

    @hookimpl
    def unit_changed(self, event: UnitEvent) -> None:
        label = event.unit.label
        if event.state is UnitState.STARTED:
            assert label not in self.causes, f"{label} started after its end"
            self.started.append(label)
        if event.outcome is not None:
            assert label not in self.causes, f"{label} ended twice"
            self.causes[label] = event.outcome.cause


@pytest.fixture(scope="session", autouse=True)
def processes_that_stay() -> None:
    """The resource trackers of Python and of loky stay as long as the interpreter does."""
    resource_tracker.ensure_running()
    loky_resource_tracker.ensure_running()


@pytest.fixture(autouse=True)
def workers_that_are_collected_late() -> Iterator[None]:
    """Loky leaves it to the next pool to collect a worker that was killed."""
    yield
    assert eventually(lambda: not multiprocessing.active_children())


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """The name of a backend."""
    name: str = request.param
    return name


@pytest.fixture
def options(engine: str, request: pytest.FixtureRequest) -> Json:
    """What the engine's backend is made with."""
    if engine != "dask":
        return {}
    cluster: DaskCluster = request.getfixturevalue("dask_cluster")
    return {"scheduler": cluster.address}


@pytest.fixture
def events() -> Events:
    """What happened to the units."""
    return Events()


@pytest.fixture
def backend(site: list[str], engine: str, options: Json, events: Events) -> Backend:
    """The engine's backend."""
    found = get_backend(engine, options=options, observers=[events])
    assert isinstance(found, Backend)
    return found


def _lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])


def _worker(unit: int) -> int:
    """The engine's process that a unit's guard and supervisor belong to."""
    return _parent(_parent(_parent(unit)))


def test_a_workflow_runs(
    tmp_path: Path, backend: Backend, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_THE_RUNNER", "a value\nof 'two' lines")
    tasks = [
        parallel({"a": [["describe", str(tmp_path / "unit")]]}, task={"output_types": {"seen": True}}),
        compound(
            ["a", "b"],
            {"a": [["sleep", 0.3], updates({"zarr_url": "a2"})], "b": [updates({"zarr_url": "b2"})]},
        ),
    ]
    umask = os.umask(0o027)
    try:
        result = run(tmp_path / "run", tasks, ["a", "b"], backend=backend)
    finally:
        os.umask(umask)
    assert names(result["images"]) == ["a", "b", "a2", "b2"]
    assert [image["types"] for image in result["images"]] == [{"seen": True}] * 2 + [{}] * 2
    assert list(events.causes.values()) == [Cause.DONE] * 5
    assert "a value\\nof 'two' lines" in (tmp_path / "unit").read_text()
    assert (tmp_path / "unit").stat().st_mode & 0o777 == 0o640


def test_all_units_are_attempted(tmp_path: Path, backend: Backend, events: Events) -> None:
    done = updates({"zarr_url": "a", "types": {"ok": True}})
    steps: StepsByImage = {
        "a": [done],
        "b": [["print_err", "no luck"], ["exit_with", 3]],
        "c": [["kill_self", 9]],
    }
    with pytest.raises(TaskExecutionError, match=r"(?s)exit code 3.*no luck.*2 of 3 units failed"):
        run(tmp_path / "run", [parallel(steps)], "abc", backend=backend)
    assert list(events.causes.values()).count(Cause.DONE) == 1
    assert [image["types"] for image in saved(tmp_path / "run")["images"]] == [{"ok": True}, {}, {}]


def test_units_that_run_are_seen_to_run(tmp_path: Path, backend: Backend, events: Events) -> None:
    steps: StepsByImage = {"a": [["wait", str(tmp_path / "seen")]], "*": [["sleep", 0.1]]}

    async def look() -> RunResult:
        task = asyncio.ensure_future(
            process(tmp_path / "run", [parallel(steps)], map(chr, range(97, 120)), backend=backend)
        )
        assert await asyncio.to_thread(eventually, lambda: "0_par_0000000" in events.started)
        (tmp_path / "seen").touch()
        return await task

    asyncio.run(look())
    assert len(events.causes) == 23


def test_a_cancelled_run_leaves_nothing(tmp_path: Path, backend: Backend, events: Events) -> None:
    """Eight units at most are under way, the others wait."""
    steps = [["append", str(tmp_path / "ran"), "x"], ["stubborn", str(tmp_path / "stubborn")], ["hang"]]
    others = [["append", str(tmp_path / "ran"), "x"], ["hang"]]

    async def cancel() -> None:
        tasks = [parallel({"a": steps, "*": others})]
        task = asyncio.ensure_future(
            process(tmp_path / "run", tasks, map(chr, range(97, 123)), backend=backend)
        )
        assert await asyncio.to_thread(eventually, (tmp_path / "stubborn").exists)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, DEADLINE_S)

    asyncio.run(cancel())
    assert ended(tmp_path / "stubborn")
    assert set(events.causes.values()) == {Cause.CANCELLED}
    ran = _lines(tmp_path / "ran")
    assert len(ran) <= 8
    assert not list((tmp_path / "run").glob(".*"))
    assert not eventually(lambda: len(_lines(tmp_path / "ran")) > len(ran), 0.5), "a unit started afterwards"


def test_units_of_a_killed_worker_are_lost(tmp_path: Path, backend: Backend, events: Events) -> None:
    steps = [
        ["append", str(tmp_path / "ran"), "x"],
        ["ignore_term"],
        ["pid", str(tmp_path / "pid")],
        ["wait", str(tmp_path / "end")],
    ]

    async def kill() -> None:
        task = asyncio.ensure_future(process(tmp_path / "run", [parallel(steps)], "a", backend=backend))
        unit = await asyncio.to_thread(pid_in, tmp_path / "pid")
        os.kill(_worker(unit), signal.SIGKILL)
        with pytest.raises(JobExecutionError, match="lost"):
            await asyncio.wait_for(task, DEADLINE_S)

    asyncio.run(kill())
    assert events.causes == {"0_par_0000000": Cause.LOST}
    assert not is_alive(pid_in(tmp_path / "pid")), "the unit outlives the run"
    assert _lines(tmp_path / "ran") == ["x"]
    assert not list((tmp_path / "run").glob(".*"))


def test_runs_add_no_threads(tmp_path: Path, backend: Backend) -> None:
    run(tmp_path / "first", [parallel()], "a", backend=backend)
    before = threading.active_count()
    for name in ("second", "third"):
        run(tmp_path / name, [parallel()], "a", backend=backend)
    assert threading.active_count() == before


@pytest.fixture(scope="module")
def judged(
    request: pytest.FixtureRequest,
    site: list[str],
    dask_cluster: DaskCluster,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Future[Judged]]:
    folder = tmp_path_factory.mktemp("judged")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(site), "DASK_SCHEDULER_ADDRESS": dask_cluster.address}

    def check(engine: str) -> Judged:
        """The whole suite, in a process of its own."""
        command = [sys.executable, "-m", "fractal_backends.cli", "check", engine]
        (folder / engine).mkdir()
        own = {**env, "TMPDIR": str(folder / engine)}
        return subprocess.run(
            command, env=own, cwd=folder / engine, capture_output=True, text=True, check=False
        )

    return side_by_side(request, "engine", check)


@pytest.mark.soak
@pytest.mark.long
@pytest.mark.timeout(CHECK_S)  # the first one waits for all checks
def test_conforms(judged: dict[str, Future[Judged]], engine: str) -> None:
    found = judged[engine].result()
    assert found.returncode == 0, found.stdout + found.stderr
