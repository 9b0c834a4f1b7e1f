"""Runs on a dummy cluster that misbehaves at random, judged by what the units themselves wrote down.

    python -m tests.helpers.dummy_runs FOLDER SEED...

prints a line of JSON for each seed. Everything about a run follows from its seed; the folder keeps the
cluster's log and journal of those in which something was wrong.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import subprocess
import sys
import time
import traceback
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fractal_backends_dummy_slurm import Lease
from fractal_backends_dummy_slurm.cluster.faults import COMMAND_FAULTS, JOB_FAULTS
from fractal_backends_dummy_slurm.lease import CONFIG_VARIABLE, FOLDER_VARIABLE
from fractal_backends_slurm import queue_watch, submitting

from fractal_backends import Cause, Outcome
from slurm_lab.processes import with_in_environment
from tests.helpers.slurm_runs import SlurmRun

UNITS = 60
FAULTS = 3
DEADLINE_S = 60.0
_TRIES = 5
"""Some runs are over before all that was to befall them does: then other faults are tried."""
_SCRIPT = """\
sleep {seconds}
read -r up rest </proc/uptime
echo "{code} $up" >"$folder/ended-$name"
exit {code}"""
_BETWEEN_S = 0.3
"""A unit that has just ended may die with its job before the job script has written that down."""
_SAID_OF = {
    "out_of_memory": Cause.OUT_OF_MEMORY,
    "time_limit": Cause.TIME_LIMIT,
    "requeue": Cause.NODE_FAILURE,
    "node_down": Cause.NODE_FAILURE,
    "vanish": Cause.LOST,
    "stray": Cause.LOST,
}
"""The verdict on units whose job this befell."""


@dataclass
class Found:
    """How one run went."""

    seed: int
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)
    """Those that came, in order."""
    causes: dict[str, int] = field(default_factory=dict)
    """How many verdicts of each kind there were."""
    wrong: list[str] = field(default_factory=list)


@dataclass
class _Blow:
    """Something that befell a job. `kills`: whether its processes were ended."""

    kind: str
    at: float
    kills: bool


@dataclass
class _Unit:
    """What is known of a unit: what it wrote down, and what befell its jobs."""

    started_by: list[str]
    ended: tuple[int, float] | None
    """Its exit code, and when that was."""
    blows: list[_Blow]


def run(seed: int, folder: Path) -> Found:
    """A run that all faults befell, and what was wrong with it."""
    for attempt in range(_TRIES):
        found = _run(seed, folder, of_faults=seed + 1_000 * attempt)
        if found.wrong or len({*found.faults}) == FAULTS:
            break
    return found


def _run(seed: int, folder: Path, of_faults: int) -> Found:
    dice = random.Random(seed)
    config, options, units = _config(of_faults, dice), _options(dice), _units(dice)
    folder.mkdir(parents=True)
    cluster, config_file = folder / "cluster", folder / "config.json"
    config_file.write_text(json.dumps(config))
    os.environ |= {FOLDER_VARIABLE: str(cluster), CONFIG_VARIABLE: str(config_file)}
    found, begun = Found(seed), time.monotonic()
    slurm_run = SlurmRun(folder / "run", units, options, backend="dummy_slurm")
    with Lease(cluster, config, keep=True):
        slurm_run.start()
        try:
            slurm_run.wait(DEADLINE_S)
        except AssertionError as error:
            found.wrong.append(str(error))
    _stop(cluster)
    if left := with_in_environment(f"SLURM_CLUSTER_NAME={config['cluster_name']}"):
        found.wrong.append(f"it left behind {left}")
    _Judge(slurm_run, cluster / "journal", found).judge()
    found.seconds = round(time.monotonic() - begun, 2)
    if found.wrong:
        found.wrong.append(f"options {options}, config {config}{slurm_run.story()}")
    else:
        shutil.rmtree(folder)
    return found


def _config(seed: int, dice: random.Random) -> dict[str, Any]:
    accounting = dice.random() < 0.5
    kinds = [*COMMAND_FAULTS, *JOB_FAULTS, "restart", *(["accounting_lag"] if accounting else [])]
    kinds.remove("no_accounting")  # most runs have no need to ask
    return {
        "faults": {"seed": seed, "count": FAULTS, "kinds": kinds, "within": 5, "span_s": 0.3},
        "cluster_name": f"dummy-{os.getpid()}-{seed}",
        "nodes": [{"name": "n[1-4]", "cpus": 2}],
        "accounting": accounting,
        "memory_kill": dice.choice(["cgroup", "poll"]),
        "requeue_delay_s": 0.3,
        "kill_wait_s": 0.3,
        "contact_s": 0.5,
    }


def _options(dice: random.Random) -> dict[str, Any]:
    at_once = dice.choice([1, 1, 2])
    each = at_once * dice.choice([1, 2, 4])
    packing = {"tasks_per_job": each, "parallel_tasks_per_job": at_once}
    return {**packing, "poll_interval": 0.1, "receipt_deadline": 5}


def _units(dice: random.Random) -> dict[str, str]:
    def script() -> str:
        return _SCRIPT.format(seconds=round(dice.uniform(0, 0.3), 2), code=3 if dice.random() < 0.1 else 0)

    return {f"u{number}": script() for number in range(UNITS)}


def _stop(cluster: Path) -> None:
    """Returns when the controller is gone, with all that it started."""
    if (cluster / "controller").exists():
        subprocess.run([cluster / "bin" / "dummyctl", "stop"], check=False)
    with open(cluster / "controller.lock") as lock:  # the controller's as long as it lives
        fcntl.flock(lock, fcntl.LOCK_EX)


class _Judge:
    """Compares the verdicts with what units wrote down, and with what befell their jobs."""

    def __init__(self, run: SlurmRun, journal: Path, found: Found) -> None:
        self._run = run
        self._found = found
        self._booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        self._blows: dict[str, list[_Blow]] = {}
        self._starts: dict[str, float] = {}
        """When each job was last started."""
        self._of_spool: dict[str, str] = {}
        """The job whose start this was."""
        self._strays: dict[str, float] = {}
        """When the processes of a job were ended that a new controller had forgotten."""
        for line in journal.read_text().splitlines():
            self._read(json.loads(line))

    def _read(self, entry: dict[str, Any]) -> None:
        job = entry.get("job", {})
        if "fault" in entry:
            kind = entry["fault"]
            self._found.faults.append(kind)
            if kind in _SAID_OF and kind != "node_down":
                self._add(entry["befell"], kind, entry)
        elif "stray" in entry:
            name = self._of_spool[entry["stray"]]
            self._strays[name] = entry["t"]
            self._add(name, "stray", entry)
        elif job.get("state") == "NODE_FAIL":  # all jobs of a node, or one that a new controller did not find
            self._add(f"{job['array_id']}_{job['index']}", "node_down", entry)
        elif job.get("state") == "RUNNING":
            name = f"{job['array_id']}_{job['index']}"
            self._of_spool[job["spool"]] = name
            if self._starts.setdefault(name, job["started"]) != job["started"]:
                self._starts[name] = job["started"]
                self._add(name, "requeue", {**entry, "t": self._strays.get(name, entry["t"])})

    def _add(self, job: str, kind: str, entry: dict[str, Any]) -> None:
        kills = entry.get("values", {}).get("processes") != "live"
        self._blows.setdefault(job, []).append(_Blow(kind, entry["t"], kills))

    def judge(self) -> None:
        """Of each unit."""
        outcomes = self._run.outcomes
        self._found.causes = dict(Counter(str(outcome.cause) for outcome in outcomes.values()))
        ends = Counter(self._run.name(event) for event in self._run.events if event.outcome is not None)
        for name in self._run.names:
            unit = self._unit(name)
            if len(unit.started_by) > 1:
                self._found.wrong.append(f"{name} was started more than once: {unit}")
            if ends[name] != 1:
                self._found.wrong.append(f"{name} has {ends[name]} ends")
            elif not self._is_true(outcomes[name], unit):
                self._found.wrong.append(f"{name}: {outcomes[name]}; {unit}")

    def _unit(self, name: str) -> _Unit:
        started_by = [fields[2] for fields in self._run.started() if fields[0] == name]
        told = [event.handle or "" for event in self._run.events if self._run.name(event) == name]
        jobs = dict.fromkeys(started_by or [handle.partition("@")[0] for handle in told])
        blows = [blow for job in jobs for blow in self._blows.get(job, [])]
        file = self._run.folder / f"ended-{name}"
        words = file.read_text().split() if file.exists() else []  # none: killed just before it wrote them
        ended = (int(words[0]), self._booted + float(words[1])) if words else None
        return _Unit(started_by, ended, blows)

    def _is_true(self, outcome: Outcome, unit: _Unit) -> bool:
        if unit.ended is None:
            return self._is_said_of(outcome, unit.blows, unit)
        code, at = unit.ended
        if outcome.cause is (Cause.TASK_ERROR if code else Cause.DONE):
            return True
        if code and outcome.cause is not Cause.LOST:  # SLURM's word may stand for the unit's own failure
            return self._is_said_of(outcome, unit.blows, unit)
        just_then = [blow for blow in unit.blows if blow.kills and abs(blow.at - at) < _BETWEEN_S]
        return self._is_said_of(outcome, just_then, unit)

    def _is_said_of(self, outcome: Outcome, blows: list[_Blow], unit: _Unit) -> bool:
        """Whether it is the word for one of these blows; nothing is known of what SLURM forgot."""
        is_forgotten = "restart" in self._found.faults or not unit.started_by
        said = {_SAID_OF[blow.kind] for blow in blows} | ({Cause.LOST} if is_forgotten and blows else set())
        return outcome.cause in said


def main(folder: str, *seeds: str) -> None:
    """See the module."""
    # A scheduler that takes long is spared, as this one does where many runs share a machine.
    queue_watch._SHARE = 1
    submitting._FIRST_PAUSE_S = 0.2
    for seed in seeds:
        try:
            found = run(int(seed), Path(folder) / seed)
        except Exception:  # told of this seed, and the others go on
            found = Found(int(seed), wrong=[traceback.format_exc()])
        print(json.dumps(asdict(found)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
