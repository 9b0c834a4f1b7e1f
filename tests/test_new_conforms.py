"""What `new` makes conforms, installed as its README says."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cli_helpers import cli, environment
from tests.helpers.processes import ROOT

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


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.skipif(UV is None, reason="uv is what makes environments quickly")
@pytest.mark.parametrize("kind", ["futures", "units", "full"])
def test_a_new_backend_conforms_as_it_stands(kind: str, tmp_path: Path) -> None:
    assert UV
    assert cli("new", "my-cluster", "--kind", kind, cwd=tmp_path).code == 0
    programs = tmp_path / "venv" / "bin"
    _succeeds(UV, "venv", tmp_path / "venv", cwd=tmp_path)
    install = (UV, "pip", "install", "--python", programs / "python")
    _succeeds(*install, "-e", ROOT, "-e", "./my-cluster[test]", cwd=tmp_path)
    _succeeds(programs / "pytest", "--basetemp", tmp_path / "files", cwd=tmp_path / "my-cluster")
    options = ("--options", "check.json") if kind == "full" else ()
    check = (programs / "fractal-backends", "check", "my-cluster", *options, "--badge", "badge.svg")
    _succeeds(*check, cwd=tmp_path / "my-cluster")
    assert (tmp_path / "my-cluster" / "badge.svg").exists()
