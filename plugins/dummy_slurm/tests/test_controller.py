"""Odd commands, odd processes and odd instants: the controller goes on, and so do the jobs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from fractal_backends_dummy_slurm import Lease
from fractal_backends_dummy_slurm.cluster.client import connect

from conftest import eventually

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_ALL = "--noheader", "--states=all", "--format=%i %T"


class OneCluster:
    """As its commands and its processes show it; its jobs write into `place`."""

    def __init__(self, lease: Lease, place: Path) -> None:
        self.lease = lease
        self.folder = lease.folder
        self.place = place

    def call(self, command: str, *words: str, script: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command of SLURM's."""
        return subprocess.run(
            [self.lease.commands / command, *words],
            input=script,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            check=False,
            cwd=self.place,
        )

    def text(self, command: str, *words: str, script: str = "") -> str:
        """What a command that must succeed prints."""
        answer = self.call(command, *words, script=script)
        assert answer.returncode == 0, answer.stderr
        return answer.stdout.strip()

    def submit(self, script: str, *options: str) -> str:
        """The id of a job that must be accepted."""
        options = ("--parsable", "--output=%j.out", *options)
        return self.text("sbatch", *options, script=f"#!/bin/sh\n{script}\n")

    def output(self, job: str) -> str:
        """What it wrote."""
        return (self.place / f"{job}.out").read_text(errors="surrogateescape")

    def state(self, job: str) -> str:
        """Of a job; nothing if there is no record of it."""
        answer = self.call("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T")
        return answer.stdout.strip()

    def wait_for(self, job: str, state: str) -> None:
        """Until it is in it."""
        assert eventually(lambda: self.state(job) == state, 20), self.state(job)

    def state_of_node(self, name: str) -> str:
        """As sinfo has it."""
        lines = self.text("sinfo", "--noheader", "--Node", "--partition=main", "--format=%N %T").splitlines()
        return dict(line.split() for line in lines)[name]

    def fault(self, kind: str, **values: Any) -> None:
        """Let it happen now."""
        self.text("dummyctl", "fault", json.dumps({"fault": kind, **values}))

    def log(self) -> str:
        """The controller's."""
        return (self.folder / "log").read_text()

    def pid(self) -> int:
        """The controller's."""
        line = self.log().split(" is up;")[-2]
        return int(line.split()[-1])

    def kill_controller(self) -> None:
        """The lease starts another one."""
        before = self.pid()
        os.kill(before, signal.SIGKILL)
        assert eventually(lambda: self.pid() != before, 20)


Start = Callable[..., AbstractContextManager[OneCluster]]


@pytest.fixture
def used() -> Callable[[int], float]:
    """Seconds of a processor that a process has used; 0 if it is gone."""

    def seconds(pid: int) -> float:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) * _TICK_S
        return 0.0

    return seconds


@pytest.fixture
def start_cluster(tmp_path: Path) -> Start:
    """Starts one, always in the same folder, with settings; what it is left with is ended."""

    @contextmanager
    def start(**settings: Any) -> Iterator[OneCluster]:
        with Lease(tmp_path / "cluster", settings) as lease:
            cluster = OneCluster(lease, tmp_path)
            yield cluster
            cluster.call("scancel", "--me")
        if (tmp_path / "cluster" / "controller").exists():
            cluster.call("dummyctl", "stop")

    return start


@pytest.fixture
def cluster(
    start_cluster: Start,
) -> Iterator[OneCluster]:
    """One with no settings."""
    with start_cluster() as cluster:
        yield cluster


def test_a_command_that_goes_wrong_ends_alone(cluster: OneCluster) -> None:
    controller = cluster.pid()
    answer = cluster.call("squeue", f"--format=%{'9' * 5000}i")
    assert answer.returncode == 1
    assert answer.stderr.startswith(
        f"squeue: error of the dummy cluster, told in {cluster.folder}/log: Value"
    )
    assert "Traceback" in cluster.log()
    assert cluster.text("squeue", "--noheader") == ""
    assert cluster.pid() == controller


def test_a_place_that_is_not_utf8(cluster: OneCluster) -> None:
    job = cluster.submit("srun --overlap --nope; pwd", "--chdir=/nowhere/caf\udce9")
    cluster.wait_for(job, "FAILED")
    (cluster.place / "caf\udce9").mkdir()
    job = cluster.submit("srun --no\udce9; pwd", f"--chdir={cluster.place}/caf\udce9", "--output=../%j.out")
    cluster.wait_for(job, "COMPLETED")
    *said, place = cluster.output(job).splitlines()
    assert said[0] == "srun: unrecognized option '--no\udce9'"
    assert place == f"{cluster.place}/caf\udce9"


def test_a_signal_that_there_is_none_leaves_the_job(cluster: OneCluster) -> None:
    job = cluster.submit("until [ -e go ]; do sleep 0.1; done")
    cluster.wait_for(job, "RUNNING")
    for number in ("999", "65", "-1"):
        cluster.text("scancel", "-s", number, job)
    (cluster.place / "go").touch()
    cluster.wait_for(job, "COMPLETED")


def test_steps_have_no_files_of_other_steps(cluster: OneCluster) -> None:
    """More of them than a shell has files for itself."""
    script = """\
srun --exact --ntasks=1 --cpus-per-task=8 sh -c 'touch blocks; until [ -e go ]; do sleep 0.1; done' &
until [ -e blocks ]; do sleep 0.1; done
for number in $(seq 20); do
  srun --exact --ntasks=1 --cpus-per-task=1 sh -c "echo /proc/self/fd/* >files-$number" 2>said-$number &
done
wait"""
    job = cluster.submit(script, "--cpus-per-task=8")
    said = [cluster.place / f"said-{number}" for number in range(1, 21)]
    assert eventually(lambda: all(path.exists() and path.read_text() for path in said), 30)
    (cluster.place / "go").touch()
    cluster.wait_for(job, "COMPLETED")
    files = {(cluster.place / f"files-{number}").read_text() for number in range(1, 21)}
    assert all(int(path.rpartition("/")[2]) < 4 for line in files for path in line.split()), files


def test_an_srun_that_is_killed_as_it_begins_is_no_controller(cluster: OneCluster) -> None:
    job = cluster.submit("until [ -e go ]; do sleep 0.1; done; srun --overlap echo step")
    cluster.wait_for(job, "RUNNING")
    (spool,) = (cluster.folder / "spool").iterdir()
    for _ in range(3):
        connect(str(spool / "stepd")).close()
    (cluster.place / "go").touch()
    cluster.wait_for(job, "COMPLETED")
    assert cluster.output(job) == "step\n"


def test_a_journal_whose_last_line_was_cut(start_cluster: Start) -> None:
    for _ in range(3):
        with start_cluster(keep=True) as cluster:
            job = cluster.submit("true")
            cluster.wait_for(job, "COMPLETED")
            jobs = cluster.text("squeue", *_ALL).splitlines()
        with (cluster.folder / "journal").open("a") as journal:
            journal.write('{"t":1,"submission":{"id":')
    assert len(jobs) == 3


def test_late_receipts_can_be_made_to_come_with_the_next_job(cluster: OneCluster) -> None:
    cluster.fault("late_receipts", seconds=0.2)
    job = cluster.submit("echo written >>job.receipt", "--output=job.out")
    cluster.wait_for(job, "COMPLETED")
    assert eventually(lambda: f"late_receipts {{'seconds': 0.2}} befalls {job}" in cluster.log())
    receipt = cluster.place / "job.receipt"  # a link that leads nowhere until then
    assert eventually(lambda: receipt.is_file() and receipt.read_text() == "written\n")
    assert "arrives" in cluster.log()


def test_a_fault_that_finds_its_job_ended_comes_with_the_next_one(start_cluster: Start) -> None:
    plan = {"plan": [{"fault": "time_limit", "nth": 1, "after_s": 1}]}
    missed = "fault: time_limit finds its job ended"
    with start_cluster(faults=plan, kill_wait_s=0) as cluster:
        cluster.wait_for(cluster.submit("true"), "COMPLETED")
        assert eventually(lambda: missed in cluster.log())
        cluster.wait_for(cluster.submit("exec sleep 60"), "TIMEOUT")
        cluster.wait_for(cluster.submit("exec sleep 1.5"), "COMPLETED")
        assert cluster.log().count("fault: time_limit") == 2


def test_a_job_whose_process_id_was_not_noted(cluster: OneCluster) -> None:
    job = cluster.submit("exec sleep 60")
    cluster.wait_for(job, "RUNNING")
    (spool,) = (cluster.folder / "spool").iterdir()
    (spool / "pid").unlink()
    cluster.kill_controller()
    assert cluster.state(job) == "RUNNING"
    cluster.text("scancel", job)
    cluster.wait_for(job, "CANCELLED")


def test_a_node_comes_back_also_after_a_restart(cluster: OneCluster) -> None:
    job = cluster.submit("exec sleep 60", "--no-requeue")
    cluster.wait_for(job, "RUNNING")
    cluster.fault("node_down", back_s=2)
    assert eventually(lambda: cluster.state_of_node("n1") == "down")
    cluster.kill_controller()
    assert eventually(lambda: cluster.state_of_node("n1") == "idle")


def test_a_node_that_a_person_set_down_stays_down(cluster: OneCluster) -> None:
    first = cluster.submit("exec sleep 60", "--no-requeue", "--nodelist=n1")
    cluster.wait_for(first, "RUNNING")
    cluster.fault("node_down", back_s=1)
    assert eventually(lambda: cluster.state_of_node("n1") == "down")
    cluster.text("scontrol", "update", "nodename=n1", "state=down", "reason=test")
    second = cluster.submit("exec sleep 60", "--no-requeue", "--nodelist=n2")
    cluster.wait_for(second, "RUNNING")
    cluster.fault("node_down", back_s=1.5)
    assert eventually(lambda: cluster.state_of_node("n2") == "down")
    assert eventually(lambda: cluster.state_of_node("n2") == "idle")
    assert cluster.state_of_node("n1") == "down"


def test_a_job_that_vanished_has_no_time_limit(start_cluster: Start) -> None:
    with start_cluster(minute_s=1.5, kill_wait_s=0, users={"*": {"max_jobs": 5}}, keep=True) as cluster:
        controller = cluster.pid()
        vanished = cluster.submit("exec sleep 4", "--time=1")
        cluster.wait_for(vanished, "RUNNING")
        cluster.fault("vanish", processes="live")
        assert eventually(lambda: cluster.state(vanished) == "")
        later = cluster.submit("exec sleep 60", "--time=1")
        cluster.wait_for(later, "TIMEOUT")
        cluster.wait_for(cluster.submit("true"), "COMPLETED")
        assert cluster.pid() == controller
    entries = map(json.loads, (cluster.folder / "journal").read_text().splitlines())
    jobs = [entry["job"] for entry in entries if "job" in entry]
    assert {job["id"] for job in jobs if job.get("state") == "TIMEOUT"} == {int(later)}


def test_a_job_that_was_requeued_is_not_forgotten_early(start_cluster: Start) -> None:
    with start_cluster(min_job_age_s=3, requeue_delay_s=2) as cluster:
        again = cluster.submit("true", "--requeue")
        cluster.wait_for(again, "COMPLETED")
        other = cluster.submit("true")
        cluster.wait_for(other, "COMPLETED")
        cluster.text("scontrol", "requeue", again)
        assert eventually(lambda: cluster.state(other) == "", 20)
        assert cluster.state(again) == "COMPLETED"


def test_ids_are_not_given_twice(start_cluster: Start) -> None:
    with start_cluster(first_job_id=100, min_job_age_s=0) as cluster:
        ids = [cluster.submit("true") for _ in range(3)]
        assert eventually(lambda: cluster.text("squeue", *_ALL) == "")
        cluster.kill_controller()
        assert [*ids, cluster.submit("true")] == ["100", "101", "102", "103"]


def test_an_array_that_was_cancelled_is_forgotten_also_after_a_restart(start_cluster: Start) -> None:
    with start_cluster(min_job_age_s=2) as cluster:
        array = cluster.submit("true", "--hold", "--array=0-3")
        cluster.text("scancel", array)
        assert cluster.state(array) == "CANCELLED"
        cluster.kill_controller()
        assert eventually(lambda: cluster.call("scontrol", "show", "job", array).returncode == 1)


def test_a_large_array_is_cancelled_at_once(start_cluster: Start, used: Callable[[int], float]) -> None:
    with start_cluster(max_array_size=20_001, max_job_count=20_001) as cluster:
        array = cluster.submit("true", "--hold", "--array=0-19999")
        before = used(cluster.pid())
        cluster.text("scancel", array)
        assert used(cluster.pid()) - before < 1
        assert cluster.state(array) == "CANCELLED"


def test_a_cluster_that_waits_for_jobs_to_end_does_nothing(
    start_cluster: Start, used: Callable[[int], float]
) -> None:
    with start_cluster(kill_wait_s=3) as cluster:
        job = cluster.submit("trap '' TERM; echo ready; while :; do sleep 0.5; done")
        assert eventually(lambda: (cluster.place / f"{job}.out").exists() and "ready" in cluster.output(job))
        controller = cluster.pid()
        before = last = used(controller)
        cluster.text("dummyctl", "stop")
        while os.path.exists(f"/proc/{controller}"):
            last = max(last, used(controller))
            time.sleep(0.02)
        assert last - before < 1
