"""The specification as data, and the policy for what is new in it."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fractal_backends.conformance.areas
from fractal_backends import StandardBackend
from fractal_backends.conformance.requirements import SUITE_VERSION, areas, capabilities, requirements
from fractal_backends.interface import OPTIONAL_ARGUMENTS
from tests.helpers.plugins import install

AREAS = Path(fractal_backends.conformance.areas.__path__[0])
NEW_REQUIREMENT = """
import dataclasses, sys
from fractal_backends.conformance import requirements as specification
specification.SUITE_VERSION = int(sys.argv.pop(1))
known = specification.requirements()
known["IFACE-004"] = dataclasses.replace(known["IFACE-004"], since=2)
from fractal_backends.cli import main
main()
"""


def named_in_tests() -> list[str]:
    found: list[str] = []
    for module in AREAS.glob("test_*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "requirement":
                (name,) = node.args
                assert isinstance(name, ast.Constant)
                found.append(str(name.value))
    return found


def test_every_requirement_has_a_test() -> None:
    assert not set(requirements()) - set(named_in_tests())


def test_every_test_names_a_requirement() -> None:
    assert not set(named_in_tests()) - set(requirements())


def test_a_test_without_a_requirement_is_refused(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text('def test_it():\n    """Does a thing."""\n')
    result = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "fractal_backends.conformance.session"),
            *("--backend", "local", "-p", "no:cacheprovider", str(tmp_path)),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == pytest.ExitCode.USAGE_ERROR
    assert "test_it does not name its requirement" in result.stdout + result.stderr


def test_ids_are_regular() -> None:
    for area in areas():
        prefixes = {requirement.id.partition("-")[0] for requirement in area.requirements}
        assert len(prefixes) == 1
        numbers = [int(requirement.id.partition("-")[2]) for requirement in area.requirements]
        assert numbers == list(range(1, len(numbers) + 1)), area.name
    assert sum(len(area.requirements) for area in areas()) == len(requirements())


@pytest.mark.parametrize("requirement", requirements().values(), ids=list(requirements()))
def test_requirements_are_complete(requirement: object) -> None:
    from fractal_backends.conformance.requirements import Requirement

    assert isinstance(requirement, Requirement)
    assert re.fullmatch(r"[A-Z]+-\d{3}", requirement.id)
    assert requirement.title
    assert re.search(r"\bMUST\b|\bmay\b|\bcounts\b", requirement.text)
    assert 1 <= requirement.since <= SUITE_VERSION
    assert requirement.capability is None or requirement.capability in capabilities()


def test_every_capability_is_tested() -> None:
    tested = {requirement.capability for requirement in requirements().values()} - {None}
    assert tested == set(capabilities())


def test_every_optional_argument_is_a_capability() -> None:
    asked_by = {capability.argument for capability in capabilities().values()} - {None}
    assert asked_by == set(OPTIONAL_ARGUMENTS)
    assert set(OPTIONAL_ARGUMENTS) <= set(StandardBackend.process_workflow.__annotations__)


@pytest.mark.parametrize(
    ("suite_version", "code", "verdict"),
    [(2, 0, "warning"), (3, 1, "failed")],
    ids=["new", "a version later"],
)
def test_a_new_requirement_warns_for_one_version(
    tmp_path: Path, suite_version: int, code: int, verdict: str
) -> None:
    found = tmp_path / "report.json"
    entry_point = "tests.conformance.broken.interface:InternalKeyInTheResult"
    result = subprocess.run(
        [
            *(sys.executable, "-c", NEW_REQUIREMENT, str(suite_version), "check", "broken"),
            *("--only", "IFACE-001,IFACE-004", "--json", str(found)),
        ],
        env={**install(tmp_path / "installed", {"broken": entry_point}), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == code, result.stdout + result.stderr
    report = json.loads(found.read_text())
    verdicts = {entry["requirement"]["id"]: entry["verdict"] for entry in report["judgements"]}
    assert verdicts["IFACE-004"] == verdict
    assert report["suite_version"] == suite_version
