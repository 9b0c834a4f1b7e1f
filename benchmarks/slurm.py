"""What the backend `slurm` costs beyond SLURM itself, on a real one that is started for this."""

from __future__ import annotations

import math
import os
import shlex
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

from measuring import Row, Settings, dataset, fresh, native_no_op, new_folder, parallel_workflow

from slurm_lab import LabError, Settings as LabSettings, SlurmLab
from slurm_lab.processes import eventually

UNITS, MANY_UNITS = 1_000, 20_000
POLL_S = 1.0
ROUNDS, ROUNDS_OF_THOUSAND = 5, 15
DEADLINE_S = 600
QUIET_S = 10
"""After so long without an end SLURM is asked whether there is still one to come."""


def measure(settings: Settings) -> Iterator[Row]:
    """A run and a bare array with the same packing, again and again in turn; then many units, and one."""
    lab = SlurmLab(LabSettings(min_job_age_s=30))  # it would be full of jobs that have ended
    try:
        lab.start()
    except LabError as error:
        lab.stop()
        print(f"  not measured: {error}")
        return
    try:
        with patch.dict(os.environ, lab.env):
            yield from _of_thousand(settings, lab)
            yield from _of_many(settings)
            yield from _of_one(settings, lab)
    finally:
        lab.stop()


def _of_thousand(settings: Settings, lab: SlurmLab) -> Iterator[Row]:
    """Medians: SLURM looks at new jobs once a second, so that the best round is the luckiest one."""
    ours: list[float] = []
    bare: list[float] = []
    for _ in range(settings.rounds or ROUNDS_OF_THOUSAND):
        _until_idle(lab)
        lab.forget_calls()
        ours.append(_run(settings, UNITS)["wall_s"])
        calls = lab.calls("sbatch")
        submission = calls[1]  # the first one only asks, later ones submit again what SLURM lost
        squeues = len(lab.calls("squeue"))
        bare.append(_bare(settings, lab, _array_tasks(submission)))
    for side, times in (("slurm", ours), (f"a bare array of {_array_tasks(submission)}", bare)):
        median = statistics.median(times)
        yield Row(f"{UNITS:,} units, {side}", median, "s", note=f"{min(times):.2f} to {max(times):.2f} s")
    note = f"of best rounds {min(ours) / min(bare):.2f}"
    yield Row("slurm / a bare array", statistics.median(ours) / statistics.median(bare), "x", 1.3, note)
    yield Row("calls of sbatch", len(calls), "", 10)
    yield Row("calls of squeue", squeues, "", 1 + math.ceil(ours[-1] / POLL_S))


def _of_many(settings: Settings) -> Iterator[Row]:
    answer = _run(settings, MANY_UNITS)
    yield Row(f"{MANY_UNITS:,} units", answer["wall_s"], "s")
    yield Row("peak memory of the runner", answer["peak_mb"], "MB", 200)
    yield Row("of one core", 100 * answer["cpu_s"] / answer["wall_s"], "%", 20)


def _of_one(settings: Settings, lab: SlurmLab) -> Iterator[Row]:
    ours = min(_run(settings, 1)["wall_s"] for _ in range(settings.rounds or ROUNDS))
    waits = []
    for _ in range(settings.rounds or ROUNDS):
        begin = time.perf_counter()
        lab.run("sbatch", "--wait", "--output=/dev/null", "--wrap=true", deadline_s=DEADLINE_S)
        waits.append(time.perf_counter() - begin)
    note = f"{ours:.2f} s against {min(waits):.2f} s"
    yield Row("a single unit, beyond `sbatch --wait`", ours - min(waits), "s", 0.5, note)


def _run(settings: Settings, units: int) -> dict[str, Any]:
    """Through `process_workflow`, in a fresh interpreter that has imported all it needs."""
    command = native_no_op(settings.folder)
    with new_folder(settings.folder) as folder:
        request = {
            "backend": "slurm",
            "options": {"poll_interval": POLL_S},
            "workflow": parallel_workflow(command),
            "dataset": dataset([f"/data/{number}" for number in range(units)]),
            "folder": f"{folder}/run",
        }
        warm_up = {**request, "backend": "local", "options": {}, "dataset": dataset(["/data/one"])}
        return fresh("run_backend.py", {**request, "warm_up": warm_up})


def _array_tasks(submission: list[str]) -> int:
    (array,) = (word for word in submission if word.startswith("--array="))
    return int(array.rpartition("-")[2]) + 1


def _bare(settings: Settings, lab: SlurmLab, array_tasks: int) -> float:
    """An array with the same packing: it starts the same command with the same arguments, each with a log."""
    _until_idle(lab)
    each = math.ceil(UNITS / array_tasks)
    command = native_no_op(settings.folder)
    with new_folder(settings.folder) as folder:
        stem = f"{shlex.quote(str(folder))}/$SLURM_ARRAY_TASK_ID"
        script = f"""#!/bin/sh
unit=0
while [ $unit -lt {each} ]; do
    stem={stem}.$unit
    {command} --args-json $stem.args.json --out-json $stem.metadiff.json >$stem.log 2>&1
    unit=$((unit + 1))
done
echo done >{stem}.done
"""
        begin = time.perf_counter()
        options = (f"--array=0-{array_tasks - 1}", "--nodes=1", "--ntasks=1", f"--output={folder}/%A_%a.out")
        lab.run("sbatch", *options, text=script)
        is_whole = _have_all_ended(lab, folder, array_tasks)
        wall_s = time.perf_counter() - begin
    return wall_s if is_whole else _bare(settings, lab, array_tasks)


def _until_idle(lab: SlurmLab) -> None:
    """What was measured before may leave SLURM something to tidy up."""
    eventually(lambda: not lab.jobs(), DEADLINE_S, "SLURM still has jobs of the round before")


def _have_all_ended(lab: SlurmLab, folder: Path, array_tasks: int) -> bool:
    """Wait for that; False where SLURM lost some, as it does where a node registers just then."""
    quiet_since, done = time.monotonic(), 0
    while done < array_tasks:
        time.sleep(0.05)
        now, before = time.monotonic(), done
        done = sum(name.endswith(".done") for name in os.listdir(folder))
        if done > before:
            quiet_since = now
        elif now > quiet_since + QUIET_S and not lab.jobs():
            print(f"  SLURM lost {array_tasks - done} of the bare array tasks; they are measured again")
            return False
        elif now > quiet_since + DEADLINE_S:
            raise TimeoutError(f"no task of the bare array has ended for {DEADLINE_S} s")
    return True
