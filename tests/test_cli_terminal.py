"""`run` in the foreground of a terminal, and what ends it."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from conftest import eventually
from tests.cli_helpers import Terminal, cli, ended, named, read_json, started, write_json
from tests.helpers.processes import is_alive, pid_in
from tests.helpers.workflows import Json, arguments_of, dataset, non_parallel, parallel, url

MEASURED: dict[str, Json] = {"input_types": {"measured": False}, "output_types": {"measured": True}}


def files(folder: Path, images: list[str], *tasks: Json) -> list[str]:
    """A workflow and a dataset, and the arguments that run them."""
    write_json(folder / "workflow.json", {"task_list": tasks})
    write_json(folder / "dataset.json", dataset(images))
    return ["run", "workflow.json", "--dataset", "dataset.json", "--run-dir", "run"]


def last_picture(terminal: Terminal) -> list[str]:
    """The lines of the progress as they stayed on the terminal, below its heading."""
    _, _, lines = terminal.text.rpartition("\ntask ")
    return [line for line in lines.split("\n") if re.match(r"\d+ ", line)]


# Progress


@pytest.fixture(scope="module", params=[60, 80, 130])
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Terminal:
    """A terminal of some width on which a run has ended: one task was done, one unit of another failed."""
    folder = tmp_path_factory.mktemp("seen")
    measure = parallel({"b": [["exit_with", 3]], "*": []})
    tasks = [named("Report", non_parallel()), named("Measure Nuclei", measure)]
    with Terminal(*files(folder, ["a", "b", "c"], *tasks), cwd=folder, columns=request.param) as terminal:
        assert terminal.end() == 1
    return terminal


def test_each_task_has_a_bar_with_its_numbers(seen: Terminal) -> None:
    report, nuclei = last_picture(seen)[:2]
    assert re.fullmatch(r"0 Report +━+ +1 +0 +0 +0 +took 0:\d\d *", report)
    assert re.fullmatch(r"1 M(easure Nuclei|.*…) +━+ +2 +1 +0 +0 +took 0:\d\d *", nuclei)


def test_the_table_at_the_end_tells_the_tasks_by_name(seen: Terminal) -> None:
    _, _, table = seen.text.rpartition("Failed")
    assert re.search(r"^ *0 +Report +done +1 +0 ", table, re.MULTILINE)
    assert re.search(r"^ *1 +Measure( Nuclei)? +failed +3 +1 ", table, re.MULTILINE)


def test_the_numbers_are_right_while_long_units_run(tmp_path: Path) -> None:
    """Nothing else happens until they end, so nothing else would correct a picture that is behind."""
    gate = tmp_path / "gate"
    wait = parallel([["wait", str(gate)]])
    given = files(tmp_path, ["a", "b", "c"], named("Report", non_parallel()), named("Measure", wait))
    with Terminal(*given, "--option", "parallel_tasks_per_job=2", cwd=tmp_path) as terminal:
        try:
            assert terminal.shows(r"1 Measure +━+ +0 +0 +2 +1 "), last_picture(terminal)
        finally:
            gate.touch()
        assert terminal.end() == 0


def test_the_task_that_runs_is_seen_where_there_are_more_tasks_than_lines(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    tasks = [named(f"Report {n}", non_parallel()) for n in range(12)]
    given = files(tmp_path, [], *tasks, named("Last", non_parallel([["wait", str(gate)]])))
    with Terminal(*given, cwd=tmp_path, lines=10) as terminal:
        try:
            assert terminal.shows("12 Last "), terminal.text[-1500:]
        finally:
            gate.touch()
        assert terminal.end() == 0


def test_a_terminal_that_cannot_draw_gets_lines(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    given = files(tmp_path, [], named("Report", non_parallel([["wait", str(gate)]])))
    with Terminal(*given, cwd=tmp_path, TERM="dumb") as terminal:
        try:
            assert terminal.shows("Task 0 Report: started")
        finally:
            gate.touch()
        assert terminal.end() == 0
    assert b"\x1b" not in terminal.raw


def test_output_to_a_file_is_plain_while_the_bars_stay_on_the_terminal(tmp_path: Path) -> None:
    given = files(tmp_path, [], named("Report", non_parallel()))
    with Terminal(*given, cwd=tmp_path, redirect=">out.txt") as terminal:
        assert terminal.end() == 0
    table = (tmp_path / "out.txt").read_text()
    assert "\x1b" not in table
    assert re.search("0 +Report +done", table)
    assert "0 Report" in terminal.text
    assert "Peak memory" not in terminal.text


def test_what_a_log_holds_does_not_reach_the_terminal_raw(tmp_path: Path) -> None:
    orders = "\x1b]0;title\x07\x1b[2J\x1bc\x9b7m\x08\x00"
    junk = named("Measure \x1b[7m", non_parallel([["print_out", f"{orders}the end"], ["exit_with", 2]]))
    with Terminal(*files(tmp_path, [], junk), cwd=tmp_path) as terminal:
        assert terminal.end() == 1
    assert "the end" in terminal.text
    for order in (b"\x1b]", b"\x07", b"\x1b[2J", b"\x1bc", "\x9b".encode(), b"\x08", b"\x00", b"\x1b[7m"):
        assert order not in terminal.raw


# Interrupts


def busy(folder: Path) -> tuple[Json, list[Path]]:
    """A task that is done with image `a`, and for `b` starts processes of all kinds that will not end.

    Also the files with their process ids; the last one is there when all are.
    """
    kinds = ("child", "session", "double_fork", "no_environment", "pid")
    pids = [folder / f"{kind}.pid" for kind in kinds]
    stay = [[kind, str(path)] for kind, path in zip(kinds, pids, strict=True)]
    meta = {"parallel_tasks_per_job": 1}
    return named("Measure", parallel({"b": [*stay, ["hang"]], "a": []}, meta_parallel=meta), **MEASURED), pids


def living(pids: list[Path]) -> list[str]:
    return [path.stem for path in pids if is_alive(pid_in(path))]


def check_what_is_left(folder: Path) -> None:
    """The dataset of a run that was ended while it was busy, and a next run that goes on from there."""
    saved = read_json(folder / "run" / "dataset.json")
    assert [each["types"] for each in saved["images"]] == [{"measured": True}, {}]
    assert [entry["status"] for entry in saved["history"]] == ["failed"]
    again = ("--dataset", "run/dataset.json", "--first-task", "0", "--run-dir", "again")
    result = cli("run", "workflow.json", *again, "--set", "0.args_parallel.do=[]", cwd=folder)
    assert result.code == 0, result.err
    assert arguments_of(folder / "again", "0_measure/0_par_0000000")["zarr_url"] == url("b")
    assert result.rows()[2][:5] == ["0", "Measure", "done", "1", "0"]


def test_ctrl_c_ends_a_run_and_all_that_it_started(tmp_path: Path) -> None:
    """A second and a third one, while it ends, change nothing."""
    task, pids = busy(tmp_path)
    with Terminal(*files(tmp_path, ["a", "b"], task), cwd=tmp_path) as terminal:
        assert terminal.sees(pids[-1]), terminal.text
        terminal.press(b"\x03")
        assert terminal.shows("Interrupted: ending what runs")
        terminal.press(b"\x03")
        terminal.press(b"\x03")
        assert terminal.end() == 130
        assert living(pids) == []
    assert "Traceback" not in terminal.text
    assert "Exception" not in terminal.text
    assert terminal.text.count("Interrupted: ending what runs") == 1
    assert f"Run folder {tmp_path}/run\n" in terminal.text
    assert "What had finished is saved." in terminal.text
    assert f"{tmp_path}/run/dataset.json" in terminal.text
    assert terminal.raw.rfind(b"\x1b[?25h") > terminal.raw.rfind(b"\x1b[?25l"), "the cursor stays hidden"
    check_what_is_left(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_run(tmp_path: Path, number: signal.Signals) -> None:
    hang = named("Measure", parallel([["pid", str(tmp_path / "pid")], ["hang"]]))
    with started(*files(tmp_path, ["a"], hang), cwd=tmp_path) as process:
        pid = pid_in(tmp_path / "pid")
        process.send_signal(number)
        result = ended(process)
    assert result.code == 130
    assert not is_alive(pid)
    assert "Interrupted: ending what runs" in result.err
    assert "Traceback" not in result.err
    assert "What had finished is saved." in result.out
    assert (tmp_path / "run" / "dataset.json").exists()


def test_no_number_of_signals_hides_where_the_files_are(tmp_path: Path) -> None:
    """They come until the command is gone; the last may meet an interpreter that is half gone."""
    hang = named("Measure", parallel([["pid", str(tmp_path / "pid")], ["hang"]]))
    with started(*files(tmp_path, ["a"], hang), cwd=tmp_path) as process:
        pid_in(tmp_path / "pid")
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            time.sleep(0.001)
        result = ended(process)
    assert result.code in (130, -signal.SIGINT)
    assert result.err.count("Interrupted: ending what runs") == 1
    assert "Traceback" not in result.err
    assert f"Run folder {tmp_path}/run\n" in result.out
    assert result.out.endswith("What had finished is saved.\n")


def test_closing_the_window_ends_a_run(tmp_path: Path) -> None:
    task, pids = busy(tmp_path)
    with Terminal(*files(tmp_path, ["a", "b"], task), cwd=tmp_path) as terminal:
        assert terminal.sees(pids[-1]), terminal.text
        terminal.close()
        assert eventually(lambda: terminal.process.poll() is not None)
        assert living(pids) == []
    check_what_is_left(tmp_path)


def test_a_run_that_nohup_started_outlives_its_terminal(tmp_path: Path) -> None:
    gate, pid = tmp_path / "gate", tmp_path / "pid"
    wait = named("Measure", parallel([["pid", str(pid)], ["wait", str(gate)]]))
    with started(*files(tmp_path, ["a"], wait), cwd=tmp_path, before=["nohup", sys.executable]) as process:
        pid_in(pid)
        process.send_signal(signal.SIGHUP)
        gate.touch()
        assert ended(process).code == 0


def test_a_killed_command_line_leaves_no_process(tmp_path: Path) -> None:
    task, pids = busy(tmp_path)
    with started(*files(tmp_path, ["a", "b"], task), cwd=tmp_path) as process:
        pid_in(pids[-1])
        process.kill()
        process.wait()
        assert eventually(lambda: not living(pids)), living(pids)
    assert read_json(tmp_path / "run" / "history.json") == []
    saved = read_json(tmp_path / "run" / "dataset.json")  # the next run can go on from here
    assert [each["zarr_url"].rpartition("/")[2] for each in saved["images"]] == ["a", "b"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_the_run_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    """While an environment is asked for its tasks."""
    pid = tmp_path / "pid"
    slow = tmp_path / "slow-python"
    slow.write_text(f"#!/bin/sh\necho $$ >{pid}.part\nmv {pid}.part {pid}\nexec sleep 60\n")
    slow.chmod(0o755)
    exported: dict[str, Any] = {"task": {"pkg_name": "fractal-cells", "name": "Threshold"}}
    given = files(tmp_path, [], exported)
    with started(*given, "--task-env", slow, cwd=tmp_path) as process:
        asked = pid_in(pid)
        try:
            process.send_signal(number)
            result = ended(process)
            assert result.code in (130, -number)
            assert result.err == ""
            assert eventually(lambda: not is_alive(asked), 2)
        finally:
            if is_alive(asked):
                os.kill(asked, signal.SIGKILL)
    assert not (tmp_path / "run").exists()
