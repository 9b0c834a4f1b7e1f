"""What the tests share in which parts of a real SLURM fail."""

from __future__ import annotations

from conftest import eventually
from slurm_lab import Settings
from tests.helpers.slurm_runs import SlurmRun

QUICK = Settings(slurmd_timeout_s=5, message_timeout_s=5)
WITH_ACCOUNTS = Settings(accounting=True, message_timeout_s=5)
ONE_EACH = {"tasks_per_job": 1}
GATED = "wait_for gate"


def must_be_told_started(run: SlurmRun, *names: str) -> None:
    """Wait until the backend says so."""
    assert eventually(lambda: all(map(run.told_started, names)), 30), run.story()
