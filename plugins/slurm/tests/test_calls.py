"""What is made of commands that fail, or do not end."""

from __future__ import annotations

import os
import time
from contextlib import closing
from pathlib import Path

import pytest
from fractal_backends_slurm.calls import Call, SchedulerError

COMMUNICATION = [
    "sbatch: error: slurm_msg_sendto: address:port=127.0.0.1:6817: Unexpected missing socket error",
    "sbatch: error: Batch job submission failed: Unexpected missing socket error",
    "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)",
    "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation",
    "sbatch: error: Batch job submission failed: Zero Bytes were transmitted or received",
    "sbatch: error: Batch job submission failed: Message receive failure",
    "sbatch: error: Batch job submission failed: Transport endpoint is not connected",
    "sbatch: error: Batch job submission failed: No route to host",
    "sbatch: error: Batch job submission failed: Network is unreachable",
    "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit)",
]
REFUSALS = [
    "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified",
    "sbatch: error: invalid partition specified: nowhere",
    "sbatch: error: Batch job submission failed: Requested node configuration is not available",
    "sbatch: error: Batch job submission failed: Memory required by task is not available",
]


def call(folder: Path, script: str) -> Call:
    """A command of this name that does so."""
    program = folder / "sbatch"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return Call([str(program)], os.environ, b"given")


@pytest.mark.parametrize("message", COMMUNICATION + REFUSALS)
def test_what_may_pass(message: str, tmp_path: Path) -> None:
    """After what says nothing about the request it is made again; a refusal is final."""
    (tmp_path / "message").write_text(message)
    failing = call(tmp_path, f"cat '{tmp_path}/message' >&2; exit 1")
    with closing(failing), pytest.raises(SchedulerError) as error:
        failing.answer(10)
    assert error.value.may_pass == (message in COMMUNICATION)


def test_an_answer_larger_than_a_pipe(tmp_path: Path) -> None:
    with closing(call(tmp_path, "cat; head -c 1000000 /dev/zero | tr '\\0' x; echo warning >&2")) as calling:
        assert calling.answer(10) == "given" + 1_000_000 * "x"
        assert calling.errors == "warning"


def test_one_that_does_not_end_is_ended(tmp_path: Path) -> None:
    begun = time.monotonic()
    with closing(call(tmp_path, "exec sleep 60")) as hanging:
        assert not hanging.has_ended(0.05)
        with pytest.raises(SchedulerError, match="did not answer") as error:
            hanging.answer(0.05)
    assert error.value.may_pass
    assert time.monotonic() - begun < 30


def test_one_that_cannot_be_started(tmp_path: Path) -> None:
    with pytest.raises(SchedulerError, match="cannot be called"):
        Call([str(tmp_path / "squeue")], os.environ)


def test_one_that_sleeps_because_the_queue_is_full_is_ended(tmp_path: Path) -> None:
    """Also below a wrapper, such as sites have."""
    message = "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying"
    sleeping = call(tmp_path, f"echo '{message}' >&2; sleep 60; true")
    with closing(sleeping), pytest.raises(SchedulerError) as error:
        sleeping.answer(50)
    assert str(error.value) == "sbatch: Slurm temporarily unable to accept job"
    assert error.value.may_pass
