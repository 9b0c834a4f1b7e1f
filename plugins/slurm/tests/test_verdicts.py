"""Verdicts on what is too rare to be made to happen."""

from __future__ import annotations

from fractal_backends_slurm.receipts import Note
from fractal_backends_slurm.scheduler import JobState
from fractal_backends_slurm.verdicts import of_step_and_state

from fractal_backends import Cause

WORDS = "slurmstepd: error: *** STEP 4.1 ON n1 CANCELLED AT 2026-01-01T00:00:00 ***"


def test_a_step_is_cancelled_before_its_unit_starts() -> None:
    note = Note(step=143, host="n1")
    of_job = of_step_and_state(note, JobState("CANCELLED", "None", "n1", cancelled_by=0), WORDS)
    of_itself = of_step_and_state(note, JobState("RUNNING", "None", "n1"), WORDS)
    assert {of_job.cause, of_itself.cause} == {Cause.CANCELLED}
    assert "It was not started: SLURM says CANCELLED by root" in of_job.info
