"""Runs on the pretend cluster."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from fractal_backends_dummy_slurm import Lease
from fractal_backends_dummy_slurm.cluster.config import ClusterConfig, NodeConfig, PartitionConfig, UserLimits
from fractal_backends_dummy_slurm.cluster.faults import COMMAND_FAULTS, JOB_FAULTS, OTHER_FAULTS

from conftest import eventually
from fractal_backends import Cause, InvalidInputError, TaskExecutionError, get_backend
from tests.helpers.plugins import open_folder
from tests.helpers.processes import ROOT
from tests.helpers.slurm_runs import SLOW_HOG, SlurmRun


def _run(folder: Path, command: str, images: int) -> dict[str, Any]:
    task = {"name": "t", "type": "parallel", "command_parallel": command}
    backend = get_backend("dummy_slurm", options={"poll_interval": 0.3})
    result = asyncio.run(
        backend.process_workflow(
            workflow={"task_list": [{"task": task}]},
            dataset={"zarr_dir": "/data", "images": [{"zarr_url": f"/data/{n}"} for n in range(images)]},
            workflow_dir_local=folder,
            logger_name="test",
        )
    )
    return dict(result)


def test_units_run(tmp_path: Path) -> None:
    result = _run(tmp_path / "run", "/bin/true", 5)
    assert [entry["status"] for entry in result["history"]] == ["done"]
    assert not (tmp_path / "run" / ".slurm").exists()


def test_exit_codes_are_told(tmp_path: Path) -> None:
    with pytest.raises(TaskExecutionError, match="exit code 1"):
        _run(tmp_path / "run", "/bin/false", 2)


def test_a_child_takes_too_much_memory_and_its_unit_goes_on(tmp_path: Path) -> None:
    """On a cluster with no settings."""
    units = {"hog": f"{SLOW_HOG}; exit 0", "a": "exit 0", "b": "exit 3"}
    run = SlurmRun(tmp_path, units, {"mem": 100, "tasks_per_job": 2}, backend="dummy_slurm")
    run.start()
    run.must_end(60, hog=Cause.OUT_OF_MEMORY, b=Cause.TASK_ERROR)


def _shell(command: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "fractal_backends_dummy_slurm", "/bin/sh", "-c", command]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def test_a_command_in_which_there_is_a_cluster(tmp_path: Path) -> None:
    submit = f"sbatch --parsable --output={tmp_path}/out --wrap 'hostname; echo $SLURMD_NODENAME'"
    wait = "until squeue -h -t all -j $job -o %T | grep COMPLETED; do sleep 0.1; done; exit 3"
    result = _shell(f"job=$({submit}); {wait}")
    assert (result.returncode, result.stdout, result.stderr) == (3, "COMPLETED\n", "")
    assert (tmp_path / "out").read_text().splitlines()[1] == "n1"


def test_files_of_others_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where they were before the cluster it does not start; where they came later it leaves them."""
    folder = tmp_path / "mine"
    monkeypatch.setenv("DUMMY_SLURM_DIR", str(folder))
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "precious").touch()
    result = _shell("sinfo")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"{folder} holds files of others; name a folder that is new or empty.\n"
    monkeypatch.setenv("DUMMY_SLURM_DIR", str(folder / "data" / "precious"))
    assert "precious is no folder; DUMMY_SLURM_DIR has to name one." in _shell("sinfo").stderr
    monkeypatch.setenv("DUMMY_SLURM_DIR", str(folder))
    (folder / "data").rename(tmp_path / "data")
    result = _shell(f"mv {tmp_path}/data {folder}")
    assert result.returncode == 0, result.stderr
    assert eventually(lambda: [path.name for path in folder.iterdir()] == ["data"], 20)
    assert (folder / "data" / "precious").exists()


def test_a_cluster_that_ends_meanwhile_does_not_keep_the_next_one_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cluster"
    folder.mkdir()
    for name in ("log", "controller.lock"):
        (folder / name).touch()

    def listed(of_folder: Path, list_folder: Any = os.listdir) -> Any:
        names = list_folder(of_folder)
        monkeypatch.undo()
        shutil.rmtree(folder)  # as the other one does when it ends
        return names

    monkeypatch.setattr(os, "listdir", listed)
    with Lease(folder) as lease:
        assert (lease.commands / "sbatch").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can share a cluster")
def test_others_may_use_the_cluster_whatever_the_umask() -> None:
    with open_folder() as folder:
        before = os.umask(0o077)
        try:
            with Lease(folder / "cluster") as lease:
                command = [str(lease.commands / "sinfo"), "--noheader"]
                subprocess.run(command, user="nobody", extra_groups=[], check=True, capture_output=True)
        finally:
            os.umask(before)


def test_the_umask_of_a_job_outlives_the_controller(tmp_path: Path) -> None:
    submit = f"umask 027; sbatch --parsable --begin=now+2 --output={tmp_path}/out --wrap umask"
    restart = """dummyctl fault '{"fault": "restart", "forget_s": 0, "down_s": 0}'"""
    wait = "until squeue -h -t all -j $job -o %T | grep COMPLETED; do sleep 0.1; done"
    result = _shell(f"job=$({submit}); {restart}; {wait}")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "out").read_text() == "0027\n"


_WRONG_SETTINGS = {
    '{"nodes": [{"name": "a", "cores": 1}], "memory_kill": "x"}': "In nodes: unknown cores.",
    '{"nodes": [{"name": "n[1-4]", "cpus": 0}]}': "In nodes: cpus must be more than 0, not 0.",
    '{"nodes": [{"name": "n[1-4]", "memory_mb": 0}]}': "In nodes: memory_mb must be more than 0, not 0.",
    '{"nodes": [{"name": "n[1-4]", "cpus": "8"}]}': "In nodes: cpus must be a whole number, not '8'.",
    '{"nodes": [{"name": "n[1-4]", "gpus": -1}]}': "In nodes: gpus cannot be negative, and is -1.",
    '{"nodes": [{"name": "n[1-x]"}]}': "Names of nodes are like `n1`, or `n[1-4]` for ",
    '{"nodes": [{"name": "n[1-4"}]}': "Names of nodes are like `n1`, or `n[1-4]` for ",
    '{"nodes": [{"name": "n[1-99999999999]"}]}': "Names of nodes are like `n1`, or `n[1-4]` for ",
    '{"linger_s": 1e999}': "linger_s must be a finite number, not inf.",
    '{"accounts": {"lab": "ann"}}': "accounts must have a list of texts for each name, not {'lab': 'ann'}.",
    '{"cluster_name": "a b"}': "cluster_name is made of letters, digits, `-` and `_`; not 'a b'.",
    '{"max_array_size": 0}': "max_array_size must be more than 0, not 0.",
    '{"nodes": {"name": "a"}}': "In the configuration: nodes must be a list, not {'name': 'a'}.",
    '{"partitions": [{"name": "a,b", "nodes": "ALL", "default": true}]}': (
        "Names of partitions are made of letters, digits, `-`, `_` and `.`; not 'a,b'."
    ),
    '{"partitions": [{"name": "a", "nodes": "ALL", "default": true}, {"name": "a", "nodes": "n1"}]}': (
        "Two partitions have the name 'a'; each needs its own."
    ),
    '{"users": {"ann": 3}}': "In users: expected an object, not 3.",
    '{"kill_wait_s": -1}': "kill_wait_s cannot be negative, and is -1.",
    '{"faults": {"plan": [{"fault": "nonsense"}]}}': "There is no fault 'nonsense'. There are: silent, ",
    '{"faults": {"plan": [{"kind": "nonsense"}]}}': "There is no fault None. There are: silent, ",
    '{"faults": {"seed": 1, "kinds": ["requeue", "nonsense"]}}': "There is no fault 'nonsense'.",
    '{"faults": {"plan": [{"fault": "silent", "seconds": "x"}]}}': "seconds must be a number, not 'x'.",
    '{"faults": {"plan": [{"fault": "vanish", "back_s": 1}]}}': "Unknown back_s. Known: on, nth, ",
    '{"faults": {"plan": [{"fault": "silent", "on": "start"}]}}': "silent cannot come with 'start'.",
    '{"faults": {"plan": [{"fault": "late_receipts", "on": "squeue"}]}}': (
        "late_receipts cannot come with 'squeue'."
    ),
    '{"faults": {"plan": [{"fault": "vanish", "processes": "x"}]}}': "processes is one of die, live",
    '{"faults": {"seed": 1, "plan": []}}': "There is either a plan or a seed, not both.",
    '{"faults": {"seed": 1, "plan": [{"fault": "nonsense"}]}}': "There is no fault 'nonsense'.",
    '{"faults": {"seed": 1, "amount": 2}}': "Unknown amount. Known: seed, count, ",
    "[]": "In the configuration: expected an object, not [].",
    "{": "is not JSON: ",
}


@pytest.mark.parametrize("settings", _WRONG_SETTINGS)
def test_wrong_settings_are_told(settings: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, cluster = tmp_path / "settings.json", tmp_path / "cluster"
    file.write_text(settings)
    monkeypatch.setenv("DUMMY_SLURM_CONFIG", str(file))
    monkeypatch.setenv("DUMMY_SLURM_DIR", str(cluster))
    with pytest.raises(InvalidInputError) as caught:
        _run(tmp_path / "run", "/bin/true", 1)
    assert str(file) in str(caught.value)
    assert _WRONG_SETTINGS[settings] in str(caught.value)
    assert not cluster.exists()


def test_all_wrong_settings_are_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = [
        setting
        for setting, message in _WRONG_SETTINGS.items()
        if setting.startswith('{"nodes": [') and "Names" not in message
    ]
    plans = [{"fault": "nonsense"}, {"fault": "vanish", "processes": "x"}, {"fault": "silent"}]
    settings = {"nodes": [json.loads(setting)["nodes"][0] for setting in wrong], "faults": {"plan": plans}}
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    monkeypatch.setenv("DUMMY_SLURM_CONFIG", str(tmp_path / "settings.json"))
    with pytest.raises(InvalidInputError) as caught:
        _run(tmp_path / "run", "/bin/true", 1)
    expected = [
        *(_WRONG_SETTINGS[setting] for setting in wrong),
        "There is no fault 'nonsense'",
        "processes is one of",
    ]
    assert len(caught.value.problems) == len(expected)
    assert all(text in line for text, line in zip(expected, caught.value.problems, strict=True))


def test_settings_that_cannot_be_read_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DUMMY_SLURM_CONFIG", str(tmp_path / "none.json"))
    message = f"{tmp_path}/none.json cannot be read: No such file or directory."
    with pytest.raises(InvalidInputError, match=message):
        _run(tmp_path / "run", "/bin/true", 1)
    result = _shell("true")
    assert (result.returncode, result.stderr) == (2, message + "\n")


def test_what_befell_jobs_and_commands_can_be_seen_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = [{"fault": "error", "nth": 1}]
    (tmp_path / "settings.json").write_text(json.dumps({"keep": True, "faults": {"plan": plan}}))
    monkeypatch.setenv("DUMMY_SLURM_CONFIG", str(tmp_path / "settings.json"))
    monkeypatch.setenv("DUMMY_SLURM_DIR", str(tmp_path / "cluster"))
    assert _shell("squeue --noheader").returncode == 1
    assert "fault: error {} befalls squeue --noheader" in (tmp_path / "cluster" / "log").read_text()
    entries = map(json.loads, (tmp_path / "cluster" / "journal").read_text().splitlines())
    assert [entry["befell"] for entry in entries if "fault" in entry] == ["squeue --noheader"]


def test_all_that_a_full_queue_keeps_waiting_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what was not tried itself, as there was no room for what came before it."""
    settings = {"max_job_count": 5, "max_array_size": 4, "min_job_age_s": 1}
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    monkeypatch.setenv("DUMMY_SLURM_CONFIG", str(tmp_path / "settings.json"))
    monkeypatch.setenv("DUMMY_SLURM_DIR", str(tmp_path / "cluster"))
    units = {f"u{number:02}": "exit 0" for number in range(14)}
    run = SlurmRun(tmp_path / "run", units, {"tasks_per_job": 1}, backend="dummy_slurm")
    run.start()
    run.must_end(120)
    refusals = [place for place, event in enumerate(run.events) if "unable to accept job" in event.info]
    told = run.events[refusals[0] : refusals[0] + 10]
    assert [run.name(event) for event in told] == list(units)[4:], run.story()


def test_the_scheduler_is_not_asked_for_each_unit_that_it_forgot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    restart = {"fault": "restart", "on": "squeue", "nth": 2, "forget_s": 60, "down_s": 1.1}
    nodes = [{"name": "n1", "cpus": 1}]
    settings = {"keep": True, "nodes": nodes, "accounting": False, "faults": {"plan": [restart]}}
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    monkeypatch.setenv("DUMMY_SLURM_CONFIG", str(tmp_path / "settings.json"))
    monkeypatch.setenv("DUMMY_SLURM_DIR", str(tmp_path / "cluster"))
    options = {"tasks_per_job": 1, "receipt_deadline": 2}
    units = {"first": "sleep 1", **{f"u{number}": "exit 0" for number in range(60)}}
    run = SlurmRun(tmp_path / "run", units, options, backend="dummy_slurm")
    run.start()
    run.wait(60)
    assert all(run.outcomes[name].cause is Cause.DONE for name in units if name != "first"), run.story()
    log = (tmp_path / "cluster" / "log").read_text()
    assert "forgets" in log
    assert log.count("scontrol show") < len(units), log


def test_a_fault_of_commands_can_be_made_to_come_next(tmp_path: Path) -> None:
    fault = """dummyctl fault '{"fault": "error"}'"""
    assert _shell(f"squeue && {fault} && ! squeue 2>/dev/null && squeue --noheader").returncode == 0


def test_a_fault_that_befalls_nothing_is_refused(tmp_path: Path) -> None:
    result = _shell("""dummyctl fault '{"fault": "requeue"}'""")
    assert (result.returncode, result.stderr) == (1, "dummyctl: no job runs that it could befall\n")


def _controller_of(folder: Path) -> int:
    commands = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended
            commands[int(path.parent.name)] = path.read_bytes()
    (pid,) = (pid for pid, words in commands.items() if b"server.main" in words and bytes(folder) in words)
    return pid


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_controller_comes_back_when_there_is_room_again(tmp_path: Path) -> None:
    folder = tmp_path / "cluster"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], check=True)
    try:
        with Lease(folder, {"contact_s": 0.5}) as lease:
            squeue = [str(lease.commands / "squeue")]
            assert subprocess.run(squeue, check=False, capture_output=True).returncode == 0
            with contextlib.suppress(OSError), (folder / "filler").open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
            os.kill(_controller_of(folder), signal.SIGKILL)
            assert subprocess.run(squeue, check=False, capture_output=True).returncode != 0
            (folder / "filler").unlink(missing_ok=True)
            again = eventually(
                lambda: subprocess.run(squeue, check=False, capture_output=True).returncode == 0, 40
            )
            assert again
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_settings_that_a_running_cluster_does_not_have_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "settings.json").write_text('{"accounting": false}')
    monkeypatch.setenv("DUMMY_SLURM_DIR", str(tmp_path / "cluster"))
    with Lease(tmp_path / "cluster"):
        _run(tmp_path / "first", "/bin/true", 1)
        assert "other settings" not in caplog.text
        monkeypatch.setenv("DUMMY_SLURM_CONFIG", str(tmp_path / "settings.json"))
        _run(tmp_path / "second", "/bin/true", 1)
    assert "was started with other settings" in caplog.text


def test_the_documentation_has_all_settings_and_faults() -> None:
    page = (ROOT / "docs" / "dummy-slurm.md").read_text()
    names = [
        item.name
        for kind in (ClusterConfig, NodeConfig, PartitionConfig, UserLimits)
        for item in fields(kind)
    ]
    kinds = [*COMMAND_FAULTS, *JOB_FAULTS, *OTHER_FAULTS]
    assert [name for name in names if f"`{name}`" not in page and f'"{name}"' not in page] == []
    assert [kind for kind in kinds if f"`{kind}`" not in page] == []
