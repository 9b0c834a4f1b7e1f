"""What `new` makes conforms, installed as its README says."""

from __future__ import annotations

import os
import shutil
import subprocess
from concurrent.futures import Future
from pathlib import Path

import pytest

from tests.cli_helpers import cli, environment
from tests.helpers.processes import ROOT
from tests.helpers.side_by_side import side_by_side

UV = os.environ.get("UV") or shutil.which("uv")
DEADLINE_S = 540


def _succeeds(*command: str | Path, cwd: Path) -> None:
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def make_and_check(kind: str, folder: Path) -> None:
    """As the README of what was made says."""
    assert UV
    folder.mkdir()
    assert cli("new", "my-cluster", "--kind", kind, cwd=folder).code == 0
    made, programs = folder / "my-cluster", folder / "venv" / "bin"
    _succeeds(UV, "venv", folder / "venv", cwd=folder)
    install = (UV, "pip", "install", "--python", programs / "python")
    _succeeds(*install, "-e", ROOT, "-e", "./my-cluster[test]", cwd=folder)
    _succeeds(programs / "pytest", "--basetemp", folder / "files", cwd=made)
    options = ("--options", "check.json") if kind == "full" else ()
    check = (programs / "fractal-backends", "check", "my-cluster", *options, "--badge", "badge.svg")
    _succeeds(*check, cwd=made)
    assert (made / "badge.svg").exists()


@pytest.fixture(scope="module")
def checks(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Future[None]]:
    folder = tmp_path_factory.mktemp("new")
    return side_by_side(request, "kind", lambda kind: make_and_check(kind, folder / kind))


@pytest.mark.soak
@pytest.mark.long
@pytest.mark.timeout(1800)  # the first one waits for all checks
@pytest.mark.skipif(UV is None, reason="uv is what makes environments quickly")
@pytest.mark.parametrize("kind", ["futures", "units", "full"])
def test_a_new_backend_conforms_as_it_stands(checks: dict[str, Future[None]], kind: str) -> None:
    checks[kind].result()
