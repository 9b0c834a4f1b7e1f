"""Keys of a task's meta that the backend does not read: slips are told, what is of other backends is not."""

from __future__ import annotations

from pathlib import Path

import pytest
from fractal_backends_local.config import LocalBackendConfig
from fractal_backends_slurm.options import SlurmOptions

from fractal_backends import Options, Source
from fractal_backends.options import foreign_keys
from tests.cli_helpers import Result, cli, snapshot, write_json
from tests.helpers.workflows import Json, compound, dataset, parallel

SLIPS = {"cpus_per_taks": 4, "Mem": 100, "partition": "long"}
TOLD = [
    "task 0 ('slip'): the meta's key 'cpus_per_taks' is no option of this backend, and ignored;"
    " did you mean cpus_per_task?",
    "task 0 ('slip'): the meta's key 'Mem' is no option of this backend, and ignored; did you mean mem?",
]


def run(folder: Path, task: Json, *more: str) -> Result:
    task["task"]["name"] = "slip"
    write_json(folder / "workflow.json", {"task_list": [task]})
    write_json(folder / "dataset.json", dataset(["a"]))
    given = ("--dataset", "dataset.json", "--run-dir", "run", *more)
    return cli("run", "workflow.json", *given, cwd=folder)


@pytest.mark.parametrize("kind", ["parallel", "compound"])
def test_a_run_tells_of_slips_once(tmp_path: Path, kind: str) -> None:
    task = parallel() if kind == "parallel" else {**compound(["a"]), "meta_non_parallel": SLIPS}
    result = run(tmp_path, {**task, "meta_parallel": SLIPS})
    assert result.code == 0, result.err
    log = (tmp_path / "run" / "workflow.log").read_text()
    for text in TOLD:
        assert result.err.count(f"Warning: {text}\n") == 1
        assert log.count(f" WARNING {text}\n") == 1
    assert "partition" not in result.err + log


def test_slips_are_told_with_what_else_is_wrong(tmp_path: Path) -> None:
    result = run(tmp_path, {**parallel(), "meta_parallel": {**SLIPS, "cpus_per_task": 0}})
    assert result.code == 2
    told = [line.strip() for line in result.err.splitlines()]
    assert [line for line in told if "did you mean" in line] == TOLD
    assert any("meta_parallel: cpus_per_task: " in line for line in told), told


def test_a_dry_run_shows_what_was_probably_meant(tmp_path: Path) -> None:
    result = run(tmp_path, {**parallel(), "meta_parallel": SLIPS}, "--dry-run")
    assert (result.code, result.err) == (0, "")
    for cell in ("cpus_per_taks (did you mean cpus_per_task?)", "Mem (did you mean mem?)", "partition"):
        assert cell in " ".join(result.out.split())
    assert "run" not in snapshot(tmp_path)


def test_the_meta_of_a_part_that_a_task_lacks_is_not_looked_at(tmp_path: Path) -> None:
    task = {**parallel(), "meta_parallel": {"Partition": "x"}}
    result = run(tmp_path, task)
    assert result.code == 0, result.err
    assert "Warning" not in result.err
    assert " WARNING " not in (tmp_path / "run" / "workflow.log").read_text()


def probably_meant(model: type[Options], *keys: str) -> dict[str, str | None]:
    return foreign_keys(model, [Source("a meta", dict.fromkeys(keys, 1), shared=True)])


def test_options_of_another_backend_are_no_slips() -> None:
    for model, other in ((LocalBackendConfig, SlurmOptions), (SlurmOptions, LocalBackendConfig)):
        assert not any(probably_meant(model, *other.model_fields).values())


@pytest.mark.parametrize(
    "slip", ["Cpus_Per_Task", "cpus-per-task", "cpuspertask", "cpus_per_taks", "cpu_per_task"]
)
def test_slips(slip: str) -> None:
    assert probably_meant(SlurmOptions, slip, "color") == {slip: "cpus_per_task", "color": None}
