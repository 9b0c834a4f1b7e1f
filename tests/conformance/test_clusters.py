"""The backends for clusters pass the whole suite, on a real SLURM and on its double."""

from __future__ import annotations

from pathlib import Path

import pytest

from slurm_lab import Settings, SlurmLab
from tests.helpers.checks import FOR_LIMITS, NOTHING_LEFT_OUT, Case, check, must_conform

pytestmark = [pytest.mark.soak, pytest.mark.long, pytest.mark.timeout(3600)]

_ASKS_NODES_S = 120.0


def case(name: str, user: str) -> Case:
    """One of these backends."""
    return Case(
        name,
        arguments={"slurm_user": user, "slurm_account": "lab"},
        options={"poll_interval": 0.3, "receipt_deadline": 5},
        not_declared=FOR_LIMITS | {"CAP-011"},
        other=NOTHING_LEFT_OUT,
        needs_sudo=True,
        deadline_s=120,
    )


def test_dummy_slurm(tmp_path: Path) -> None:
    judged = case("dummy_slurm", "nobody")
    must_conform(judged, check(judged, tmp_path / "check"))


@pytest.mark.slurm(Settings(accounting=True))
def test_slurm(slurm_lab: SlurmLab, tmp_path: Path) -> None:
    judged = case("slurm", "user1")
    must_conform(judged, check(judged, tmp_path / "check"))
    # A job whose slurmstepd was killed runs on for SLURM until it asks the node for it.
    assert slurm_lab.leftovers_after(_ASKS_NODES_S) == []
