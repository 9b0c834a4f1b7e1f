"""A dry run on the command line, and what is then submitted."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from conftest import eventually
from slurm_lab import SlurmLab
from tests.helpers.slurm_runs import LONG_S, SlurmRun, StartRun

DONE = """echo '{"image_list_updates": []}' >"$out" """
UNITS = dict.fromkeys("abcdef", DONE) | {"g": f"wait_for go; {DONE}"}
PACKED = {"tasks_per_job": 3}
SIDE_BY_SIDE = {"tasks_per_job": 4, "parallel_tasks_per_job": 2}


def dry_run(folder: Path, options: dict[str, Any]) -> str:
    """What it prints, with its own ids and folder left out."""
    given = SlurmRun(folder, UNITS, {}).write()
    for name in ("workflow", "dataset"):
        (folder / f"{name}.json").write_text(json.dumps(given[name]))
    program = Path(sys.executable).with_name("fractal-backends")
    command = [str(program), "run", "workflow.json", "--backend", "slurm"]
    command += ["--dataset", "dataset.json", "--run-dir", "run", "--dry-run"]
    command += [word for key, value in options.items() for word in ("--option", f"{key}={value}")]
    return without_ids(
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout, folder
    )


def without_ids(text: str, folder: Path) -> str:
    """So that two of the same kind are the same."""
    return re.sub(
        r"(?<![0-9a-f])([0-9a-f]{32}|[0-9a-f]{12})(?![0-9a-f])", "ID", text.replace(str(folder), "FOLDER")
    )


@pytest.mark.parametrize("options", [PACKED, SIDE_BY_SIDE])
def test_it_shows_what_is_submitted(
    start_run: StartRun, slurm_lab: SlurmLab, place: Path, options: dict[str, Any]
) -> None:
    shown = dry_run(place / "dry", options)
    assert slurm_lab.jobs() == {}
    assert not (place / "dry" / "run").exists()
    slurm_lab.forget_calls()

    run = start_run(UNITS, options)
    assert eventually(lambda: len(run.outcomes) == len(UNITS) - 1, LONG_S), run.story()
    files = sum(
        path.is_file() for name in (".slurm", "0_task") for path in (run.folder / "run" / name).rglob("*")
    )
    job = run.handles["g"].partition("_")[0]
    script = without_ids(slurm_lab.run("scontrol", "write", "batch_script", job, "-"), run.folder)
    run.open("go")
    run.must_end()

    assert script.strip() in shown
    (submission,) = (call for call in slurm_lab.calls("sbatch") if "--test-only" not in call)
    words = [word for word in submission if word != "--parsable"]
    assert f"  {without_ids(shlex.join(words), run.folder)}\n" in shown
    told = re.findall(
        r"job arrays (\d+), array tasks (\d+), units in each up to (\d+), files up to (\d+)", shown
    )
    ((arrays, tasks, each, most),) = ([int(number) for number in numbers] for numbers in told)
    assert (arrays, each) == (1, options["tasks_per_job"])
    assert f"--array=0-{tasks - 1}" in words
    assert most - 6 <= files <= most
    assert "to start at" in shown
