"""`run --dry-run`, as a user sees it, and what a backend has to say before a run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.cli_helpers import Result, cli, install, named, snapshot, workflow, write_json
from tests.helpers.workflows import COMMAND, dataset, image, non_parallel, parallel, step, url

# Dry runs


def test_a_dry_run_shows_what_would_run_and_does_nothing(tmp_path: Path) -> None:
    touch = [["touch", f"{tmp_path}/ran"]]
    meta = {"parallel_tasks_per_job": 2, "mem": "1G", "partition": "long", "gres": "gpu:1"}
    measure = parallel(touch, meta_parallel=meta)
    workflow(tmp_path, named("Measure", measure), named("Report", non_parallel(touch)))
    write_json(tmp_path / "dataset.json", dataset([f"image-{n}" for n in range(5)]))
    before = snapshot(tmp_path)
    given = ("--dataset", "dataset.json", "--run-dir", "run", "--option", "parallel_tasks_per_job=3")
    result = cli("run", "workflow.json", *given, "--dry-run", cwd=tmp_path)
    assert (result.code, result.err) == (0, "")
    assert snapshot(tmp_path) == before

    rows = result.rows()
    assert ["0", "Measure", "parallel", "parallel_tasks_per_job=3", "partition, gres"] in rows
    assert ["mem=1024"] in rows
    assert any(row[:3] == ["1", "Report", "non_parallel"] for row in rows)
    assert f"0  {COMMAND}\n1  {COMMAND}\n" in result.out
    assert "Task 0 Measure starts with 5 units\n" in result.out
    arguments = re.findall("arguments: (.*)", result.out)
    assert [json.loads(each)["zarr_url"] for each in arguments] == [url(f"image-{n}") for n in range(3)]
    assert result.out.count(f"{COMMAND} --args-json") == 3
    assert "and 2 more\n" in result.out


_TELL_OF_STARTS = """
    import sys
    from pathlib import Path

    def tell(event, arguments):
        if event in ("subprocess.Popen", "os.fork", "os.forkpty", "os.exec", "os.posix_spawn", "os.system"):
            Path(__file__).with_name("started").touch()

    sys.addaudithook(tell)
"""


@pytest.mark.parametrize("dry", [True, False])
def test_a_dry_run_starts_no_process(tmp_path: Path, dry: bool) -> None:
    """Python itself tells; a run that is not dry shows that it does."""
    install(tmp_path, "watcher", {}, sitecustomize=_TELL_OF_STARTS)
    workflow(tmp_path, named("Make", non_parallel()))
    given = ("--run-dir", "run", *(("--dry-run",) if dry else ()))
    result = cli("run", "workflow.json", *given, cwd=tmp_path, PYTHONPATH=tmp_path)
    assert (result.code, (tmp_path / "started").exists()) == (0, not dry)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("0.type_filters.measured=true", "Cannot run task 'Measure' for an empty image list"),
    ],
)
def test_a_dry_run_tells_what_would_end_the_first_task(tmp_path: Path, change: str, reason: str) -> None:
    workflow(tmp_path, named("Measure", parallel()))
    write_json(tmp_path / "dataset.json", dataset(["a"]))
    before = snapshot(tmp_path)
    result = cli(
        "run", "workflow.json", "--dataset", "dataset.json", "--set", change, "--dry-run", cwd=tmp_path
    )
    assert result.code == 1
    assert result.err.startswith(f"Error: {reason}")
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("how", ["--dry-run", "--no-check"])
def test_what_a_workflow_holds_gives_the_terminal_no_orders(tmp_path: Path, how: str) -> None:
    """Names, commands, meta and arguments come from other people's files."""
    orders = "\x1b]0;title\x07\x1b[31m\x9b2J"
    task = parallel(args_parallel={f"{orders} key": f"{orders} value"}, meta_parallel={f"{orders} meta": 1})
    task["task"]["command_parallel"] += " '\x1b\x9b\x07'"
    workflow(tmp_path, named(f"Measure {orders}", task), name=f"Workflow {orders}")
    write_json(tmp_path / "dataset.json", dataset([image("a", well=orders)]))
    result = cli("run", "workflow.json", "--dataset", "dataset.json", how, cwd=tmp_path)
    assert result.code == 0, result.err
    assert [line for line in (result.out + result.err).splitlines() if not line.isprintable()] == []


# What a backend has to say before a run

_EXPLAINER = """
    from fractal_backends import Backend, Options

    class Dials(Options):
        dial: int = 0
        '''A dial.'''

    class Explainer(Backend):
        name = "explainer"
        interface_version = 1
        options_model = Dials

        def open(self, run):
            raise AssertionError("nothing may start")

        def problems(self, run, parts):
            return [f"{part.name}: dial={part.options.dial}" for part in parts if part.options.dial > 5]

        def explain(self, run, parts):
            for part in parts:
                unit = part.example
                yield f"{part.task.name}: {part.units} of {unit.label}\\n  {unit.task_command} \\x1b[31m"
            yield f"in {run.workflow_dir_local}"
"""


@pytest.fixture
def explainer(tmp_path: Path) -> Path:
    install(tmp_path / "site", "explainer", {"explainer": "explainer:Explainer"}, explainer=_EXPLAINER)
    compound = named("Both", step("compound", []))
    workflow(tmp_path, named("Measure", parallel()), compound)
    write_json(tmp_path / "dataset.json", dataset(["a", "b", "c"]))
    return tmp_path


def explained(folder: Path, *more: str) -> Result:
    given = ("--dataset", "dataset.json", "--run-dir", "run", "--backend", "explainer", *more)
    return cli("run", "workflow.json", *given, cwd=folder, PYTHONPATH=folder / "site")


def test_a_dry_run_shows_what_the_backend_says_of_each_part(explainer: Path) -> None:
    before = snapshot(explainer)
    result = explained(explainer, "--dry-run")
    assert (result.code, result.err) == (0, "")
    assert snapshot(explainer) == before
    assert "Measure: 3 of 0_par_0000000\n  ('" in result.out
    assert "Both: 1 of 1\n" in result.out
    assert "Both: None of 1_par_0000000\n" in result.out
    assert result.out.rstrip().endswith(f"in {explainer}/run")
    assert "\x1b" not in result.out


@pytest.mark.parametrize("dry", [True, False])
def test_problems_that_the_backend_sees_in_the_whole_run_refuse_it(explainer: Path, dry: bool) -> None:
    more = ("--option", "dial=7", *(("--dry-run",) if dry else ()))
    result = explained(explainer, *more)
    assert result.code == 2
    assert "task 0 ('Measure'), parallel part: dial=7" in result.err
    assert "task 1 ('Both'), non-parallel part: dial=7" in result.err
    assert not (explainer / "run").exists()
