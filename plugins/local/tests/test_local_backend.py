"""The local backend, through `process_workflow`: real processes, real files."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fractal_backends_local import LocalBackend, LocalBackendConfig
from fractal_backends_local.machine import this_machine

from conftest import DEADLINE_S, eventually
from fractal_backends import (
    InvalidInputError,
    Outcome,
    TaskReport,
    UnitEvent,
    UnitState,
    UnsupportedArgumentError,
    get_backend,
    hookimpl,
)

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


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


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


@pytest.fixture
def crew(lab: Lab) -> Iterator[Crew]:
    crew = Crew(lab)
    yield crew
    crew.close()


@pytest.fixture
def config_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "local-config.json"
        path.write_text(text)
        monkeypatch.setenv(VARIABLE, str(path))
        return path

    monkeypatch.delenv(VARIABLE, raising=False)
    return write


ConfigFile = Callable[[str], Path]


def _names(number: int, prefix: str = "u") -> list[str]:
    return [f"{prefix}{n}" for n in range(number)]


# How many units at once

CEILINGS: dict[str, tuple[dict[str, Any], str | None, dict[str, Any], int]] = {
    "meta": ({OPTION: 3}, None, {}, 3),
    "meta, above the cores": ({OPTION: CORES + 3}, None, {}, CORES + 3),
    "configuration file": ({}, f'{{"{OPTION}": 3}}', {}, 3),
    "meta before the file": ({OPTION: 1}, f'{{"{OPTION}": 3}}', {}, 1),
    "meta of another backend, file": ({"partition": "gpu"}, f'{{"{OPTION}": 3}}', {}, 3),
    "options before all": ({OPTION: 1}, f'{{"{OPTION}": 2}}', {OPTION: 3}, 3),
    "the cores": ({}, None, {}, CORES),
    "an empty file, the cores": ({}, "{}", {}, CORES),
    "null in meta, the cores": ({OPTION: None}, None, {}, CORES),
    "two cores each": ({"cpus_per_task": 2}, None, {}, max(1, CORES // 2)),
    "cores from the file": ({}, '{"cpus_per_task": 2}', {}, max(1, CORES // 2)),
    "more than half of the memory": ({"mem": f"{MEMORY_MB * 2 // 3}M"}, None, {}, 1),
    "a ceiling before what fits": ({OPTION: 3, "mem": MEMORY_MB * 2 // 3}, None, {}, 3),
}


@pytest.mark.parametrize(
    ("meta", "file", "options", "expected"),
    CEILINGS.values(),
    ids=list(CEILINGS),
)
def test_units_at_once(
    crew: Crew,
    config_file: ConfigFile,
    meta: dict[str, Any],
    file: str | None,
    options: dict[str, Any],
    expected: int,
) -> None:
    if file is not None:
        config_file(file)
    crew.measure(crew.task(**meta), _names(2 * expected + 1), expected, options=options)


def test_each_part_of_a_compound_task_has_its_own_meta(lab: Lab, crew: Crew) -> None:
    init = """
        items = [{"zarr_url": f"/data/{n}", "init_args": {}} for n in range(5)]
        json.dump({"parallelization_list": items}, open(sys.argv[4], "w"))
    """
    task = crew.task(**{OPTION: 3})
    task["task"].update(name="Both", type="compound", command_non_parallel=lab.command(init))
    task["meta_non_parallel"] = {OPTION: 1}
    run = crew.start(task, [])
    assert crew.has(3)
    crew.let_all_go()
    run.result(DEADLINE_S)
    assert crew.most == 3


def test_a_ceiling_may_be_far_above_what_the_system_lets_one_process_open(lab: Lab) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    task = {"name": "Many", "type": "parallel", "command_parallel": lab.command("time.sleep(0.2)")}
    open_now = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + 30, hard))
    try:
        lab.run({"task": task, "meta_parallel": {OPTION: 100}}, images=60)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert lab.watcher.reports[0].failed == 0


# Wrong values

WRONG = [0, -1, "two", True, 1.5, 2.0, [2]]


def _where(lab: Lab, source: str, value: Any, config_file: ConfigFile) -> tuple[dict[str, Any], str]:
    """Puts a value into one of the places it may come from; how `lab.run` is called, and the place's name."""
    touch = lab.command(f"open({str(lab.folder / 'ran')!r}, 'w')")
    task: dict[str, Any] = {"task": {"name": "My task", "type": "parallel", "command_parallel": touch}}
    given = {OPTION: value}
    place = "task 1 ('My task'), meta_parallel"
    options: dict[str, Any] = {}
    if source == "file":
        place = f"the configuration file {config_file(json.dumps(given))}"
    elif source == "options":
        place, options = "the backend's options", given
    elif source == "the task's own meta":
        task["task"]["meta_parallel"] = given
    else:
        task["meta_parallel"] = given
    return {"tasks": [lab.task("pass"), task], "images": 2, "options": options}, place


@pytest.mark.parametrize("value", WRONG, ids=repr)
@pytest.mark.parametrize("source", ["meta", "the task's own meta", "file", "options"])
def test_a_wrong_value_is_refused_with_the_place_it_came_from(
    lab: Lab, config_file: ConfigFile, source: str, value: Any
) -> None:
    call, place = _where(lab, source, value, config_file)
    folder = lab.new_folder()
    with pytest.raises(InvalidInputError) as caught:
        lab.run(*call.pop("tasks"), folder=folder, **call)
    (problem,) = caught.value.problems
    assert problem.startswith(f"{place}: {OPTION}: ")
    assert problem.endswith(f"(got {value!r})")
    assert not folder.exists()
    assert not (lab.folder / "ran").exists()
    assert lab.watcher.events == []


def test_all_wrong_values_are_told_at_once(lab: Lab, config_file: ConfigFile) -> None:
    path = config_file(json.dumps({"cpus_per_task": 0}))
    first = lab.task("pass", meta_non_parallel={"mem": "much", OPTION: 0})
    second = lab.task("pass", meta_non_parallel={OPTION: "two"})
    with pytest.raises(InvalidInputError) as caught:
        lab.run(first, second, options={"mem": -1})
    places = sorted({problem.partition(": ")[0] for problem in caught.value.problems})
    assert places == sorted(
        [
            f"the configuration file {path}",
            "task 0 ('Solo'), meta_non_parallel",
            "task 1 ('Solo'), meta_non_parallel",
            "the backend's options",
        ]
    )
    assert len(caught.value.problems) == 5


def test_tasks_outside_the_index_range_are_not_asked(lab: Lab) -> None:
    wrong = lab.task("pass", meta_non_parallel={OPTION: 0})
    lab.run(wrong, lab.task("pass"), wrong, first_task_index=1, last_task_index=1)
    assert len(lab.watcher.reports) == 1


@pytest.mark.parametrize("source", ["file", "options"])
def test_an_unknown_key_is_refused_with_the_valid_ones(
    lab: Lab, config_file: ConfigFile, source: str
) -> None:
    given = {"parallel_task_per_job": 2}
    options = given if source == "options" else {}
    place = "the backend's options"
    if source == "file":
        place = f"the configuration file {config_file(json.dumps(given))}"
    folder = lab.new_folder()
    with pytest.raises(InvalidInputError) as caught:
        lab.run(lab.task("pass"), folder=folder, options=options)
    message = str(caught.value)
    assert f"{place}: parallel_task_per_job: unknown" in message
    for name in LocalBackendConfig.model_fields:
        assert name in message
    assert f"did you mean {OPTION}?" in message
    assert not folder.exists()


def test_unknown_keys_in_meta_are_somebody_elses(lab: Lab) -> None:
    meta = {"parallel_task_per_job": "?", "gres": "gpu:1", "cpus_per_task": 1, "time": {"h": 2}}
    lab.run(lab.task("pass", meta_non_parallel=meta))
    assert lab.watcher.reports[0].status == "done"


BAD_FILES = {
    "no JSON": "{parallel_tasks_per_job: 2}",
    "a list": '[{"parallel_tasks_per_job": 2}]',
    "a number": "3",
    "null": "null",
    "empty": "",
    "not UTF-8": "\udcff\udcfe",
}


@pytest.mark.parametrize("text", BAD_FILES.values(), ids=list(BAD_FILES))
def test_a_configuration_file_must_hold_a_json_object(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(os.fsencode(text))
    monkeypatch.setenv(VARIABLE, str(path))
    folder = lab.new_folder()
    with pytest.raises(InvalidInputError) as caught:
        lab.run(lab.task("pass"), folder=folder)
    assert str(path) in str(caught.value)
    assert not folder.exists()


@pytest.mark.parametrize("kind", ["missing", "folder"])
def test_a_configuration_file_must_be_readable(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path = tmp_path / kind if kind == "missing" else tmp_path
    monkeypatch.setenv(VARIABLE, str(path))
    with pytest.raises(InvalidInputError) as caught:
        lab.run(lab.task("pass"))
    assert str(path) in str(caught.value)


# Memory

MEMORY = {4000: 4000, "4000": 4000, "4G": 4096, "4g": 4096, "4GB": 4096, " 9M ": 9, "2T": 2 << 20, "1K": 1}


@pytest.mark.parametrize(("given", "expected"), MEMORY.items(), ids=repr)
def test_memory_may_have_a_unit(given: Any, expected: int) -> None:
    assert LocalBackendConfig(mem=given).mem == expected


@pytest.mark.parametrize("given", ["4X", "much", "", "-4G", "4 000", 0, "0G", 1.5, True], ids=repr)
def test_no_other_memory_is_taken(lab: Lab, given: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"task 0 \('Solo'\), meta_non_parallel: mem: "):
        lab.run(lab.task("pass", meta_non_parallel={"mem": given}))


def test_memory_with_a_unit_in_meta(lab: Lab) -> None:
    lab.run(lab.task("pass", meta_non_parallel={"mem": "1G"}))
    assert lab.watcher.reports[0].status == "done"


TOO_MUCH = {"cores": {"cpus_per_task": CORES + 1}, "memory": {"mem": MEMORY_MB * 2}}


def _warnings(folder: Path) -> list[str]:
    return [line for line in (folder / "workflow.log").read_text().splitlines() if " WARNING " in line]


@pytest.mark.parametrize("meta", TOO_MUCH.values(), ids=list(TOO_MUCH))
def test_units_that_ask_for_more_than_the_machine_run_one_at_a_time(crew: Crew, meta: dict[str, Any]) -> None:
    folder = crew.measure(crew.task(**meta), _names(3), 1)
    (warning,) = _warnings(folder)
    for part in ("one at a time", f"{CORES} cores", f"{MEMORY_MB} MB", str(next(iter(meta.values())))):
        assert part in warning


@pytest.mark.parametrize("meta", TOO_MUCH.values(), ids=list(TOO_MUCH))
def test_a_ceiling_that_was_set_holds_whatever_they_ask_for(crew: Crew, meta: dict[str, Any]) -> None:
    folder = crew.measure(crew.task(**{OPTION: 2}, **meta), _names(5), 2)
    assert not any("one at a time" in line for line in _warnings(folder)), "they do not"


def test_units_that_fit_give_no_warning(crew: Crew) -> None:
    folder = crew.measure(crew.task(cpus_per_task=CORES, mem=MEMORY_MB), _names(2), 1)
    assert _warnings(folder) == []


# Runs at the same time

SHARES = {
    "cores": ({"cpus_per_task": 1}, CORES),
    "all cores": ({"cpus_per_task": CORES}, 1),
    "memory": ({"mem": MEMORY_MB * 2 // 3}, 1),
}


@pytest.mark.parametrize(("meta", "expected"), SHARES.values(), ids=list(SHARES))
def test_runs_in_one_process_share_the_machine(crew: Crew, meta: dict[str, Any], expected: int) -> None:
    names = [_names(CORES + 1, "a"), _names(CORES + 1, "b")]
    runs = [crew.start(crew.task(**meta), some) for some in names]
    total = 2 * (CORES + 1)
    for ended in range(total):
        assert crew.has(min(expected, total - ended))
        crew.let_go(crew.inside[0])
    for run in runs:
        run.result(DEADLINE_S)
    assert crew.most == expected


def test_units_with_a_ceiling_of_their_own_count_for_other_runs(crew: Crew) -> None:
    explicit = crew.start(crew.task(**{OPTION: CORES + 1}), _names(CORES + 1, "a"))
    assert crew.has(CORES + 1)
    other = crew.start(crew.task(), _names(1, "b"))
    crew.let_go(crew.inside[0])
    assert crew.has(CORES)
    assert not other.done()
    assert ("+", "b0") not in crew.notes()
    crew.let_go(crew.inside[0])
    assert eventually(lambda: ("+", "b0") in crew.notes())
    crew.let_all_go()
    explicit.result(DEADLINE_S)
    other.result(DEADLINE_S)


def test_a_run_that_waits_for_the_machine_can_be_cancelled(lab: Lab, crew: Crew) -> None:
    holding = crew.start(crew.task(cpus_per_task=CORES), _names(1, "a"))
    assert crew.has(1)
    folder, watcher = lab.new_folder(), Watcher()
    backend = LocalBackend(observers=[watcher])

    async def cancel_while_it_waits() -> None:
        run = asyncio.ensure_future(
            backend.process_workflow(
                workflow={"task_list": [crew.task()]},
                dataset={"zarr_dir": "/data", "images": [{"zarr_url": f"/data/b{n}"} for n in range(4)]},
                workflow_dir_local=folder,
                logger_name="waits",
            )
        )
        queued = lambda: len(watcher.events) >= 4  # noqa: E731
        assert await asyncio.to_thread(eventually, queued)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(run, DEADLINE_S)

    asyncio.run(cancel_while_it_waits())
    assert crew.inside == ["a0"]
    assert [name for _, name in crew.notes()] == ["a0"]
    crew.let_go("a0")
    holding.result(DEADLINE_S)
    again = crew.start(crew.task(), _names(CORES + 1, "c"))
    assert crew.has(CORES), "the cancelled units hold a share"
    crew.let_all_go()
    again.result(DEADLINE_S)


# What is measured


def _one(lab: Lab, source: str) -> Outcome:
    lab.run(lab.task(source))
    (outcome,) = lab.watcher.outcomes
    return outcome


def _between(low: float, value: float | None, high: float) -> bool:
    return value is not None and low <= value <= high


BURN = "while sum(os.times()[:2]) < 0.3: pass"


def test_the_peak_memory_of_a_unit(lab: Lab) -> None:
    outcome = _one(lab, "block = b'x' * (200 << 20)")
    assert _between(200, outcome.peak_mb, 300)


@pytest.mark.parametrize(
    ("source", "expected"), [("time.sleep(0.3)", (0, 0.25)), (BURN, (0.3, 1.5))], ids=["asleep", "busy"]
)
def test_the_time_of_a_unit(lab: Lab, source: str, expected: tuple[float, float]) -> None:
    outcome = _one(lab, source)
    assert _between(0.3, outcome.wall_s, 10)
    assert _between(expected[0], outcome.cpu_s, expected[1])


def test_children_of_a_unit_are_measured_too(lab: Lab) -> None:
    child = f"import os; block = b'x' * (150 << 20); exec({BURN!r})"
    outcome = _one(lab, f"os.spawnl(os.P_WAIT, sys.executable, 'python', '-c', {child!r})")
    assert _between(0.3, outcome.cpu_s, 3)
    assert _between(150, outcome.peak_mb, 250)


def test_a_failed_unit_is_measured_too(lab: Lab) -> None:
    with pytest.raises(RuntimeError):
        lab.run(lab.task(f"block = b'x' * (100 << 20)\n{BURN}\nos.kill(os.getpid(), {signal.SIGKILL:d})"))
    (outcome,) = lab.watcher.outcomes
    assert outcome.signal == signal.SIGKILL
    assert _between(0.3, outcome.wall_s, 10)
    assert _between(0.3, outcome.cpu_s, 1.5)
    assert _between(100, outcome.peak_mb, 200)


def test_a_tiny_program_has_a_small_peak_however_large_the_runner_is(lab: Lab) -> None:
    ballast = b"x" * (300 << 20)
    task = {"name": "Tiny", "type": "non_parallel", "command_non_parallel": "true"}
    lab.run({"task": task})
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > len(ballast) >> 10
    (outcome,) = lab.watcher.outcomes
    assert _between(0.1, outcome.peak_mb, 32)
    assert _between(0, outcome.cpu_s, 0.2)


def test_the_report_of_a_task_adds_up(lab: Lab) -> None:
    source = """
        block = b"x" * (int(args["zarr_url"][-1]) * 40 << 20)
        while sum(os.times()[:2]) < 0.1: pass
    """
    task = {"name": "Sum", "type": "parallel", "command_parallel": lab.command(source)}
    lab.run({"task": task}, images=4)
    (report,) = lab.watcher.reports
    outcomes = lab.watcher.outcomes
    assert (report.units, report.failed) == (4, 0)
    assert report.cpu_s == pytest.approx(sum(outcome.cpu_s or 0 for outcome in outcomes))
    assert _between(0.4, report.cpu_s, 4)
    assert _between(120, report.peak_mb, 200)
    assert _between(max(outcome.wall_s or 0 for outcome in outcomes), report.wall_s, 20)


def test_observers_are_told_the_units_process(lab: Lab) -> None:
    folder = lab.run(lab.task("print(os.getpid())"))
    states = [event.state for event in lab.watcher.events]
    assert states == [UnitState.QUEUED, UnitState.STARTED, UnitState.ENDED]
    assert lab.watcher.events[1].handle == (folder / "0_solo" / "0.log").read_text().strip()


# Arguments of the run


@pytest.mark.parametrize("given", [True, False])
def test_the_remote_folder_may_be_the_local_one(lab: Lab, given: bool) -> None:
    folder = lab.new_folder()
    lab.run(lab.task("pass"), folder=folder, workflow_dir_remote=folder if given else None)
    assert lab.watcher.reports[0].status == "done"


def test_another_remote_folder_is_refused(lab: Lab) -> None:
    folder, remote = lab.new_folder(), lab.folder / "remote"
    refusal = "^Local backend does not support different directories"
    with pytest.raises(NotImplementedError, match=refusal) as caught:
        lab.run(lab.task("pass"), folder=folder, workflow_dir_remote=remote)
    assert isinstance(caught.value, UnsupportedArgumentError)
    assert str(folder) in str(caught.value)
    assert str(remote) in str(caught.value)
    assert not folder.exists()
    assert not remote.exists()


@pytest.mark.parametrize("argument", ["slurm_user", "slurm_account", "worker_init"])
def test_arguments_of_other_backends_are_ignored(lab: Lab, argument: str) -> None:
    arguments: dict[str, Any] = {argument: "exit 1"}
    lab.run(lab.task("pass"), **arguments)
    assert lab.watcher.reports[0].status == "done"


# What a unit finds


def _found(lab: Lab, expression: str, **arguments: Any) -> Any:
    """What an expression is inside a unit."""
    folder = lab.run(lab.task(f"print(json.dumps({expression}))"), **arguments)
    return json.loads((folder / "0_solo" / "0.log").read_text())


def test_the_cache_folder_is_in_the_units_environment(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRACTAL_CACHE_DIR", "/somewhere/else")
    expression = "os.environ['FRACTAL_CACHE_DIR']"
    assert _found(lab, expression, user_cache_dir="/cache of/mine") == "/cache of/mine"
    assert _found(lab, expression) == "/somewhere/else"
    monkeypatch.delenv("FRACTAL_CACHE_DIR")
    assert _found(lab, "'FRACTAL_CACHE_DIR' in os.environ") is False


def test_a_relative_cache_folder_is_refused(lab: Lab) -> None:
    with pytest.raises(InvalidInputError, match="user_cache_dir must be an absolute path, not 'cache'"):
        lab.run(lab.task("pass"), user_cache_dir="cache")


@pytest.mark.parametrize("user_cache_dir", [None, "/cache"])
def test_the_environment_is_the_runners(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, user_cache_dir: str | None
) -> None:
    monkeypatch.delenv("FRACTAL_CACHE_DIR", raising=False)
    monkeypatch.setenv("ODD_VARIABLE", "a=b\nc \udcff ü")
    monkeypatch.setenv("EMPTY_VARIABLE", "")
    before = dict(os.environ)
    found = _found(lab, "{k: v for k, v in os.environ.items()}", user_cache_dir=user_cache_dir)
    assert {key: found.get(key) for key in before} == before


def test_the_environment_is_that_of_the_runs_start(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("one", "two"):
        monkeypatch.setenv("CHANGING", value)
        assert _found(lab, "os.environ['CHANGING']") == value


def test_a_unit_leads_a_process_group_of_its_own(lab: Lab) -> None:
    group, pid = _found(lab, "[os.getpgid(0), os.getpid()]")
    assert group == pid
    assert group != os.getpgid(0)


def test_stdin_is_empty(lab: Lab) -> None:
    assert _found(lab, "[os.readlink('/proc/self/fd/0'), sys.stdin.read()]") == [os.devnull, ""]


def test_no_file_of_the_runner_is_open_in_a_unit(lab: Lab) -> None:
    with open(os.devnull) as file:
        os.set_inheritable(file.fileno(), True)
        assert _found(lab, "[fd for fd in range(100) if os.path.exists(f'/proc/self/fd/{fd}')]") == [0, 1, 2]


def test_stdout_and_stderr_share_the_log_in_order(lab: Lab) -> None:
    source = "\n".join(f"os.write({1 + n % 2}, b'{n} ')" for n in range(10))
    folder = lab.run(lab.task(source))
    assert (folder / "0_solo" / "0.log").read_text() == "0 1 2 3 4 5 6 7 8 9 "


def test_the_plugin_is_found_by_name(lab: Lab) -> None:
    backend = get_backend("local", options={OPTION: 2}, observers=[lab.watcher])
    assert type(backend) is LocalBackend
    assert backend.options == {OPTION: 2}
