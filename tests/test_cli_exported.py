"""`run` with workflows as Fractal exports them: what is checked, and where they run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.cli_helpers import cli, install_tasks, snapshot, workflow, write_json
from tests.helpers.workflows import arguments_of, dataset, url

ARGUMENTS = {
    "type": "object",
    "properties": {
        "zarr_url": {"type": "string"},
        "channel": {"type": "string", "enum": ["DAPI", "GFP"]},
        "sigma": {"type": "number", "minimum": 0},
        "do": {"type": "array"},
    },
    "required": ["zarr_url", "channel"],
    "additionalProperties": False,
}
THRESHOLD = {
    "name": "Threshold",
    "executable_parallel": "task.py",
    "args_schema_parallel": ARGUMENTS,
    "meta_parallel": {"mem": 100, "cpus_per_task": 1, "needs_gpu": False},
}


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """A folder with a task package in `site`, and an exported workflow whose arguments are wrong."""
    site = tmp_path / "site"
    install_tasks(site, "fractal-threshold", "1.0", [THRESHOLD])
    arguments = {"chanel": "DAPI", "sigma": -1}
    workflow(
        tmp_path,
        {
            **dict.fromkeys(("meta_non_parallel", "meta_parallel", "args_non_parallel", "alias")),
            "task": {"pkg_name": "fractal-threshold", "version": "1.0", "name": "Threshold"},
            "args_parallel": arguments,
            "type_filters": {},
        },
        name="exported",
    )
    write_json(tmp_path / "dataset.json", dataset(["a"]))
    return tmp_path


def test_arguments_are_checked_and_all_problems_shown_together(exported: Path) -> None:
    before = snapshot(exported)
    given = ("--dataset", "dataset.json", "--run-dir", "run", "--set", "0.type_filters.x=3")
    result = cli("run", "workflow.json", *given, cwd=exported, PYTHONPATH=exported / "site")
    assert (result.code, result.out) == (2, "")
    assert "Traceback" not in result.err
    for reason in (
        "The workflow in workflow.json is not valid",
        "task_list[0].type_filters.x: must be true or false",
        "task_list[0] 'Threshold': args_parallel.channel: is missing",
        "args_parallel.chanel: unknown key; the nearest is 'channel'",
        "args_parallel.sigma: is -1, expected at least 0",
    ):
        assert reason in result.err
    assert snapshot(exported) == before


def test_without_the_check_the_task_gets_what_is_there(exported: Path) -> None:
    given = ("--dataset", "dataset.json", "--run-dir", "run", "--no-check")
    result = cli("run", "workflow.json", *given, cwd=exported, PYTHONPATH=exported / "site")
    assert result.code == 0, result.err
    assert arguments_of(exported / "run", "0_threshold/0_par_0000000") == {
        "zarr_url": url("a"),
        "chanel": "DAPI",
        "sigma": -1,
    }


def test_an_exported_workflow_runs_in_the_environment_that_is_named(exported: Path) -> None:
    """The package is in that environment only."""
    python = exported / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexport PYTHONPATH={exported}/site\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    right = '{"channel": "GFP", "do": [["print_out", "thresholded"]]}'
    given = ("--dataset", "dataset.json", "--run-dir", "run", "--set", f"0.args_parallel={right}")
    result = cli("run", "workflow.json", *given, "--task-env", "venv", cwd=exported)
    assert result.code == 0, result.err
    assert (exported / "run" / "0_threshold" / "0_par_0000000.log").read_text() == "thresholded"


def test_a_dry_run_shows_the_commands_of_the_environment(exported: Path) -> None:
    before = snapshot(exported)
    given = ("--dataset", "dataset.json", "--no-check", "--dry-run")
    result = cli("run", "workflow.json", *given, cwd=exported, PYTHONPATH=exported / "site")
    assert (result.code, result.err) == (0, "")
    assert f"0  {sys.executable} {exported}/site/fractal_threshold/task.py\n" in result.out
    assert ["0", "Threshold", "parallel", "mem=100", "needs_gpu"] in result.rows()
    assert snapshot(exported) == before
