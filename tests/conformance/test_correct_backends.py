"""Backends that are right, of different kinds, pass the whole suite; pools do in `tests/engines`."""

from __future__ import annotations

import re
from concurrent.futures import Future

import pytest

from tests.helpers.checks import FOR_LIMITS, NOTHING_LEFT_OUT, Case, Check, check, must_conform
from tests.helpers.side_by_side import side_by_side

_SPOOL = "tests.conformance.correct.spool"


_FOR_CLUSTERS = frozenset({"ENV-002", "CAP-005", "CAP-006", "CAP-007", "CAP-008", "CAP-009"})
_ANOTHER_USER = {"slurm_user": "nobody", "slurm_account": "lab"}

_CASES = [
    Case("local", not_declared=_FOR_CLUSTERS | {"CAP-010"}),
    Case(
        "spool",
        f"{_SPOOL}:SpoolBackend",
        _ANOTHER_USER,
        not_declared=frozenset({"CAP-011"}),
        other=NOTHING_LEFT_OUT | {"CAP-004"},
    ),
    Case(
        "standard-only",
        "tests.conformance.correct.standard:StandardOnly",
        not_declared=_FOR_CLUSTERS | FOR_LIMITS | {"CAP-010"},
        other=frozenset({"IFACE-015"}),
    ),
    Case(
        "ending-spool",
        f"{_SPOOL}:EndingSpoolBackend",
        _ANOTHER_USER,
        not_declared=frozenset({"CAP-010"}),
        other=NOTHING_LEFT_OUT,
    ),
]
CASES = {case.name: case for case in _CASES}
_ONLY_WHEN_ASKED_FOR = {"ending-spool"}
"""SLURM and its double, also judged then, have to meet the same requirements."""


@pytest.fixture(scope="module")
def checks(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Future[Check]]:
    folder = tmp_path_factory.mktemp("correct")
    return side_by_side(request, "name", lambda name: check(CASES[name], folder / name))


@pytest.mark.long
@pytest.mark.timeout(1800)  # the first one waits for all checks
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.soak] if name in _ONLY_WHEN_ASKED_FOR else []) for name in CASES],
)
def test_it_passes(checks: dict[str, Future[Check]], name: str) -> None:
    case, found = CASES[name], checks[name].result()
    must_conform(case, found)
    if case.name == "standard-only":
        assert re.search(r"(?s)Judged in part\n.*no observers.*IFACE-007.*Not judged\n", found.printed)
