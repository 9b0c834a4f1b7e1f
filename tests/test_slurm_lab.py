"""The SLURM that others are tested with: that it does what it says, and leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest

from conftest import eventually
from slurm_lab import RUNNER, USERS, MemoryKill, Settings, SlurmLab, machine, why_not
from slurm_lab.fixtures import Labs
from slurm_lab.lab import LabError
from slurm_lab.processes import with_in_environment
from slurm_lab.settings import CGROUPS
from tests.helpers.processes import ROOT

POLL = Settings(memory_kill=MemoryKill.POLL, nodes=2)
TOO_MUCH = "python3 -c 'import time; x = bytearray(300 << 20); time.sleep(20)'; echo $?"


def submit(lab: SlurmLab, script: str, *options: str, folder: Path = Path("/tmp")) -> str:
    """The id of a job."""
    places = (f"--chdir={folder}", f"--output={folder}/%A_%a.out")
    return lab.run("sbatch", "--parsable", *places, *options, text=f"#!/bin/sh\n{script}\n").strip()


def state_of(lab: SlurmLab, job: str) -> str:
    """Of a job that may have ended."""
    return lab.run("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T").strip()


def must_become(lab: SlurmLab, job: str, state: str, deadline_s: float = 30) -> None:
    """Wait for a job's state."""
    assert eventually(lambda: state_of(lab, job) == state, deadline_s), state_of(lab, job)


def test_jobs_run_on_several_nodes_and_are_counted(slurm_lab: SlurmLab, tmp_path: Path) -> None:
    script = "echo $SLURMD_NODENAME"
    command = ["sbatch", "--wait", "--array=0-7", "--exclusive", f"--chdir={tmp_path}", "--output=%a"]
    subprocess.run(command, input=f"#!/bin/sh\n{script}\n", text=True, check=True, timeout=60)
    assert {path.read_text().strip() for path in tmp_path.iterdir()} == set(slurm_lab.nodes)
    assert slurm_lab.calls() == [command]
    assert slurm_lab.calls("squeue") == []


def test_two_labs_at_once(slurm_lab: SlurmLab, slurm_labs: Labs, tmp_path: Path) -> None:
    other = slurm_labs(POLL)
    jobs = {
        lab: submit(lab, f"echo {lab.place.cluster} >out; sleep 30", folder=tmp_path)
        for lab in (slurm_lab, other)
    }
    for lab, job in jobs.items():
        must_become(lab, job, "RUNNING")
    assert not set(slurm_lab.processes()) & set(other.processes())
    other.clear()
    assert list(slurm_lab.jobs().values()) == ["RUNNING"]
    slurm_lab.clear()


def test_a_lab_takes_no_folder_of_others(tmp_path: Path) -> None:
    """It is removed as a whole when the lab is stopped."""
    (tmp_path / "precious").write_text("data")
    with pytest.raises(LabError, match="holds files of others"):
        SlurmLab(Settings(nodes=1), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


@pytest.mark.slurm(Settings(memory_kill=MemoryKill.CGROUP))
def test_the_kernel_ends_what_takes_too_much_memory(slurm_lab: SlurmLab, tmp_path: Path) -> None:
    job = submit(slurm_lab, TOO_MUCH, "--mem=100", folder=tmp_path)
    must_become(slurm_lab, job, "OUT_OF_MEMORY")
    assert "137" in (tmp_path / f"{job}_4294967294.out").read_text()


@pytest.mark.slurm(POLL)
def test_slurm_ends_what_takes_too_much_memory(slurm_lab: SlurmLab, tmp_path: Path) -> None:
    job = submit(slurm_lab, TOO_MUCH, "--mem=100", folder=tmp_path)
    must_become(slurm_lab, job, "FAILED")


def test_leftovers_are_seen(slurm_lab: SlurmLab) -> None:
    job = submit(slurm_lab, "env --ignore-environment setsid sleep 30 & exec sleep 30")
    must_become(slurm_lab, job, "RUNNING")
    assert eventually(lambda: sum("sleep 30" in line for line in slurm_lab.leftovers()) == 2)
    assert f"job {job}: RUNNING" in slurm_lab.leftovers()
    slurm_lab.clear()
    assert slurm_lab.leftovers() == []


def test_the_controller_comes_back_with_its_jobs(slurm_lab: SlurmLab, tmp_path: Path) -> None:
    job = submit(slurm_lab, f"touch '{tmp_path}/begun'; sleep 60")
    # SLURM says before it has told the node that the job runs, and starts it anew if it is stopped meanwhile.
    assert eventually((tmp_path / "begun").exists, 30), state_of(slurm_lab, job)
    with slurm_lab.changed(MaxJobCount="100"):
        assert "MaxJobCount             = 100" in slurm_lab.run("scontrol", "show", "config")
        assert state_of(slurm_lab, job) == "RUNNING"
    assert "MaxJobCount             = 10000" in slurm_lab.run("scontrol", "show", "config")
    slurm_lab.crash_slurmctld()
    slurm_lab.heal()
    slurm_lab.clear()


def test_a_dead_node_is_mended(slurm_lab: SlurmLab) -> None:
    node = slurm_lab.nodes[0]
    slurm_lab.kill_slurmd(node)
    slurm_lab.drain(slurm_lab.nodes[1])
    assert slurm_lab.states()[slurm_lab.nodes[1]] == "drained"
    slurm_lab.heal()
    assert set(slurm_lab.states().values()) == {"idle"}


@pytest.mark.slurm(Settings(accounting=True))
def test_accounts(slurm_lab: SlurmLab) -> None:
    job = submit(slurm_lab, "exit 3", "--account=lab")
    states = (
        "sacct",
        "--noheader",
        "--parsable2",
        "--allocations",
        f"--jobs={job}",
        "--format=State,Account",
    )
    assert eventually(lambda: slurm_lab.run(*states).strip() == "FAILED|lab")
    with pytest.raises(Exception, match="Invalid account"):
        submit(slurm_lab, "exit 0", "--account=nobody")
    slurm_lab.stop_slurmdbd()
    with pytest.raises(Exception, match="Connection refused"):
        slurm_lab.run(*states)
    slurm_lab.start_slurmdbd()
    slurm_lab.run(*states)


@pytest.mark.slurm(Settings(accounting=True))
def test_the_database_crashes(slurm_lab: SlurmLab) -> None:
    os.kill(int((slurm_lab.folder / "mysql" / "mysql.pid").read_text()), signal.SIGSEGV)
    job = submit(slurm_lab, "exit 3")

    def is_accounted() -> bool:
        with suppress(Exception):
            return "FAILED" in slurm_lab.run("sacct", "--noheader", f"--jobs={job}", "--format=State")
        return False

    assert eventually(is_accounted, 30)


@pytest.mark.parametrize("crashes", [1, 3])
def test_the_database_crashes_while_it_is_made(
    crashes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason := why_not(accounting=True):
        pytest.skip(f"no SLURM: {reason}")
    name = "mariadb-install-db"
    stand_in, tries = tmp_path / name, tmp_path / "tries"
    stand_in.write_text(f"""#!/bin/sh
echo try >>{tries}
if [ "$(wc -l <{tries})" -gt {crashes} ]; then exec {shutil.which(name)} "$@"; fi
datadir=$(sed -n s/^datadir=//p "${{1#--defaults-file=}}")
mkdir "$datadir/mysql" && echo "out of luck" >"$datadir/mysql.log"
kill -s SEGV $$
""")
    stand_in.chmod(0o755)
    monkeypatch.setattr(machine, "_DIRECTORIES", (str(tmp_path), *machine._DIRECTORIES))
    outcome = pytest.raises(LabError, match="out of luck") if crashes == 3 else nullcontext()
    with outcome, SlurmLab(Settings(nodes=1, accounting=True)) as lab:
        assert "lab" in lab.sacctmgr("show", "account")
    assert len(tries.read_text().split()) == min(crashes + 1, 3)


def test_the_runner_may_do_as_others_what_the_plugin_needs_and_no_more(slurm_lab: SlurmLab) -> None:
    def allowed(user: str, *command: str) -> bool:
        whole = ["runuser", "-u", RUNNER, "--", "sudo", "-n", "-u", user, "--", *command]
        return subprocess.run(whole, check=False, capture_output=True, timeout=30).returncode == 0

    for user in USERS:
        assert allowed(user, "sbatch", "--version")
        assert allowed(user, "scancel", "--version")
        assert allowed(user, "tar", "--version")
        assert not allowed(user, "cat", "/dev/null")
        assert not allowed(user, "squeue", "--version")
    assert not allowed("root", "sbatch", "--version")


def test_nothing_is_left_of_a_lab() -> None:
    if reason := why_not():
        pytest.skip(f"no SLURM: {reason}")
    with SlurmLab(Settings(nodes=1)) as lab:
        must_become(lab, submit(lab, "sleep 30"), "RUNNING")
        assert eventually(lambda: bool(lab.processes()))
    assert lab.processes() == {}
    assert lab.slurmctld.pid is None
    assert not lab.folder.exists()
    assert not list(CGROUPS.glob(f"*/slurm_{lab.nodes[0]}"))


def test_a_lab_for_one_command() -> None:
    """On the command line."""
    if (reason := why_not()) is not None:
        pytest.skip(f"no SLURM: {reason}")
    command = ["sh", "-c", "sinfo --noheader --partition=main --format=%D; exit 3"]
    run = [sys.executable, "-m", "slurm_lab", "run", "--nodes", "2", "--", *command]
    ended = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert (ended.returncode, ended.stdout.strip()) == (3, "2"), ended.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=["term", "hup"])
def test_a_signal_ends_the_command_and_the_lab(number: signal.Signals) -> None:
    if (reason := why_not()) is not None:
        pytest.skip(f"no SLURM: {reason}")
    command = ["sh", "-c", "echo $SLURM_CONF; sh -c 'sleep 300; true'; true"]
    run = [sys.executable, "-m", "slurm_lab", "run", "--nodes", "1", "--", *command]
    with subprocess.Popen(run, cwd=ROOT, stdout=subprocess.PIPE, text=True) as lab:
        assert lab.stdout is not None
        conf = Path(lab.stdout.readline().strip())
        lab.send_signal(number)
        lab.send_signal(number)
        assert lab.wait(60) == 128 + number
    assert _using(conf) == []
    assert not conf.parent.parent.exists()


def _using(conf: Path) -> list[str]:
    """Commands of processes that belong to a lab, its daemons too."""
    return list(with_in_environment(f"SLURM_CONF={conf}").values())


def test_a_signal_while_a_lab_starts() -> None:
    if (reason := why_not()) is not None:
        pytest.skip(f"no SLURM: {reason}")
    run = [sys.executable, "-m", "slurm_lab", "run", "--nodes", "1", "--", "echo", "hello"]
    with subprocess.Popen(run, cwd=ROOT, stdout=subprocess.PIPE, text=True) as lab:
        assert eventually(lambda: _folders_of(lab.pid) != [])
        (folder,) = _folders_of(lab.pid)
        lab.send_signal(signal.SIGTERM)
        out, _ = lab.communicate(timeout=60)
    assert (lab.returncode, out, folder.exists()) == (128 + signal.SIGTERM, "", False)


def _folders_of(pid: int) -> list[Path]:
    """Of labs that belong to a process."""
    owners = []
    for file in Path("/tmp").glob("slurm-lab-*/owner"):
        with suppress(OSError):  # others stop theirs
            owners += [file.parent] if file.read_text().startswith(f"{pid} ") else []
    return owners
