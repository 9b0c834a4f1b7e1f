"""What is made of commands that fail, or do not end."""

from __future__ import annotations

import os
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest
from fractal_backends_slurm.calls import Call, SchedulerError
from fractal_backends_slurm.records import Records
from fractal_backends_slurm.scheduler import JobState, Scheduler

from conftest import eventually

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
    "sbatch: error: Batch job submission failed: Protocol authentication error",
    "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit)",
    "sbatch: error: AssocMaxSubmitJobLimit\n"
    "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (user's limits)",
]
REFUSALS = [
    "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified",
    "sbatch: error: invalid partition specified: nowhere",
    "sbatch: error: Batch job submission failed: Requested node configuration is not available",
    "sbatch: error: Batch job submission failed: Memory required by task is not available",
    "sbatch: error: Too many GPUs: choose less and try again\n"
    "sbatch: error: Batch job submission failed: Unspecified error",
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


@pytest.mark.parametrize("how", ["kill -s TERM $$", "exit 143"])
def test_one_that_was_killed_may_have_done_it(how: str, tmp_path: Path) -> None:
    """Also below a wrapper, such as sites have."""
    with closing(call(tmp_path, how)) as killed, pytest.raises(SchedulerError) as error:
        killed.answer(10)
    assert error.value.may_pass


def test_options_that_it_does_not_know(tmp_path: Path) -> None:
    failing = call(tmp_path, "echo \"sbatch: unrecognized option '--nope'\" >&2; exit 255")
    with closing(failing), pytest.raises(SchedulerError) as error:
        failing.answer(10)
    assert str(error.value) == "sbatch: unrecognized option '--nope'"
    assert not error.value.may_pass


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


def on_record(commands: Path) -> dict[int, JobState]:
    """What these commands tell of a job, sooner or later."""
    found: list[dict[int, JobState]] = []

    def is_known() -> bool:
        with suppress(SchedulerError):
            found.append(records.of("7", "name", 0))
        return bool(found)

    with closing(Records(Scheduler(commands))) as records:
        assert eventually(is_known)
    return found[0]


SINGLE, SOME = (
    "7_4|name|COMPLETED|0:0|n1|None",
    "7_[2-8:2,20,30-31%5]|name|CANCELLED by 0|0:0|None assigned|None",
)


@pytest.mark.parametrize("rows", [(SINGLE, SOME), (SOME, SINGLE)])
def test_array_tasks_that_never_had_a_job_of_their_own_share_a_row(
    tmp_path: Path, rows: tuple[str, str]
) -> None:
    text = "\n".join([*rows, "7_[40-41]|name|PENDING|0:0|None assigned|None"])
    for name, script in {"sacct": f"cat <<'END'\n{text}\nEND", "scontrol": "exit 1"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    found = on_record(tmp_path)
    assert {index: state.state for index, state in found.items()} == {
        **dict.fromkeys((2, 6, 8, 20, 30, 31), "CANCELLED"),
        4: "COMPLETED",
    }
    assert found[20].cancelled_by == 0


def test_an_answer_of_accounting_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    """A site's wrapper may say something of its own."""
    job = "JobId=7 ArrayJobId=7 ArrayTaskId=4 JobName=name JobState=FAILED"
    for name, said in {"sacct": f"Maintenance on Monday\n{SINGLE}", "scontrol": job}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\ncat <<'END'\n{said}\nEND\n")
        (tmp_path / name).chmod(0o755)
    assert {index: state.state for index, state in on_record(tmp_path).items()} == {4: "FAILED"}
