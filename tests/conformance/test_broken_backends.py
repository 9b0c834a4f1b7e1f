"""The suite itself is tested: each broken backend is caught, by the requirement that is named for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import pytest

from conftest import MARK
from fractal_backends.conformance.requirements import areas, requirements
from tests.conformance.broken import Defect, defects
from tests.conformance.broken.hygiene import SHARED_MEMORY
from tests.helpers.plugins import install, open_folder

DEFECTS = list(defects())
Checks = dict[str, tuple[int, str, list[str]]]


def check(defect: Defect, folder: Path) -> tuple[int, str, list[str]]:
    """The exit code, what was printed, and what failed."""
    folder.mkdir()
    env = install(folder / "installed", {defect.name: defect.entry_point})
    env.pop(MARK, None)  # checks go on from one test to the next
    found, options = folder / "report.json", folder / "options.json"
    options.write_text(json.dumps({"arguments": defect.arguments}))
    with open_folder() if "slurm_user" in defect.arguments else nullcontext(folder) as temporary:
        result = subprocess.run(
            [
                *(sys.executable, "-m", "fractal_backends.cli", "check", defect.name),
                *("--only", defect.requirement, "--json", str(found), "--deadline", "10"),
                *("--options", str(options)),
            ],
            env={**env, "TMPDIR": str(temporary)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    for path in SHARED_MEMORY.glob(f"{defect.name}-*"):
        path.unlink()
    report = json.loads(found.read_text()) if found.exists() else {"judgements": []}
    failed = [entry for entry in report["judgements"] if entry["verdict"] == "failed"]
    return result.returncode, result.stdout, [entry["requirement"]["id"] for entry in failed]


@pytest.fixture(scope="session")
def checks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checks:
    """All checks that are asked for, a few at a time: they wait more than they work."""
    folder = tmp_path_factory.mktemp("broken")
    params = [getattr(getattr(item, "callspec", None), "params", {}) for item in request.session.items]
    chosen = [found["defect"] for found in params if "defect" in found]
    with ThreadPoolExecutor((os.cpu_count() or 1) + 1) as pool:
        results = pool.map(lambda defect: check(defect, folder / defect.name), chosen)
        return dict(zip([defect.name for defect in chosen], results, strict=True))


@pytest.mark.long
@pytest.mark.timeout(900)  # the first one waits for all checks
@pytest.mark.parametrize("defect", DEFECTS, ids=[defect.name for defect in DEFECTS])
def test_it_is_caught(checks: Checks, defect: Defect) -> None:
    if "slurm_user" in defect.arguments and os.getuid() != 0:
        pytest.skip("only root can run units as another user")
    code, printed, failed = checks[defect.name]
    assert (code, failed) == (1, [defect.requirement]), printed


def test_there_are_enough_of_them() -> None:
    caught = Counter(defect.requirement for defect in DEFECTS)
    assert len(DEFECTS) >= 50
    assert set(caught) == set(requirements())
    for area in areas():
        assert sum(caught[requirement.id] for requirement in area.requirements) >= 4, area.name
