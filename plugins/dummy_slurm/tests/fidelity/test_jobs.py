"""Jobs that run: on the dummy they find, do and leave behind what they do on a real SLURM."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

import pytest

from slurm_lab import Settings
from tests.helpers.slurm_fixtures import Same
from tests.helpers.slurm_sites import ACCOUNTED, KERNEL, PLAIN_LINES, Site

_HOG = "python3 -c 'import time; block = bytearray(300 << 20); time.sleep(30)'"
_STEP = "srun --exact --nodes=1 --ntasks=1 --cpus-per-task=1 --mem=100"
_TELL = (
    'env | grep -E "^SLURM_(ARRAY|JOB_(NAME|ACCOUNT|NUM|PART|CPUS)|MEM|CPUS|NTASKS|RESTART|PROCID)" | sort'
)
_SCRIPTS = [
    "echo out; echo err >&2",
    "exit 3",
    "exit 300",
    "kill -SEGV $$",
    "kill -KILL $$",
    "pwd; umask; ulimit -c",
    "false; true",
    "trap '' TERM; kill -TERM $$; echo on",
]
_OPTIONS = [
    ["--chdir=/no/such/folder"],
    ["--output=/no/such/folder/%j.out"],
    ["--comment=some words | and = signs", "--job-name=a name"],
    ["--array=0-2"],
    ["--array=1,3-7:2%2"],
    ["--account=lab", "--qos=normal", "--time=1:30:00", "--mem=200", "--cpus-per-task=2"],
    ["--mem-per-cpu=1G", "--ntasks=2", "--nodes=1"],
    ["--partition=small", "--time=5"],
    ["--nodes=2"],
    ["--nodes=1-0", "--time=1-"],
    ["--mincpus=3"],
    ["--mincpus=3", "--nodes=2"],
    ["--constraint=gpu"],
    ["--gres=gpu:1"],
    ["--gpus=2"],
    ["--no-requeue"],
    ["--no-requeue", "--requeue"],
]
_ENVIRONMENTS = ["ALL", "NONE", "FOO=a b,HOME", "ALL,FOO=1"]
_LINES = """\
# a comment

#SBATCH --job-name=inside --mem=200
#SBATCH -c 2
true
#SBATCH --job-name=late
env | grep -E '^SLURM_(CPUS_PER|MEM|JOB_NAME)' | sort"""
_STEPS = f"""
{_STEP} sh -c 'exit 5'; echo srun $?
{_STEP} sh -c 'kill -KILL $$'; echo srun $?
{_STEP} pwd
{_STEP} /no/such/program; echo srun $?
srun --exact --ntasks=1 --mem=5000 true; echo srun $?
srun --exact --ntasks=1 --cpus-per-task=4 true; echo srun $?
echo word | {_STEP} cat
{_STEP} --input=none cat; echo srun $?
"""
_STEPS_THAT_MEET = f"""
{_STEP} sh -c ': >a; until [ -e b ]; do sleep 0.05; done' &
{_STEP} sh -c ': >b; until [ -e a ]; do sleep 0.05; done' &
wait; echo both
"""
_STEP_THAT_DOES_NOT_WAIT = f"""
{_STEP} sh -c ': >c; until [ -e d ]; do sleep 0.05; done' &
until [ -e c ]; do sleep 0.05; done
{_STEP} --immediate=2 true; echo srun $?
(sleep 1; : >d) &
{_STEP} --immediate=20 true; echo srun $?
wait
"""
_GREEDY_STEPS = f"""
{_STEP} sh -c {shlex.quote(_HOG + "; echo went on")}; echo srun $?
{_STEP} sh -c {shlex.quote("exec " + _HOG)}; echo srun $?
"""


def _in_no_order(seen: dict[str, Any]) -> dict[str, Any]:
    """Shell, srun and slurmstepd write when they please, and as often."""
    return {**seen, "output": sorted(set(seen["output"].splitlines()))}


@pytest.mark.slurm(ACCOUNTED)
def test_scripts(same: Same) -> None:
    same(lambda site: site.ended({script: site.submit(script) for script in _SCRIPTS}))


@pytest.mark.slurm(ACCOUNTED)
def test_options(same: Same) -> None:
    same(lambda site: site.ended({" ".join(each): site.submit(_TELL, *each) for each in _OPTIONS}))


@pytest.mark.slurm(ACCOUNTED)
def test_several_partitions(same: Same) -> None:
    options = [f"--partition=small,main {each}".split() for each in ("", "--nodes=2", "--time=10")]

    def queue(site: Site, job: str, *words: str) -> str:
        rows = ("squeue", "--noheader", "--states=all", "--format=%i %P", f"--jobs={job}")
        return site.call(*rows, *words).out

    def scenario(site: Site) -> list[Any]:
        seen: list[Any] = []
        for each in [["--partition=main,,small,"], *options]:  # each where all is free
            job = site.submit("echo $SLURM_JOB_PARTITION", *each)
            seen += [site.ended({"": job}), queue(site, job)]
        held = site.submit("true", "--hold", "--partition=small,main")
        words: tuple[list[str], ...] = ([], ["--partition=main"], ["--partition=nope"])
        seen += [queue(site, held, *each) for each in words]
        site.call("scancel", held)
        return seen

    same(scenario)


@pytest.mark.slurm(ACCOUNTED)
def test_environments(same: Same, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAR", "from outside")
    script = 'echo "[$FOO] [$BAR] [$HOME] [$SLURM_EXPORT_ENV]"; env | grep -c "^SLURM_SUBMIT_DIR="'

    def scenario(site: Site) -> dict[str, Any]:
        return site.ended({each: site.submit(script, f"--export={each}") for each in _ENVIRONMENTS})

    same(scenario)


@pytest.mark.slurm(ACCOUNTED)
def test_names_of_files(same: Same) -> None:
    names = ["%j-%A-%a", "%x", "%%", "a\\\\b%j", "c\\%j", "folder\\d/e"]

    def scenario(site: Site) -> list[str]:
        (site.folder / "files").mkdir()
        (site.folder / "files" / "folderd").mkdir()
        for name in names:
            site.submit("true", f"--output={site.folder}/files/{name}", "--job-name=x y")
        for job in site.numbers:
            site.wait_for_end(job)
        return sorted(site.plain(str(path)) for path in (site.folder / "files").rglob("*"))

    same(scenario)


@pytest.mark.slurm(ACCOUNTED)
def test_files_that_are_added_to(same: Same) -> None:
    def scenario(site: Site) -> list[str]:
        texts = []
        for mode in ("append", "append", "truncate"):
            job = site.submit("echo word", f"--output={site.folder}/common", f"--open-mode={mode}")
            site.wait_for_end(job)
            texts.append((site.folder / "common").read_text())
        return texts

    same(scenario)


@pytest.mark.slurm(ACCOUNTED)
def test_umask(same: Same) -> None:
    shows = 'umask; echo "[$SLURM_UMASK]"'
    script = f"{shows}; {_STEP} /bin/sh -c {shlex.quote(shows)}; umask 007; {_STEP} /bin/sh -c umask"

    def scenario(site: Site) -> list[Any]:
        room = (
            "--mem=500",
            "--cpus-per-task=2",
        )  # for a step while SLURM tidies up the one before
        jobs = {"all": site.submit(script, *room), "none": site.submit(shows, "--export=NONE")}
        seen = site.ended(jobs)
        return [seen, *(oct(path.stat().st_mode) for path in sorted(site.folder.glob("*.out")))]

    before = os.umask(0o027)
    try:
        same(scenario)
    finally:
        os.umask(before)


@pytest.mark.slurm(ACCOUNTED)
def test_lines_in_the_script(same: Same) -> None:
    def scenario(site: Site) -> dict[str, Any]:
        jobs = {"lines": site.submit(_LINES), "words": site.submit(_LINES, "--job-name=outside")}
        return site.ended(jobs)

    same(scenario)


@pytest.mark.slurm(ACCOUNTED)
def test_steps(same: Same) -> None:
    def scenario(site: Site) -> list[Any]:
        meet = site.submit(_STEPS_THAT_MEET, "--mem=200", "--cpus-per-task=2")
        steps = site.submit(_STEPS, "--mem=500", "--cpus-per-task=2")
        hasty = site.submit(_STEP_THAT_DOES_NOT_WAIT, "--mem=200", "--cpus-per-task=1")
        seen = site.ended({"meet": meet, "steps": steps, "hasty": hasty})
        return [seen["meet"], _in_no_order(seen["steps"]), seen["hasty"]]

    same(scenario)


@pytest.mark.slurm(ACCOUNTED)
def test_out_of_memory_where_slurm_looks(same: Same) -> None:
    def scenario(site: Site) -> dict[str, Any]:
        return _in_no_order(site.ended({"": site.submit(f"{_HOG}\necho went on $?", "--mem=100")})[""])

    same(scenario)


@pytest.mark.slurm(KERNEL)
def test_where_the_kernel_looks(same: Same) -> None:
    def scenario(site: Site) -> list[Any]:
        alone = site.submit(f"{_HOG}\necho went on $?", "--mem=100")
        steps = site.submit(_GREEDY_STEPS, "--mem=500", "--cpus-per-task=2")
        leaving = site.submit("setsid sleep 60 & echo $! >pid; echo done")
        seen = site.ended({"alone": alone, "steps": steps, "leaving": leaving})
        # It is empty where nobody waited for a process that ended.
        left = Path("/proc", (site.folder / "pid").read_text().strip(), "cmdline")
        return [
            seen["alone"],
            _in_no_order(seen["steps"]),
            seen["leaving"],
            left.read_text() if left.exists() else "",
        ]

    same(scenario)


@pytest.mark.slurm(Settings(lines=PLAIN_LINES))
def test_without_accounting(same: Same) -> None:
    def scenario(site: Site) -> list[Any]:
        job = site.submit("true", "--account=whatever")
        return [site.call("sacct", "--jobs=1"), site.ended({"": job})]

    same(scenario)
