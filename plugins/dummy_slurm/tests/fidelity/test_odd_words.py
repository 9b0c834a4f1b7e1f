"""Words that make little sense: the dummy reads them as a real SLURM does, and goes on."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from tests.helpers.slurm_fixtures import Same
from tests.helpers.slurm_sites import ACCOUNTED, Answer, Site

_SCRIPT = "#!/bin/sh\ntrue\n"
_LINES = [
    "--time=3 \\",
    "--time=3\\",
    "--time=3 \\ ",
    "\\",
    "--comment=a\\ b",
    "--comment=a\\\\b",
    "--comment=a\\#b # c",
    "--comment=a#b --nope",
    '--comment="a b"c',
    '--comment="a # b" --time=3',
    "--comment='a\\'b'",
    '--comment="it\'s"',
    '--comment "" --time=3',
    '--comment "" --nope',
    '--comment="a \\',
    "--time=3 --comment='a \\",
    "--comment=\"it's\\",
    "# --nope",
]
_IDS = [
    *("_", "_x", "_[x]", "_[]", "_[3-2]", "_[1-x]", "_[1", "_1]", "_99", "_[0-1]x", "_1x", "x", "+1"),
    *("_0:2", "_[0-3:2]", "_[0-3%2]", "_1_2", "_[1,x]"),
]
_PARTS = ["_1-2", "_[1,3]", "_*"]
_LOOKING = [
    "squeue --noheader --format=%F|%K|%T --jobs",
    "scontrol show job",
    "sacct --noheader --state=FAILED --format=jobid --jobs",
]
_SIGNALS = [
    *(name.removeprefix("SIG") for name in signal.Signals.__members__ if name not in ("SIGKILL", "SIGSTOP")),
    *("foo", "", "0", "-0", "-1", "999", "65536", "1x", "usr1", "sigusr1", "SIGUSR1", "10", "34", "RTMIN+1"),
]
_NOT_UTF8 = [
    "sbatch --caf\udce9",
    "sbatch -\udce9",
    "sbatch --partition=\udce9",
    "sbatch --time=\udce9",
    "sbatch /tmp/\udce9",
    "squeue --name=\udce9",
    "squeue --jobs=\udce9",
    "squeue --noheader --states=\udce9",
    "squeue --format=%A\udce9",
    "scancel \udce9",
    "scancel --name=\udce9",
    "scontrol show job \udce9",
    "scontrol \udce9",
    "scontrol show hostnames a\udce9[1-2]",
    "sinfo --noheader --partition=\udce9",
]


@pytest.mark.slurm(ACCOUNTED)
def test_lines_of_scripts(same: Same) -> None:
    def scenario(site: Site) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        for line in _LINES:
            answer = site.call("sbatch", "--hold", "--parsable", script=f"#!/bin/sh\n#SBATCH {line}\ntrue\n")
            seen[line] = answer
            if answer.code == 0:
                job = answer.out.strip()
                seen[line] = site.call("squeue", "--noheader", f"--jobs={job}", "--format=%k|%l")
                site.call("scancel", job)
        return seen

    same(scenario)


@pytest.mark.slurm(ACCOUNTED)
def test_odd_job_ids(same: Same) -> None:
    def scenario(site: Site) -> list[Any]:
        seen: list[Any] = []
        for job in (site.submit("true", "--hold"), site.submit("true", "--hold", "--array=0-3")):

            def call(words: str, rest: str, job: str = job) -> list[Any]:
                answer = site.call(*words.split(), job + rest)
                shown = "found" if "JobId=" in answer.out else answer.out.replace(job, "J")
                return [words, rest, answer.code, shown, answer.err.replace(job, "J")]

            for rest in _IDS:
                seen += [call(words, rest) for words in (*_LOOKING, "scontrol hold", "scontrol requeue")]
            for rest in _PARTS:
                seen += [call(words, rest) for words in _LOOKING]
            seen.append(call("scontrol requeue", ""))
            for rest in _IDS + _PARTS:
                seen += [call("scancel", rest), site.queue(job)]
        return seen

    same(scenario)


@pytest.mark.slurm(ACCOUNTED)
def test_signals_that_there_are_none(same: Same) -> None:
    """None of the others is sent to a process that would end by it."""

    def scenario(site: Site) -> list[Any]:
        job = site.submit("exec env --ignore-signal sleep 60")
        site.wait_for_state(job, "RUNNING")
        seen: list[Any] = [(name, site.call("scancel", "--signal", name, job)) for name in _SIGNALS]
        seen += [site.call("scancel", "--signal=foo", *words) for words in ([], ["x"], ["--user=nope"])]
        seen.append(site.queue(job))
        site.call("scancel", job)
        return seen

    same(scenario)


@pytest.mark.slurm(ACCOUNTED)
def test_words_that_are_not_utf8(same: Same) -> None:
    def scenario(site: Site) -> dict[str, Answer]:
        seen = {}
        for words in _NOT_UTF8:
            seen[words] = site.call(
                "sh", "-c", f"{{ {words}; echo $?; }} 2>&1 | LC_ALL=C tr '\\351' '?'", script=_SCRIPT
            )
        given = "--comment=\udce9 --job-name=caf\udce9 --chdir=/tmp/\udce9"
        job = site.call("sh", "-c", f"sbatch --parsable --hold {given}", script=_SCRIPT).out.strip()
        shown = f"squeue --noheader --jobs={job} '--format=%j|%k|%Z' | LC_ALL=C tr '\\351' '?'"
        seen["job"] = site.call("sh", "-c", shown)
        site.call("scancel", job)
        return seen

    same(scenario)
