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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fractal_backends_dummy_slurm import Lease
from fractal_backends_dummy_slurm.lease import CONFIG_VARIABLE, FOLDER_VARIABLE

from fractal_backends import Cause, Outcome
from tests.helpers.slurm_runs import SlurmRun

UNITS = 60
FAULTS = 3
DEADLINE_S = 60.0
_SCRIPT = """\
sleep {seconds}
read -r up rest </proc/uptime
echo "{code} $up" >"$folder/ended-$name"
exit {code}"""
_BETWEEN_S = 0.3
"""A unit that has just ended may die with its job before the job script has written that down."""
_SAID_OF = {
    "out_of_memory": {Cause.OUT_OF_MEMORY},
    "time_limit": {Cause.TIME_LIMIT},
    "requeue": {Cause.NODE_FAILURE},
    "node_down": {Cause.NODE_FAILURE},
    "vanish": {Cause.LOST},
}
"""Verdicts on units whose job this befell."""


@dataclass
class Found:
    """How one run went."""

    seed: int
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)
    """Those that came, in order."""
    causes: dict[str, int] = field(default_factory=dict)
    between: int = 0
    """Units that died with their job after they had ended."""
    wrong: list[str] = field(default_factory=list)


@dataclass
class _Blow:
    """Something that befell a job. `kills`: whether its processes were ended."""

    kind: str
    at: float
    kills: bool


def run(seed: int, folder: Path) -> Found:
    """One run, and what was wrong with it."""
    dice = random.Random(seed)
    cluster = folder / "cluster"
    config, options, units = _config(seed, dice), _options(dice), _units(dice)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    os.environ |= {FOLDER_VARIABLE: str(cluster), CONFIG_VARIABLE: str(folder / "config.json")}
    found, begun = Found(seed), time.monotonic()
    slurm_run = SlurmRun(folder / "run", units, options, backend="dummy_slurm")
    with Lease(cluster, config, keep=True):
        slurm_run.start()
        try:
            slurm_run.wait(DEADLINE_S)
        except AssertionError as error:
            found.wrong.append(str(error))
    _stop(cluster)
    _Judge(slurm_run, cluster / "journal", found).judge()
    found.seconds = round(time.monotonic() - begun, 2)
    if found.wrong:
        found.wrong.append(f"options {options}, config {config}{slurm_run.story()}")
    else:
        shutil.rmtree(folder)
    return found


def _config(seed: int, dice: random.Random) -> dict[str, Any]:
    return {
        "faults": {"seed": seed, "count": FAULTS, "within": 5, "span_s": 0.3},
        "accounting": dice.random() < 0.5,
        "memory_kill": dice.choice(["cgroup", "poll"]),
        "requeue_delay_s": 0.3,
        "kill_wait_s": 0.3,
        "contact_s": 0.5,
    }


def _options(dice: random.Random) -> dict[str, Any]:
    at_once = dice.choice([1, 1, 2])
    each = at_once * dice.choice([1, 2, 4])
    return {
        "tasks_per_job": each,
        "parallel_tasks_per_job": at_once,
        "poll_interval": 0.1,
        "receipt_deadline": 2,
    }


def _units(dice: random.Random) -> dict[str, str]:
    return {
        f"u{number}": _SCRIPT.format(
            seconds=round(dice.uniform(0, 0.3), 2), code=3 if dice.random() < 0.1 else 0
        )
        for number in range(UNITS)
    }


def _stop(cluster: Path) -> None:
    """Returns when the controller is gone, with all that it started."""
    if (cluster / "controller").exists():
        subprocess.run([cluster / "bin" / "dummyctl", "stop"], check=False)
    with open(cluster / "lock") as lock:  # the controller's as long as it lives
        fcntl.flock(lock, fcntl.LOCK_EX)


class _Judge:
    """Compares the verdicts with what units wrote down, and with what befell their jobs."""

    def __init__(self, run: SlurmRun, journal: Path, found: Found) -> None:
        self._run = run
        self._found = found
        self._booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        self._blows: dict[str, list[_Blow]] = {}
        self._forgot = False
        for line in journal.read_text().splitlines():
            self._read(json.loads(line))

    def _read(self, entry: dict[str, Any]) -> None:
        if "fault" in entry:
            kind = entry["fault"]
            self._found.faults.append(kind)
            self._forgot |= kind == "restart"
            if kind in _SAID_OF and kind != "node_down":
                self._add(entry["befell"], kind, entry)
        elif (
            (job := entry.get("job")) and job.get("reason") == "NodeDown" and job.get("state") == "NODE_FAIL"
        ):
            self._add(f"{job['array_id']}_{job['index']}", "node_down", entry)

    def _add(self, job: str, kind: str, entry: dict[str, Any]) -> None:
        kills = entry.get("values", {}).get("processes") != "live"
        self._blows.setdefault(job, []).append(_Blow(kind, entry["t"], kills))

    def judge(self) -> None:
        """Of each unit."""
        started: dict[str, list[str]] = {}
        for name, _, job, _ in self._run.started():
            started.setdefault(name, []).append(job)
        ends = [self._run.name(event) for event in self._run.events if event.outcome is not None]
        for name in self._run.names:
            jobs = started.get(name, [])
            if len(jobs) > 1:
                self._found.wrong.append(f"{name} was started by {jobs}")
            outcome = self._run.outcomes.get(name)
            if outcome is None or ends.count(name) != 1:
                self._found.wrong.append(f"{name} has {ends.count(name)} ends")
                continue
            cause = str(outcome.cause)
            self._found.causes[cause] = self._found.causes.get(cause, 0) + 1
            if not self._is_true(name, outcome, jobs):
                blows = {job: self._blows.get(job) for job in jobs or self._jobs_of(name)}
                self._found.wrong.append(
                    f"{name}: {outcome}; started by {jobs}, ended {self._ended(name)}, {blows}"
                )

    def _is_true(self, name: str, outcome: Outcome, started: list[str]) -> bool:
        blows = [blow for job in started or self._jobs_of(name) for blow in self._blows.get(job, [])]
        ended = self._ended(name)
        if ended is None:
            said = {cause for blow in blows for cause in _SAID_OF[blow.kind]}
            return outcome.cause in said | ({Cause.LOST} if self._forgot and blows else set())
        code, at = ended
        if outcome.cause is (Cause.TASK_ERROR if code else Cause.DONE):
            return True
        if code and outcome.cause is not Cause.LOST:  # SLURM's word may stand for the unit's own failure
            return any(outcome.cause in _SAID_OF[blow.kind] for blow in blows)
        self._found.between += 1
        blows = [blow for blow in blows if blow.kills and abs(blow.at - at) < _BETWEEN_S]
        return any(outcome.cause in _SAID_OF[blow.kind] for blow in blows)

    def _jobs_of(self, name: str) -> set[str]:
        """Array tasks that it was in, started or not."""
        handles = {
            event.handle for event in self._run.events if event.handle and self._run.name(event) == name
        }
        return {handle.partition("@")[0] for handle in handles}

    def _ended(self, name: str) -> tuple[int, float] | None:
        """What the unit itself says: its exit code, and when that was."""
        path = self._run.folder / f"ended-{name}"
        if not path.exists():
            return None
        code, uptime = path.read_text().split()
        return int(code), self._booted + float(uptime)


def main(folder: str, *seeds: str) -> None:
    """See the module."""
    for seed in seeds:
        print(json.dumps(asdict(run(int(seed), Path(folder) / seed))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
