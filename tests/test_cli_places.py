"""`run` with the arguments that not every backend can serve: folders, users, accounts, lines of shell."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.cli_helpers import Result, cli, install, read_json, snapshot, write_json
from tests.helpers.plugins import open_folder
from tests.helpers.workflows import dataset, non_parallel, parallel

REPORT = """#!/bin/sh
id -un
echo "$SLURM_JOB_ACCOUNT|$GREETING|$FRACTAL_CACHE_DIR"
pwd
"""
LINES = 'GREETING="hello there"\nexport GREETING\n'


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that other users may use too, with a workflow whose unit says where and as whom it runs."""
    with open_folder() as path:
        path.chmod(0o1777)
        program = path / "report.sh"
        program.write_text(REPORT)
        program.chmod(0o755)
        task = parallel(task={"command_parallel": str(program)})
        write_json(path / "workflow.json", {"task_list": [task]})
        write_json(path / "dataset.json", dataset(["a"]))
        (path / "lines.sh").write_text(LINES)
        yield path


def run(folder: Path, backend: str, *more: str | Path) -> Result:
    given = ("--dataset", "dataset.json", "--run-dir", "run", "--backend", backend, *more)
    return cli("run", "workflow.json", *given, cwd=folder, DUMMY_SLURM_DIR=folder / "cluster")


def on_a_cluster(folder: Path, *more: str | Path) -> Result:
    return run(folder, "dummy_slurm", "--option", "poll_interval=0.3", *more)


def reported(folder: Path) -> list[str]:
    """What the unit said: its user, then account, greeting and cache folder, then its working folder."""
    (log,) = (folder / "run").glob("0_*/*.log")
    return log.read_text().splitlines()


@pytest.mark.parametrize("lines", [LINES, "@lines.sh"], ids=["lines", "a file"])
def test_a_cluster_gets_all_of_them(folder: Path, lines: str) -> None:
    """Folders may be relative."""
    places = ("--remote-dir", "remote", "--cache-dir", "cache")
    result = on_a_cluster(folder, *places, "--slurm-account", "lab", "--worker-init", lines)
    assert result.code == 0, result.err
    _, values, working_folder = reported(folder)
    assert values == f"lab|hello there|{folder}/cache"
    assert working_folder == f"{folder}/remote"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may run jobs as others")
def test_units_run_as_the_user_that_is_named(folder: Path) -> None:
    result = on_a_cluster(folder, "--slurm-user", "nobody", "--remote-dir", folder / "remote")
    assert result.code == 0, result.err
    assert reported(folder)[0] == (folder / "remote").owner() == "nobody"


def test_a_dry_run_shows_what_they_change(folder: Path) -> None:
    before = snapshot(folder)
    more = ("--slurm-account", "lab", "--remote-dir", "remote", "--worker-init", "@lines.sh")
    result = on_a_cluster(folder, *more, "--dry-run")
    assert (result.code, result.err) == (0, "")
    assert LINES in result.out
    assert re.search(r"--account=lab\b", result.out)
    assert f"{folder}/remote" in result.out
    assert snapshot(folder) == before


@pytest.mark.parametrize("dry", [True, False])
@pytest.mark.parametrize(
    ("backend", "argument", "value", "reason"),
    [
        ("local", "--remote-dir", "remote", "Local backend does not support different directories"),
        ("dummy_slurm", "--slurm-user", "no-such-user", "this machine knows no user 'no-such-user'"),
        ("dummy_slurm", "--slurm-account", "a b", "'a b' is not the name of an account"),
        ("dummy_slurm", "--worker-init", "@missing.sh", "Cannot read missing.sh: No such file"),
        ("local", "--worker-init", "@binary", "binary is not a text file in UTF-8"),
    ],
)
def test_what_cannot_be_is_wrong_input(
    folder: Path, backend: str, argument: str, value: str, reason: str, dry: bool
) -> None:
    (folder / "binary").write_bytes(b"\xff\xfe")
    result = run(folder, backend, argument, value, *(["--dry-run"] if dry else []))
    assert result.code == 2
    assert result.err.startswith("Error: ")
    assert reason in result.err
    assert "Traceback" not in result.err
    assert not (folder / "run").exists()


@pytest.mark.parametrize("dry", [True, False])
def test_what_a_backend_ignores_changes_nothing(folder: Path, dry: bool) -> None:
    ignored = ("--slurm-user", "no-such-user", "--slurm-account", "lab", "--worker-init", "exit 3")
    result = run(folder, "local", *ignored, "--cache-dir", "cache", *(["--dry-run"] if dry else []))
    assert result.code == 0, result.err
    if not dry:
        assert reported(folder)[1] == f"||{folder}/cache"


GIVEN = """
    import json

    class Given:
        interface_version = 1

        async def process_workflow(self, *, workflow, dataset, workflow_dir_local, logger_name, **more):
            if "slurm_account" in more:
                raise NotImplementedError("no accounts here")
            workflow_dir_local.mkdir()
            (workflow_dir_local / "given.json").write_text(json.dumps(more, default=repr))
            return {"history": [], "filters": {"types": {}, "attributes": {}}, "images": []}
"""


# Root may enter every folder by these rights only, and its Python may be closed to all other users.
NO_RIGHTS = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", sys.executable)


def run_given(folder: Path, *more: str, before: Sequence[str] = ()) -> Result:
    install(folder / "site", "given", {"given": "given:Given"}, given=GIVEN)
    write_json(folder / "workflow.json", {"task_list": [non_parallel()]})
    more = ("--backend", "given", "--run-dir", "run", *more)
    return cli("run", "workflow.json", *more, cwd=folder, before=before, PYTHONPATH=folder / "site")


def test_a_backend_without_our_base_class_may_refuse_what_was_given(tmp_path: Path) -> None:
    result = run_given(tmp_path, "--slurm-account", "lab")
    assert (result.code, result.err) == (2, "Error: no accounts here\n")


def test_a_backend_without_our_base_class_gets_what_was_given(tmp_path: Path) -> None:
    result = run_given(tmp_path, "--slurm-user", "ann", "--remote-dir", "remote")
    assert result.code == 0, result.err
    assert read_json(tmp_path / "run" / "given.json") == {
        "first_task_index": None,
        "last_task_index": None,
        "slurm_user": "ann",
        "workflow_dir_remote": f"PosixPath('{tmp_path}/remote')",
    }


@pytest.mark.parametrize(
    ("option", "argument"), [("--remote-dir", "workflow_dir_remote"), ("--cache-dir", "user_cache_dir")]
)
def test_a_folder_may_be_closed_to_who_gives_it(folder: Path, option: str, argument: str) -> None:
    closed = folder / "closed"
    closed.mkdir(0o000)
    result = run_given(folder, option, str(closed), before=NO_RIGHTS if os.geteuid() == 0 else ())
    closed.chmod(0o700)
    assert result.code == 0, result.err
    assert str(closed) in read_json(folder / "run" / "given.json")[argument]
