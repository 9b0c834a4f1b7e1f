"""The same scenarios on a real SLURM and on the dummy: what a client sees is compared, field by field."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from slurm_lab import MemoryKill, Settings, SlurmLab
from tests.helpers.plugins import open_folder
from tests.helpers.slurm_sites import Site, dummy_site, real_site

_ACCOUNTED = Settings(accounting=True, memory_kill=MemoryKill.POLL)
_BIG = """python3 -c '
import time
block = bytearray(300 << 20)
time.sleep(30)'"""

Scenario = Callable[[Site], Any]
Compare = Callable[[Scenario], None]


@pytest.fixture
def places() -> Iterator[tuple[Path, Path, Path]]:
    """Folders for jobs on the real one, for jobs on the dummy, and for the dummy itself."""
    with open_folder() as folder:
        for name in ("real", "dummy"):
            (folder / name).mkdir(mode=0o777)
            (folder / name).chmod(0o777)
        yield folder / "real", folder / "dummy", folder / "cluster"


@pytest.fixture
def same(slurm_lab: SlurmLab, places: tuple[Path, Path, Path]) -> Compare:
    """Runs a scenario on both, and compares."""

    def compare(scenario: Scenario, **config: Any) -> None:
        real, dummy, cluster = places
        expected = scenario(real_site(slurm_lab, real))
        with dummy_site(slurm_lab, dummy, cluster, **config) as site:
            assert scenario(site) == expected

    return compare


def _answer(site: Site, *words: str, script: str | None = None) -> dict[str, Any]:
    return asdict(site.call(*words, script=script))


def _ended(site: Site, script: str, *options: str) -> dict[str, Any]:
    job = site.submit(script, *options)
    site.wait_for_end(job)
    return {**site.view(job), "output": site.output(job)}


@pytest.mark.slurm(_ACCOUNTED)
@pytest.mark.parametrize(
    "script",
    [
        "echo out; echo err >&2",
        "exit 3",
        "exit 300",
        "kill -SEGV $$",
        "kill -KILL $$",
        "sleep 60 & echo done",
        "setsid sleep 60 & echo done",
        "pwd; umask",
        "false; true",
    ],
)
def test_scripts_that_end(same: Compare, script: str) -> None:
    same(lambda site: _ended(site, script))


@pytest.mark.slurm(_ACCOUNTED)
@pytest.mark.parametrize(
    "options",
    [
        ["--chdir=/no/such/folder"],
        ["--output=/no/such/folder/%j.out"],
        ["--comment=some words | and = signs", "--job-name=a name"],
        ["--array=0-2"],
        ["--array=1,3-7:2%2"],
        ["--account=lab", "--qos=normal", "--time=1:30:00", "--mem=200", "--cpus-per-task=2"],
        ["--mem-per-cpu=1G", "--ntasks=2", "--nodes=1"],
        ["--partition=small", "--time=5"],
        ["--nodes=2"],
        ["--constraint=gpu"],
        ["--gres=gpu:1"],
        ["--gpus=2"],
        ["--no-requeue"],
        ["--no-requeue", "--requeue"],
    ],
)
def test_options(same: Compare, options: list[str]) -> None:
    script = 'env | grep -E "^SLURM_(ARRAY|JOB_(NAME|ACCOUNT|NUM|PART|CPUS)|MEM|CPUS|NTASKS|RESTART)" | sort'
    same(lambda site: _ended(site, script, *options))


@pytest.mark.slurm(_ACCOUNTED)
@pytest.mark.parametrize("export", ["ALL", "NONE", "FOO=a b,HOME", "ALL,FOO=1"])
def test_environments(same: Compare, export: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAR", "from outside")
    script = 'echo "[$FOO] [$BAR] [$HOME] [$SLURM_EXPORT_ENV]"; env | grep -c "^SLURM_SUBMIT_DIR="'
    same(lambda site: _ended(site, script, f"--export={export}"))


@pytest.mark.slurm(_ACCOUNTED)
def test_output_files_are_added_to_if_told_so(same: Compare) -> None:
    def scenario(site: Site) -> list[str]:
        texts = []
        for mode in ("append", "append", "truncate"):
            job = site.submit("echo word", f"--output={site.folder}/common", f"--open-mode={mode}")
            site.wait_for_end(job)
            texts.append((site.folder / "common").read_text())
        return texts

    same(scenario)


_REFUSED = [
    ["--partition=nope"],
    ["--account=nope"],
    ["--array=0-1001"],
    ["--array=x"],
    ["--array=5-2"],
    ["--mem=99999999"],
    ["--cpus-per-task=99"],
    ["--constraint=nope"],
    ["--gres=nope:1"],
    ["--nodelist=nope"],
    ["--exclude=nope"],
    ["--time=x"],
    ["--mem=x"],
    ["--mem=1G", "--mem-per-cpu=1G"],
    ["--ntasks=0"],
    ["--nodes=x"],
    ["--nope"],
    ["--test-only"],
    ["--test-only", "--parsable", "--array=0-99"],
    ["--test-only", "--partition=nope"],
    ["--test-only", "--cpus-per-task=99"],
    ["/no/such/script"],
]


@pytest.mark.slurm(_ACCOUNTED)
@pytest.mark.parametrize("options", _REFUSED, ids=" ".join)
def test_submissions_that_are_refused_or_tried_only(same: Compare, options: list[str]) -> None:
    same(lambda site: _answer(site, "sbatch", *options, script="#!/bin/sh\ntrue\n"))


@pytest.mark.slurm(_ACCOUNTED)
@pytest.mark.parametrize(
    "script",
    ["", "true\n", "#!/bin/sh\r\ntrue\r\n", "#!/bin/sh\n#SBATCH --nope\n", "#!/bin/sh\n#SBATCH --mem=x\n"],
)
def test_scripts_that_are_refused(same: Compare, script: str) -> None:
    same(lambda site: _answer(site, "sbatch", script=script))


@pytest.mark.slurm(_ACCOUNTED)
def test_lines_in_the_script(same: Compare) -> None:
    script = "# a comment\n\n#SBATCH --job-name=inside --mem=200\n#SBATCH -c 2\ntrue\n#SBATCH --job-name=late\nenv | grep -E '^SLURM_(CPUS_PER|MEM)' | sort"
    same(lambda site: [_ended(site, script), _ended(site, script, "--job-name=outside")])


@pytest.mark.slurm(_ACCOUNTED)
@pytest.mark.parametrize(
    "words",
    [
        ["squeue", "--noheader", "--states=all", "--jobs=99999999"],
        ["squeue", "--noheader", "--states=all", "--jobs=99999999,99999998"],
        ["squeue", "--noheader", "--states=all", "--jobs=x"],
        ["squeue", "--noheader", "--states=all", "--name=nope"],
        ["squeue", "--noheader", "--states=nope"],
        ["squeue", "--nope"],
        ["squeue"],
        ["scontrol", "show", "job", "99999999"],
        ["scontrol", "show", "job", "--oneliner", "x"],
        ["scontrol", "show", "partition"],
        ["scontrol", "show", "partition", "nope"],
        ["scontrol", "show", "node", "nope"],
        ["scontrol", "show", "nope"],
        ["scontrol", "show", "hostnames", "a[1-3,7],b"],
        ["scontrol", "nope"],
        ["scontrol", "update", "foo=bar"],
        ["scontrol", "update", "nodename=nope", "state=drain"],
        ["scontrol", "requeue", "99999999"],
        ["scontrol", "ping"],
        ["scancel", "99999999"],
        ["scancel", "--quiet", "99999999", "99999998_3"],
        ["scancel", "x"],
        ["scancel", "--name=nope"],
        ["scancel", "--user=nope"],
        ["scancel"],
        ["sacct", "--noheader", "--jobs=99999999"],
        ["sacct", "--noheader", "--jobs=x"],
        ["sinfo"],
        ["sinfo", "--noheader", "--format=%P|%c|%m|%l|%D|%t"],
        ["sinfo", "--noheader", "--Node", "--format=%N|%P|%c|%m|%l|%D|%T|%E"],
        ["sinfo", "--noheader", "--partition=nope"],
        ["sbatch", "--version"],
    ],
    ids=" ".join,
)
def test_commands(same: Compare, words: list[str]) -> None:
    same(lambda site: _answer(site, *words))


@pytest.mark.slurm(_ACCOUNTED)
def test_limits_of_the_site(same: Compare) -> None:
    def scenario(site: Site) -> list[str]:
        lines = site.call("scontrol", "show", "config").out.splitlines()
        names = ("MaxArraySize ", "MaxJobCount ", "MinJobAge ", "KillWait ", "DefMemPerCPU ", "SLURM_VERSION")
        return [line for line in lines if line.startswith(names)]

    same(scenario)


@pytest.mark.slurm(_ACCOUNTED)
def test_cancelling_what_runs(same: Compare) -> None:
    scripts = [
        "sleep 60",
        "trap 'echo told; exit 7' TERM; sleep 60 & wait",
        "trap 'echo told' TERM; sleep 60; sleep 61; sleep 62",
    ]

    def scenario(site: Site) -> list[Any]:
        jobs = [site.submit(script) for script in scripts]
        for job in jobs:
            site.wait_for_state(job, "RUNNING")
        answer = _answer(site, "scancel", *jobs)
        site.wait(lambda: "COMPLETING" in site.states(jobs[2]))
        completing = site.control(jobs[2])
        for job in jobs:
            site.wait_for_end(job)
        again = _answer(site, "scancel", *jobs)
        return [answer, completing, again, *({**site.view(job), "output": site.output(job)} for job in jobs)]

    same(scenario)


@pytest.mark.slurm(_ACCOUNTED)
def test_cancelling_parts_of_an_array(same: Compare) -> None:
    def scenario(site: Site) -> list[Any]:
        job = site.submit("sleep 60", "--array=0-6%2")
        site.wait(lambda: site.states(job).count("RUNNING") == 2)
        site.wait_for_reason_of_waiting(job)
        seen: list[Any] = [site.view(job)]
        for tasks in ("5", "0", "99", "[3-4]"):
            seen.append(_answer(site, "scancel", f"{job}_{tasks}"))
            site.wait(lambda: "COMPLETING" not in site.states(job) and site.states(job).count("RUNNING") == 2)
        site.wait_for_reason_of_waiting(job)
        seen.append([site.queue(job), site.control(job)])
        seen.append(_answer(site, "scancel", job))
        site.wait_for_end(job)
        seen.append(site.view(job))
        return seen

    same(scenario)


@pytest.mark.slurm(_ACCOUNTED)
def test_cancelling_what_waits(same: Compare) -> None:
    def scenario(site: Site) -> list[Any]:
        single = site.submit("true", "--hold")
        some = site.submit("true", "--hold", "--array=0-3")
        every = site.submit("true", "--hold", "--array=0-3")
        answers = [
            _answer(site, "scancel", single),
            _answer(site, "scancel", f"{some}_1"),
            site.queue(some),
            _answer(site, "scancel", f"{some}_[0,2-3]"),
            _answer(site, "scancel", every),
        ]
        for job in (single, some, every):
            site.wait_for_end(job)
        return [answers, *(site.view(job) for job in (single, some, every))]

    same(scenario)


@pytest.mark.slurm(_ACCOUNTED)
def test_what_jobs_wait_for(same: Compare) -> None:
    def scenario(site: Site) -> list[Any]:
        running = site.submit("sleep 60", "--exclusive", "--cpus-per-task=8", f"--nodelist={site.nodes[0]}")
        site.wait_for_state(running, "RUNNING")
        failed = site.submit("exit 1")
        site.wait_for_end(failed)
        waiting = {
            "Resources": site.submit("true", "--cpus-per-task=8", f"--nodelist={site.nodes[0]}"),
            "PartitionTimeLimit": site.submit("true", "--partition=small", "--time=10"),
            "JobHeldUser": site.submit("true", "--hold"),
            "BeginTime": site.submit("true", "--begin=now+1hour"),
            "Dependency": site.submit("true", f"--dependency=afterok:{running}"),
            "DependencyNeverSatisfied": site.submit("true", f"--dependency=afterok:{failed}"),
            "PartitionNodeLimit": site.submit("true", "--partition=small", "--nodes=2"),
        }
        for reason, job in waiting.items():
            site.wait_for_reason(job, reason)
        cancelled = site.submit("true", f"--dependency=afterok:{failed}", "--kill-on-invalid-dep=yes")
        unknown = site.submit("true", "--dependency=afterok:99999999")
        for job in (cancelled, unknown):
            site.wait_for_end(job)
        seen = [
            *([site.queue(job), site.control(job)] for job in waiting.values()),
            site.view(cancelled),
            site.view(unknown),
            _answer(site, "scontrol", "release", waiting["JobHeldUser"]),
        ]
        site.wait_for_end(waiting["JobHeldUser"])
        site.call("scancel", running, *waiting.values())
        for job in waiting.values():
            site.wait_for_end(job)
        return [*seen, *(site.queue(job) for job in waiting.values())]

    same(scenario)


@pytest.mark.slurm(_ACCOUNTED)
def test_out_of_memory_when_slurm_looks(same: Compare) -> None:
    def scenario(site: Site) -> Any:
        seen = _ended(site, f"{_BIG}\necho went on $?", "--mem=100")
        # How often it is said depends on how often it is looked at.
        seen["output"] = sorted(set(seen["output"].splitlines()))
        return seen

    same(scenario)


@pytest.mark.slurm(Settings(memory_kill=MemoryKill.CGROUP))
def test_out_of_memory_when_the_kernel_looks(same: Compare) -> None:
    same(lambda site: _ended(site, f"{_BIG}\necho went on $?", "--mem=100"))


@pytest.mark.slurm(Settings(memory_kill=MemoryKill.CGROUP))
def test_steps_out_of_memory_when_the_kernel_looks(same: Compare) -> None:
    step = "srun --exact --nodes=1 --ntasks=1 --cpus-per-task=1 --mem=100"
    script = f'{step} sh -c "$BIG; echo went on"; echo srun $?; {step} sh -c "exec $BIG"; echo srun $?'

    def scenario(site: Site) -> Any:
        seen = _ended(site, f"BIG={_quoted(_BIG)}\n{script}", "--mem=500", "--cpus-per-task=2")
        seen["output"] = sorted(seen["output"].splitlines())
        return seen

    same(scenario)


def _quoted(text: str) -> str:
    return '"' + text + '"'


@pytest.mark.slurm(_ACCOUNTED)
def test_steps(same: Compare) -> None:
    step = "srun --exact --nodes=1 --ntasks=1 --cpus-per-task=1 --mem=100"
    script = f"""
    {step} sh -c 'exit 5'; echo srun $?
    {step} sh -c 'kill -KILL $$'; echo srun $?
    {step} pwd
    {step} /no/such/program; echo srun $?
    srun --exact --ntasks=1 --mem=5000 true; echo srun $?
    srun --exact --ntasks=1 --cpus-per-task=4 true; echo srun $?
    echo word | {step} cat
    {step} --input=none cat; echo srun $?
    """

    def scenario(site: Site) -> Any:
        seen = _ended(site, script, "--mem=500", "--cpus-per-task=2")
        seen["output"] = sorted(seen["output"].splitlines())  # slurmstepd and srun speak in no order
        return seen

    same(scenario)


@pytest.mark.slurm(_ACCOUNTED)
def test_steps_run_at_the_same_time(same: Compare) -> None:
    step = "srun --exact --nodes=1 --ntasks=1 --cpus-per-task=1 --mem=100"
    wait = "until [ -e {other} ]; do sleep 0.05; done"
    script = f"""
    {step} sh -c ': >a; {wait.format(other="b")}' &
    {step} sh -c ': >b; {wait.format(other="a")}' &
    wait; echo both
    """
    same(lambda site: _ended(site, script, "--mem=200", "--cpus-per-task=2"))


@pytest.mark.slurm(_ACCOUNTED)
def test_a_node_fails(same: Compare) -> None:
    def scenario(site: Site) -> list[Any]:
        node = site.nodes[1]
        once = site.submit("sleep 60", f"--nodelist={node}", "--no-requeue")
        again = site.submit("sleep 60", f"--nodelist={node}", "--requeue")
        for job in (once, again):
            site.wait_for_state(job, "RUNNING")
        answers = [_answer(site, "scontrol", "update", f"nodename={node}", "state=down", "reason=test")]
        site.wait_for_state(once, "NODE_FAIL")
        site.wait_for_reason(again, "BeginTime")
        waits = site.submit("true", f"--nodelist={node}")
        site.wait_for_reason(waits, "ReqNodeNotAvail, UnavailableNodes:<node 2>")
        answers.append(_answer(site, "sinfo", "--noheader", "--Node", "--format=%N|%P|%t|%E"))
        site.wait(lambda: len(site.accounted(again, "--duplicates")) == 2)
        seen = [site.view(once), site.view(again, "--duplicates"), site.queue(waits), site.control(waits)]
        site.call("scancel", once, again, waits)
        site.call("scontrol", "update", f"nodename={node}", "state=resume")
        site.wait(lambda: "down" not in site.call("sinfo", "--noheader", "--format=%t").out)
        return [*answers, *seen]

    same(scenario)


@pytest.mark.slurm(_ACCOUNTED)
def test_a_job_is_requeued(same: Compare) -> None:
    def scenario(site: Site) -> list[Any]:
        job = site.submit("sleep 60", "--requeue")
        fixed = site.submit("sleep 60", "--no-requeue")
        for each in (job, fixed):
            site.wait_for_state(each, "RUNNING")
        answers = [_answer(site, "scontrol", "requeue", each) for each in (job, fixed)]
        site.wait_for_reason(job, "BeginTime")
        site.wait(lambda: len(site.accounted(job, "--duplicates")) == 2)
        seen = [site.view(job, "--duplicates"), site.output(job)]
        site.call("scancel", job, fixed)
        return [*answers, *seen]

    same(scenario)


@pytest.mark.slurm(_ACCOUNTED)
@pytest.mark.timeout(240)
def test_the_time_limit(same: Compare) -> None:
    def scenario(site: Site) -> Any:
        job = site.submit("sleep 200", "--time=1")
        site.wait(lambda: site.states(job) == ["TIMEOUT"], 120)
        site.wait_for_end(job)
        return {**site.view(job), "output": site.output(job)}

    same(lambda site: scenario(site))


@pytest.mark.slurm(_ACCOUNTED)
def test_limits_of_a_user(
    slurm_lab: SlurmLab, places: tuple[Path, Path, Path], request: pytest.FixtureRequest
) -> None:
    def scenario(site: Site) -> list[Any]:
        first = site.submit("sleep 60")
        site.wait_for_state(first, "RUNNING")
        second = site.submit("true")
        site.wait_for_reason(second)
        third = _answer(site, "sbatch", script="#!/bin/sh\ntrue\n")
        array = _answer(site, "sbatch", "--array=0-3", script="#!/bin/sh\ntrue\n")
        seen = [site.queue(second), third, array]
        site.call("scancel", first, second)
        return seen

    real, dummy, cluster = places
    slurm_lab.sacctmgr("modify", "user", "root", "set", "maxjobs=1", "maxsubmitjobs=2")
    request.addfinalizer(
        lambda: slurm_lab.sacctmgr("modify", "user", "root", "set", "maxjobs=-1", "maxsubmitjobs=-1")
    )
    expected = scenario(real_site(slurm_lab, real))
    limits = {"*": {"max_jobs": 1, "max_submit": 2}}
    with dummy_site(slurm_lab, dummy, cluster, users=limits) as site:
        assert scenario(site) == expected


@pytest.mark.slurm(Settings(min_job_age_s=2))
def test_records_vanish(slurm_lab: SlurmLab, places: tuple[Path, Path, Path]) -> None:
    def scenario(site: Site) -> list[Any]:
        job = site.submit("true")
        other = site.submit("sleep 90", "--array=0")
        site.wait_for_end(job)
        site.wait(lambda: site.call("squeue", "--states=all", f"--jobs={job}").code != 0, 90)
        seen = [
            site.view(job),
            _answer(site, "squeue", "--noheader", "--states=all", f"--jobs={job},{other}", "--format=%T"),
        ]
        site.call("scancel", other)
        return seen

    real, dummy, cluster = places
    expected = scenario(real_site(slurm_lab, real))
    with dummy_site(slurm_lab, dummy, cluster, min_job_age_s=2) as site:
        assert scenario(site) == expected


@pytest.mark.slurm(Settings())
def test_without_accounting(same: Compare) -> None:
    same(lambda site: [_answer(site, "sacct", "--jobs=1"), _ended(site, "true", "--account=whatever")])
