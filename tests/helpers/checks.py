"""Judges backends by the whole suite, as the command line does, and what must come out."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.helpers.plugins import install, open_folder

NOTHING_LEFT_OUT = frozenset({"CAP-002", "CAP-003"})
"""No argument is ignored, and none is refused."""
FOR_LIMITS = frozenset({"EXEC-008", "EXEC-020", "EXEC-021"})
"""What a backend without a limit of its own cannot be judged by."""


@dataclass(frozen=True)
class Case:
    """A backend, and the requirements that cannot be judged of it."""

    name: str
    entry_point: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    not_declared: frozenset[str] = frozenset()
    """Requirements of capabilities that it does not declare."""
    other: frozenset[str] = frozenset()
    """Requirements that need something else of a backend."""
    needs_sudo: bool = False
    """To be another user."""
    deadline_s: int = 60
    """For each test."""

    @property
    def can_be_another_user(self) -> bool:
        """Whether that can be tried here."""
        return os.getuid() == 0 and (not self.needs_sudo or shutil.which("sudo") is not None)


@dataclass(frozen=True)
class Check:
    """What came out of a check."""

    code: int
    printed: str
    not_passed: dict[str, list[str]]
    """The reasons, by requirement."""


def check(case: Case, folder: Path) -> Check:
    """Judge a backend by the whole suite."""
    folder.mkdir()
    env = install(folder / "installed", {case.name: case.entry_point} if case.entry_point else {})
    found, options = folder / "report.json", folder / "options.json"
    arguments = {k: v for k, v in case.arguments.items() if k != "slurm_user" or case.can_be_another_user}
    options.write_text(json.dumps({"arguments": arguments, "options": case.options}))
    with open_folder() as temporary:
        result = subprocess.run(
            [
                *(sys.executable, "-m", "fractal_backends.cli", "check", case.name),
                *("--json", str(found), "--options", str(options), "--deadline", str(case.deadline_s)),
            ],
            env={**env, "TMPDIR": str(temporary)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    judgements = json.loads(found.read_text())["judgements"] if found.exists() else []
    not_passed = {
        entry["requirement"]["id"]: entry["reasons"] for entry in judgements if entry["verdict"] != "passed"
    }
    return Check(result.returncode, result.stdout, not_passed)


def must_conform(case: Case, found: Check) -> None:
    """All that can be judged passed, and of the rest it is said why."""
    assert found.code == 0, found.printed
    untried = {"CAP-006"} if "slurm_user" in case.arguments and not case.can_be_another_user else set()
    assert set(found.not_passed) == case.not_declared | case.other | untried
    for name in case.not_declared:
        assert all(reason.endswith("is not declared") for reason in found.not_passed[name])
    for reasons in found.not_passed.values():
        assert reasons
        assert all(reason in found.printed for reason in reasons)
