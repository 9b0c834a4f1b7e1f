"""How many units the local backend has at work at once."""

from __future__ import annotations

import asyncio
import os
import resource
from pathlib import Path
from typing import Any

import pytest
from fractal_backends_local import LocalBackend

from conftest import DEADLINE_S, eventually
from tests.helpers.local_lab import CORES, MEMORY_MB, OPTION, ConfigFile, Crew, Lab, Watcher


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


# More than the machine has

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
