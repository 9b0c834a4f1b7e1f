"""Backends that are right, of different kinds, pass the whole suite; pools do in `tests/engines`."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.plugins import install, open_folder
from tests.helpers.side_by_side import side_by_side

_SPOOL = "tests.conformance.correct.spool"


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


_FOR_CLUSTERS = frozenset({"ENV-002", "CAP-005", "CAP-006", "CAP-007", "CAP-008", "CAP-009"})
_NOTHING_LEFT_OUT = frozenset({"CAP-002", "CAP-003"})
"""No argument is ignored, and none is refused."""
_FOR_LIMITS = frozenset({"EXEC-008", "EXEC-020", "EXEC-021"})
_ANOTHER_USER = {"slurm_user": "nobody", "slurm_account": "lab"}

_CASES = [
    Case("local", not_declared=_FOR_CLUSTERS | {"CAP-010"}),
    Case(
        "spool",
        f"{_SPOOL}:SpoolBackend",
        _ANOTHER_USER,
        not_declared=frozenset({"CAP-011"}),
        other=_NOTHING_LEFT_OUT | {"CAP-004"},
    ),
    Case(
        "standard-only",
        "tests.conformance.correct.standard:StandardOnly",
        not_declared=_FOR_CLUSTERS | _FOR_LIMITS | {"CAP-010"},
        other=frozenset({"IFACE-015"}),
    ),
    Case(
        "ending-spool",
        f"{_SPOOL}:EndingSpoolBackend",
        _ANOTHER_USER,
        not_declared=frozenset({"CAP-010"}),
        other=_NOTHING_LEFT_OUT,
    ),
    Case(
        "dummy_slurm",
        arguments=_ANOTHER_USER,
        options={"poll_interval": 0.3, "receipt_deadline": 5},
        not_declared=_FOR_LIMITS | {"CAP-011"},
        other=_NOTHING_LEFT_OUT,
        needs_sudo=True,
        deadline_s=120,
    ),
]
CASES = {case.name: case for case in _CASES}


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


@pytest.fixture(scope="module")
def checks(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Future[Check]]:
    folder = tmp_path_factory.mktemp("correct")
    return side_by_side(request, "name", lambda name: check(CASES[name], folder / name))


@pytest.mark.long
@pytest.mark.timeout(3000)  # the first one waits for all checks
@pytest.mark.parametrize("name", CASES)
def test_it_passes(checks: dict[str, Future[Check]], name: str) -> None:
    case, found = CASES[name], checks[name].result()
    assert found.code == 0, found.printed
    untried = {"CAP-006"} if "slurm_user" in case.arguments and not case.can_be_another_user else set()
    assert set(found.not_passed) == case.not_declared | case.other | untried
    for name in case.not_declared:
        assert all(reason.endswith("is not declared") for reason in found.not_passed[name])
    for reasons in found.not_passed.values():
        assert reasons
        assert all(reason in found.printed for reason in reasons)
    if case.name == "standard-only":
        assert re.search(r"(?s)Judged in part\n.*no observers.*IFACE-007.*Not judged\n", found.printed)
