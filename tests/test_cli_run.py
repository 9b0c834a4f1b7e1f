"""`run`, as a user sees it, off a terminal: what it takes, what it shows, what it leaves."""

from __future__ import annotations

import re
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.cli_helpers import (
    Result,
    cli,
    ended,
    install,
    named,
    read_json,
    snapshot,
    started,
    workflow,
    write_json,
)
from tests.helpers.workflows import (
    ZARR,
    Json,
    Steps,
    arguments_of,
    dataset,
    names,
    non_parallel,
    parallel,
    step,
    updates,
    url,
)

MEASURED: dict[str, Json] = {"input_types": {"measured": False}, "output_types": {"measured": True}}


def convert(*images: str, **more: Any) -> Json:
    """A task that makes images."""
    changes = updates(*({"zarr_url": name, "attributes": {"well": name.upper()}} for name in images))
    return named("Make Images", step("converter_non_parallel", [changes], **more))


# A run that fails, and the one that goes on from there


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A run in which a unit of the second of three tasks fails; the folder, and how it went."""
    folder = tmp_path_factory.mktemp("failed")
    measure = parallel({"b": [["print_out", "reading b\nno nuclei in b\n"], ["exit_with", 4]], "*": []})
    report = named("Report", non_parallel())
    workflow(folder, convert("a", "b", "c"), named("Measure Nuclei", measure, **MEASURED), report)
    return folder, cli("run", "workflow.json", "--zarr-dir", ZARR, "--run-dir", "first", cwd=folder)


def test_a_failed_run_tells_the_cause(failed: tuple[Path, Result]) -> None:
    folder, result = failed
    assert result.code == 1
    assert "Traceback" not in result.err
    error = result.err[result.err.index("Error: ") :]
    assert error.splitlines()[0] == "Error: Unit 1_par_0000001 ended with exit code 4."
    assert "reading b\nno nuclei in b\n" in error
    assert "Task 1 'Measure Nuclei': 1 of 3 units failed: 1_par_0000001" in error
    assert f"Log: {folder}/first/1_measure_nuclei/1_par_0000001.log" in error


def test_a_failed_run_shows_what_was_done_and_where(failed: tuple[Path, Result]) -> None:
    folder, result = failed
    heading, _line, *rows = result.rows()
    assert heading == ["Task", "State", "Units", "Failed", "Time", "Peak memory", "New images"]
    assert [(*row[:5], row[-1]) for row in rows[:2]] == [
        ("0", "Make Images", "done", "1", "0", "3"),
        ("1", "Measure Nuclei", "failed", "3", "1", "0"),
    ]
    for row in rows[:2]:
        assert re.fullmatch(r"\d+\.\d s", row[5])
        assert re.fullmatch(r"[1-9]\d* MB", row[6])
    assert "Report" not in result.out
    for place in (ZARR, folder / "first", folder / "first/workflow.log", folder / "first/dataset.json"):
        assert re.search(rf" {re.escape(str(place))}$|{re.escape(str(place))} ", result.out, re.MULTILINE)
    assert "What had finished is saved." in result.out


def test_off_a_terminal_progress_is_plain_lines(failed: tuple[Path, Result]) -> None:
    _, result = failed
    assert "\x1b" not in result.out + result.err
    lines = result.err[: result.err.index("Error: ")].splitlines()
    assert lines[0] == "Task 0 Make Images: started"
    assert re.fullmatch(r"Task 0 Make Images: done, 1 units?, 0 failed, \d+\.\d s", lines[1])
    assert lines[2:4] == [
        "Task 1 Measure Nuclei: started",
        "Task 1 Measure Nuclei: unit 1_par_0000001 failed: task error",
    ]
    assert lines[4].startswith("Task 1 Measure Nuclei: failed, 3 units, 1 failed, ")
    assert len(lines) == 5


def test_what_a_failed_run_saved_is_a_dataset(failed: tuple[Path, Result]) -> None:
    folder, _ = failed
    saved = read_json(folder / "first" / "dataset.json")
    assert saved["zarr_dir"] == ZARR
    assert saved["images"] == read_json(folder / "first" / "images.json")
    assert [each["types"] for each in saved["images"]] == [{"measured": True}, {}, {"measured": True}]
    assert [entry["status"] for entry in saved["history"]] == ["done", "failed"]


def test_a_dataset_that_cannot_be_written_hides_no_error(tmp_path: Path) -> None:
    """No file may be larger than 8 KB: the images have room, the images and the history together have not."""
    workflow(tmp_path, named("Measure", parallel({"7": [["exit_with", 3]], "*": []})))
    write_json(tmp_path / "dataset.json", dataset([str(number) for number in range(110)]))
    given = ("run", "workflow.json", "--dataset", "dataset.json", "--run-dir", "run")
    limit = ["bash", "-c", 'ulimit -f 8; exec "$0" "$@"', sys.executable]
    result = cli(*given, cwd=tmp_path, before=limit)
    assert result.code == 1
    assert "Error: Unit 0_par_0000007 ended with exit code 3." in result.err
    assert result.rows()[2][:5] == ["0", "Measure", "failed", "110", "1"]
    assert len(read_json(tmp_path / "run" / "images.json")) == 110
    assert read_json(tmp_path / "run" / "dataset.json")["history"] == []
    assert "DatasetKeeper failed" in (tmp_path / "run" / "workflow.log").read_text()


def test_the_next_run_takes_the_images_that_are_left(failed: tuple[Path, Result]) -> None:
    folder, _ = failed
    before = snapshot(folder / "first")
    repaired = ("--first-task", "1", "--set", "1.args_parallel.do=[]", "--run-dir", "second")
    result = cli("run", "workflow.json", "--dataset", "first/dataset.json", *repaired, cwd=folder)
    assert result.code == 0, result.err
    assert [row[:5] for row in result.rows()[2:4]] == [
        ["1", "Measure Nuclei", "done", "1", "0"],
        ["2", "Report", "done", "1", "0"],
    ]
    given = arguments_of(folder / "second", "1_measure_nuclei/1_par_0000000")
    assert given == {"zarr_url": url("b"), "do": []}
    saved = read_json(folder / "second" / "dataset.json")
    assert [each["types"] for each in saved["images"]] == [{"measured": True}] * 3
    assert [entry["status"] for entry in saved["history"]] == ["done", "failed", "done", "done"]
    assert arguments_of(folder / "second", "2_report/2")["zarr_urls"] == [url("a"), url("b"), url("c")]
    assert snapshot(folder / "first") == before


# Where things go


def test_without_folders_named_a_run_makes_its_own(tmp_path: Path) -> None:
    tasks = [named("Make", non_parallel([["print_out", "made\n"]]))]
    workflow(tmp_path, *tasks, name="Cells: 3D / day 1")
    result = cli("run", "workflow.json", cwd=tmp_path)
    assert result.code == 0, result.err
    (folder,) = (tmp_path / "runs").iterdir()
    assert re.fullmatch(r"cells-3d-day-1-\d{8}-\d{6}-\d{6}", folder.name)
    assert (folder / "0_make" / "0.log").read_text() == "made\n"
    assert arguments_of(folder, "0_make/0")["zarr_dir"] == f"{folder}/zarr"
    assert f"{folder}/dataset.json" in result.out
    assert "What had finished" not in result.out


def test_runs_that_start_at_once_make_a_folder_each(tmp_path: Path) -> None:
    workflow(tmp_path, named("Make", non_parallel([])))
    with ExitStack() as stack:
        runs = [stack.enter_context(started("run", "workflow.json", cwd=tmp_path)) for _ in range(3)]
        assert [ended(run).code for run in runs] == [0, 0, 0]
    assert len(list((tmp_path / "runs").iterdir())) == 3


def test_relative_and_odd_folders_are_fine(tmp_path: Path) -> None:
    """Also a folder that is there, with files that are not a run's."""
    folder = tmp_path / "run (1) & é" / "deep"
    write_json(folder / "server.json", {})
    workflow(tmp_path, named("Make", non_parallel()))
    places = ("--run-dir", folder.relative_to(tmp_path), "--zarr-dir", "images (1)")
    result = cli("run", tmp_path / "workflow.json", *places, cwd=tmp_path)
    assert result.code == 0, result.err
    assert arguments_of(folder, "0_make/0")["zarr_dir"] == f"{tmp_path}/images (1)"
    assert read_json(folder / "server.json") == {}
    assert f"Run folder {folder}\n" in result.out


def test_the_range_of_tasks_is_what_runs(tmp_path: Path) -> None:
    workflow(tmp_path, *(named(name, non_parallel()) for name in ("Zero", "One", "Two", "Three")))
    picked = ("--first-task", "1", "--last-task", "2", "--run-dir", "run")
    result = cli("run", "workflow.json", *picked, cwd=tmp_path)
    assert result.code == 0, result.err
    folders = {path.name for path in (tmp_path / "run").iterdir() if path.is_dir()}
    assert folders == {"1_one", "2_two"}
    assert [row[:3] for row in result.rows()[2:4]] == [["1", "One", "done"], ["2", "Two", "done"]]


# Changes to the workflow and options


def test_set_changes_arguments_as_json_or_as_text(tmp_path: Path) -> None:
    workflow(tmp_path, named("Make", non_parallel(args_non_parallel={"label": "old", "sizes": [1, 2]})))
    changes = {
        "0.args_non_parallel.label": "cells",
        "0.args_non_parallel.sizes.1": "7.5",
        "0.args_non_parallel.deep.er.flag": "true",
        "0.args_non_parallel.text": "a=b, [c",
        "0.args_non_parallel.nothing": "null",
        "0.task.name": "Make more",
    }
    given = [part for path, value in changes.items() for part in ("--set", f"{path}={value}")]
    result = cli("run", "workflow.json", *given, "--run-dir", "run", "--zarr-dir", ZARR, cwd=tmp_path)
    assert result.code == 0, result.err
    assert arguments_of(tmp_path / "run", "0_make_more/0") == {
        "zarr_urls": [],
        "zarr_dir": ZARR,
        "label": "cells",
        "sizes": [1, 7.5],
        "deep": {"er": {"flag": True}},
        "text": "a=b, [c",
        "nothing": None,
    }
    assert read_json(tmp_path / "workflow.json")["task_list"][0]["args_non_parallel"]["label"] == "old"


def test_an_option_wins_over_the_tasks_meta(tmp_path: Path) -> None:
    """Each of two units waits for the other one, which the workflow's meta would keep from running."""
    meet = {
        "a": [["touch", f"{tmp_path}/a"], ["wait", f"{tmp_path}/b"]],
        "b": [["touch", f"{tmp_path}/b"], ["wait", f"{tmp_path}/a"]],
    }
    workflow(tmp_path, parallel(meet, meta_parallel={"parallel_tasks_per_job": 1}))
    write_json(tmp_path / "dataset.json", dataset(["a", "b"]))
    given = ("--dataset", "dataset.json", "--option", "parallel_tasks_per_job=2", "--run-dir", "run")
    result = cli("run", "workflow.json", *given, cwd=tmp_path)
    assert result.code == 0, result.err


# Ways to fail


@pytest.mark.parametrize(
    ("task", "first_line", "more"),
    [
        (
            non_parallel(task={"command_non_parallel": "no-such-program --fast"}),
            'Error: Command "no-such-program" is not valid. Hint: make sure that it is executable.',
            "1 of 1 units failed",
        ),
        (non_parallel([["kill_self", 9]]), "Error: Task failed with returncode=-9 (SIGKILL", "Log: "),
        (
            non_parallel([["raw", '{"images": []}']]),
            "Error: Validation of task output failed.",
            '{"images": []}',
        ),
        (
            non_parallel([["print_err", "x" * 20_000 + " no space left"], ["exit_with", 1]]),
            "Error: Unit 0 ended with exit code 1.",
            "[the last 8,000 of 20,014 bytes]",
        ),
    ],
    ids=["no such command", "killed", "invalid output", "long log"],
)
def test_a_failure_is_told_by_its_cause(tmp_path: Path, task: Json, first_line: str, more: str) -> None:
    workflow(tmp_path, named("Make", task))
    result = cli("run", "workflow.json", "--run-dir", "run", cwd=tmp_path)
    assert result.code == 1
    assert "Traceback" not in result.err
    error = result.err[result.err.index("Error: ") :]
    assert error.startswith(first_line)
    assert more in error
    assert result.rows()[2][:3] == ["0", "Make", "failed"]
    (entry,) = read_json(tmp_path / "run" / "dataset.json")["history"]
    assert entry["status"] == "failed"


def test_many_failures_are_counted_and_a_few_told_while_it_runs(tmp_path: Path) -> None:
    workflow(tmp_path, named("Measure", parallel(task={"command_parallel": "false"})))
    write_json(tmp_path / "dataset.json", dataset([str(n) for n in range(60)]))
    given = ("--dataset", "dataset.json", "--run-dir", "run")
    result = cli("run", "workflow.json", *given, cwd=tmp_path)
    assert result.code == 1
    assert "60 of 60 units failed: 0_par_0000000 to 0_par_0000059" in result.err
    assert 1 <= len(re.findall(r"unit 0_par_\d+ failed: task error", result.err)) < 10
    assert len(result.err.splitlines()) < 20


def test_what_a_log_holds_gives_the_terminal_no_orders(tmp_path: Path) -> None:
    orders = "\x1b]0;title\x07 \x1b[2J \x9b31m \x00 \x08\x08 \u202e tail"
    junk: Steps = [
        ["print_out", orders],
        ["print_bytes", list(range(256))],
        ["print_out", "\nthe end\n"],
        ["exit_with", 2],
    ]
    workflow(tmp_path, named("Make", non_parallel(junk)))
    result = cli("run", "workflow.json", "--run-dir", "run", cwd=tmp_path)
    assert result.code == 1
    assert "the end" in result.err
    assert [c for c in result.err if not (c.isprintable() or c in "\n\t")] == []
    assert (tmp_path / "run" / "0_make" / "0.log").read_bytes().startswith(orders.encode())


# Backends of plugins

HANDMADE = """
    class Handmade:
        interface_version = 1

        async def process_workflow(self, *, workflow, dataset, workflow_dir_local, logger_name, **_):
            workflow_dir_local.mkdir()
            (workflow_dir_local / "handmade.txt").write_text(workflow.task_list[0].task.name)
            return {"history": [], "filters": {"types": {}, "attributes": {}}, "images": []}
"""
NO_ENGINE = """
    from fractal_backends import Backend

    class NoEngine(Backend):
        name = "no-engine"
        interface_version = 1

        def open(self, run):
            raise ConnectionError("the scheduler at head-node does not answer")
"""


def test_a_backend_without_our_base_class_can_be_used(tmp_path: Path) -> None:
    """All that the interface asks for is `process_workflow`."""
    install(tmp_path / "site", "handmade", {"handmade": "handmade:Handmade"}, handmade=HANDMADE)
    workflow(tmp_path, named("Make", non_parallel()))
    given = ("--backend", "handmade", "--run-dir", "run")
    result = cli("run", "workflow.json", *given, cwd=tmp_path, PYTHONPATH=tmp_path / "site")
    assert result.code == 0, result.err
    assert (tmp_path / "run" / "handmade.txt").read_text() == "Make"
    for place in re.findall(rf"({re.escape(str(tmp_path))}/run\S*\.\w+)", result.out):
        assert Path(place).exists(), result.out


def test_a_backend_that_cannot_be_opened_is_an_error_of_few_words(tmp_path: Path) -> None:
    install(tmp_path / "site", "no-engine", {"no-engine": "no_engine:NoEngine"}, no_engine=NO_ENGINE)
    workflow(tmp_path, named("Make", non_parallel()))
    given = ("--backend", "no-engine", "--run-dir", "run")
    result = cli("run", "workflow.json", *given, cwd=tmp_path, PYTHONPATH=tmp_path / "site")
    assert result.code == 1
    assert "the scheduler at head-node does not answer" in result.err
    assert "Traceback" not in result.err


# Nobody reads what is written


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_run_does_not_depend_on_somebody_reading(tmp_path: Path, stream: str) -> None:
    """As in `fractal-backends run workflow.json 2>&1 | tee log` when `tee` was ended."""
    workflow(tmp_path, convert("a"), named("Measure", parallel(), **MEASURED))
    given = ("--zarr-dir", ZARR, "--run-dir", "run")
    with started("run", "workflow.json", *given, cwd=tmp_path) as process:
        assert process.stdout
        assert process.stderr
        streams = [process.stdout, process.stderr]
        streams.pop(stream == "stderr").close()
        streams.pop().read()
        process.wait()
    saved = read_json(tmp_path / "run" / "dataset.json")
    assert [entry["status"] for entry in saved["history"]] == ["done", "done"]
    assert names(saved["images"]) == ["a"]


def test_what_the_output_cannot_hold_is_replaced(tmp_path: Path) -> None:
    """Where the locale is an old one."""
    workflow(tmp_path, named("Zählen → 数える", non_parallel()))
    for more in (["--dry-run"], []):
        result = cli("run", "workflow.json", *more, cwd=tmp_path, PYTHONIOENCODING="latin-1")
        assert result.code == 0, result.err
